//! `sort`, `sort_desc`, `sort_by_label`, `sort_by_label_desc`.

use std::cmp::Ordering;

/// By value, NaN last in either direction.
pub(crate) fn by_value(a: f64, b: f64, descending: bool) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => {
            let order = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            if descending { order.reverse() } else { order }
        }
    }
}

/// Sorts as Go's `slices.SortFunc` sorts up to 12 elements. With a comparison that contradicts itself, as that of labels
/// below does for empty ones, the outcome depends on the very steps; longer lists are sorted by `total`.
pub(crate) fn sort_as_go<T>(list: &mut [T], less: impl Fn(&T, &T) -> bool, total: impl Fn(&T, &T) -> Ordering) {
    if list.len() > 12 {
        list.sort_by(total);
        return;
    }
    for i in 1..list.len() {
        for j in (1..=i).rev() {
            if !less(&list[j], &list[j - 1]) {
                break;
            }
            list.swap(j, j - 1);
        }
    }
}

/// Natural order: runs of digits compare as numbers (as facette/natsort, which Prometheus uses); empty text comes first.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    if a.is_empty() || b.is_empty() {
        a.cmp(b)
    } else if natural_less(a, b) {
        Ordering::Less
    } else if natural_less(b, a) {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}

fn chunks(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut out, mut start) = (Vec::new(), 0);
    for i in 1..=bytes.len() {
        if i == bytes.len() || bytes[i].is_ascii_digit() != bytes[i - 1].is_ascii_digit() {
            out.push(&text[start..i]);
            start = i;
        }
    }
    out
}

/// Whether `a` comes before `b`; nothing comes before or behind empty text.
pub(crate) fn natural_less(a: &str, b: &str) -> bool {
    let (left, right) = (chunks(a), chunks(b));
    for (i, l) in left.iter().enumerate() {
        let Some(r) = right.get(i) else { return false };
        let digits = |t: &str| t.bytes().all(|c| c.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
        match (digits(l), digits(r)) {
            (Some(x), Some(y)) if x == y => {
                if i + 1 >= left.len() {
                    return true;
                }
                if i + 1 >= right.len() {
                    return false;
                }
            }
            (Some(x), Some(y)) => return x < y,
            _ => {
                if l == r {
                    if i + 1 >= left.len() {
                        return true;
                    }
                    if i + 1 >= right.len() {
                        return false;
                    }
                } else {
                    return l < r;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order() {
        let mut names = ["a10", "a2", "b1", "a1", "10", "9", "a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a", "a1", "a2", "a10", "b1"]);
    }
}
