//! Compensated summation (Kahan with Neumaier's improvement), as Prometheus sums.

/// Adds `value` to the running sum and its compensation; the final result is `sum + compensation`.
#[inline(always)]
pub fn add(value: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let t = sum + value;
    let c = if t.is_infinite() {
        0.0
    } else if sum.abs() >= value.abs() {
        compensation + ((sum - t) + value)
    } else {
        compensation + ((value - t) + sum)
    };
    (t, c)
}

/// Subtracts likewise.
#[inline(always)]
pub fn sub(value: f64, sum: f64, compensation: f64) -> (f64, f64) {
    add(-value, sum, compensation)
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_what_plain_sums_lose() {
        let values = [1.0, 1e100, 1.0, -1e100];
        let (sum, c) = values.iter().fold((0.0, 0.0), |(s, c), v| super::add(*v, s, c));
        assert_eq!(sum + c, 2.0);
        assert_eq!(super::add(f64::MAX, f64::MAX, 5.0), (f64::INFINITY, 0.0));
    }
}
