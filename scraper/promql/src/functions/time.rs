//! Functions of a date (UTC).

use narthex_model::gomath;

/// The function of that name, from seconds since the epoch.
pub(crate) fn of_date(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |v| (day_seconds(v) / 60 % 60) as f64,
        "hour" => |v| (day_seconds(v) / 3600) as f64,
        "day_of_week" => |v| (days(v) + 4).rem_euclid(7) as f64,
        "day_of_month" => |v| civil(days(v)).2 as f64,
        "day_of_year" => |v| {
            let (year, ..) = civil(days(v));
            (days(v) - days_from_civil(year, 1, 1) + 1) as f64
        },
        "days_in_month" => |v| {
            let (year, month, _) = civil(days(v));
            let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (days_from_civil(next_year, next, 1) - days_from_civil(year, month, 1)) as f64
        },
        "month" => |v| civil(days(v)).1 as f64,
        "year" => |v| civil(days(v)).0 as f64,
        _ => return None,
    })
}

/// Days from where Go's calendar begins, 1 March of the year -292,277,022,400, to 1970.
const GO_EPOCH: i64 = 730_692_556 * 146_097 + 719_468;

/// Seconds since the beginning of Go's calendar; what lies beyond its ends wraps around, as there.
fn go_seconds(v: f64) -> u64 {
    (gomath::to_i64(v) as u64).wrapping_add(GO_EPOCH as u64 * 86_400)
}

fn days(v: f64) -> i64 {
    (go_seconds(v) / 86_400) as i64 - GO_EPOCH
}

fn day_seconds(v: f64) -> i64 {
    (go_seconds(v) % 86_400) as i64
}

/// Year, month and day of a day since the epoch (Howard Hinnant's algorithm, proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = i128::from(days) + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    (year as i64, month as i64, day as i64)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = i128::from(year) - i128::from(month <= 2);
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted = i128::from(if month > 2 { month - 3 } else { month + 9 });
    let of_year = (153 * shifted + 2) / 5 + i128::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    (era * 146_097 + of_era - 719_468) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // 2024-02-29T23:59:59Z, a Thursday.
        let t = 1_709_251_199.0;
        for (name, expected) in [
            ("minute", 59.0),
            ("hour", 23.0),
            ("day_of_week", 4.0),
            ("day_of_month", 29.0),
            ("day_of_year", 60.0),
            ("days_in_month", 29.0),
            ("month", 2.0),
            ("year", 2024.0),
        ] {
            assert_eq!(of_date(name).unwrap()(t), expected, "{name}");
        }
        assert_eq!(of_date("year").unwrap()(-1.0), 1969.0);
        assert_eq!(of_date("hour").unwrap()(-1.0), 23.0);
        // What Prometheus answers on amd64.
        for v in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(of_date("month").unwrap()(v), 12.0, "{v}");
        }
    }
}
