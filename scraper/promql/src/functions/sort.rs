//! `sort`, `sort_desc`, `sort_by_label`, `sort_by_label_desc`.

/// Whether `a` comes before `b` by value. NaN comes last, and before other NaN, as Prometheus has it.
pub(crate) fn value_less(a: f64, b: f64, descending: bool) -> bool {
    b.is_nan() || if descending { b < a } else { b > a }
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

/// Sorts in the very steps of Go's `sort.Sort` and `slices.SortFunc` (Peters' pattern-defeating quicksort): they are not
/// stable, and Prometheus's comparisons contradict themselves (NaN, empty labels), so that the outcome depends on them.
pub(crate) fn sort_as_go<T>(list: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let length = list.len();
    let limit = usize::BITS - length.leading_zeros();
    Sorter { list, less: &less }.quick(0, length, limit);
}

struct Sorter<'l, T, L: Fn(&T, &T) -> bool> {
    list: &'l mut [T],
    less: &'l L,
}

/// What choosing a pivot tells of the order.
#[derive(Clone, Copy, PartialEq)]
enum Hint {
    Unknown,
    Increasing,
    Decreasing,
}

impl<T, L: Fn(&T, &T) -> bool> Sorter<'_, T, L> {
    fn less(&self, a: usize, b: usize) -> bool {
        (self.less)(&self.list[a], &self.list[b])
    }

    /// Sorts `a..b`; the depth is bounded by halving, or by `limit` where the halves are uneven.
    fn quick(&mut self, mut a: usize, mut b: usize, mut limit: u32) {
        let (mut balanced, mut partitioned) = (true, true);
        loop {
            let length = b - a;
            if length <= 12 {
                return self.insertion(a, b);
            }
            if limit == 0 {
                return self.heap(a, b);
            }
            if !balanced {
                self.break_patterns(a, b);
                limit -= 1;
            }
            let (mut pivot, mut hint) = self.choose_pivot(a, b);
            if hint == Hint::Decreasing {
                self.list[a..b].reverse();
                pivot = (b - 1) - (pivot - a);
                hint = Hint::Increasing;
            }
            if balanced && partitioned && hint == Hint::Increasing && self.partial_insertion(a, b) {
                return;
            }
            // The left neighbour is as large: many are equal.
            if a > 0 && !self.less(a - 1, pivot) {
                a = self.partition_equal(a, b, pivot);
                continue;
            }
            let (middle, already) = self.partition(a, b, pivot);
            partitioned = already;
            let (left, right) = (middle - a, b - middle);
            balanced = left.min(right) >= length / 8;
            if left < right {
                self.quick(a, middle, limit);
                a = middle + 1;
            } else {
                self.quick(middle + 1, b, limit);
                b = middle;
            }
        }
    }

    fn insertion(&mut self, a: usize, b: usize) {
        for i in a + 1..b {
            let mut j = i;
            while j > a && self.less(j, j - 1) {
                self.list.swap(j, j - 1);
                j -= 1;
            }
        }
    }

    fn heap(&mut self, a: usize, b: usize) {
        let length = b - a;
        for i in (0..=(length - 1) / 2).rev() {
            self.sift_down(i, length, a);
        }
        for i in (0..length).rev() {
            self.list.swap(a, a + i);
            self.sift_down(0, i, a);
        }
    }

    fn sift_down(&mut self, mut root: usize, end: usize, first: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.less(first + child, first + child + 1) {
                child += 1;
            }
            if !self.less(first + root, first + child) {
                return;
            }
            self.list.swap(first + root, first + child);
            root = child;
        }
    }

    /// The pivot's place, and whether those before it are smaller.
    fn partition(&mut self, a: usize, b: usize, pivot: usize) -> (usize, bool) {
        self.list.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        let mut first = true;
        loop {
            while i <= j && self.less(i, a) {
                i += 1;
            }
            while i <= j && !self.less(j, a) {
                j -= 1;
            }
            if i > j {
                self.list.swap(j, a);
                return (j, first);
            }
            self.list.swap(i, j);
            i += 1;
            j -= 1;
            first = false;
        }
    }

    /// Puts those equal to the pivot in front; where the others begin.
    fn partition_equal(&mut self, a: usize, b: usize, pivot: usize) -> usize {
        self.list.swap(a, pivot);
        let (mut i, mut j) = (a + 1, b - 1);
        loop {
            while i <= j && !self.less(a, i) {
                i += 1;
            }
            while i <= j && self.less(a, j) {
                j -= 1;
            }
            if i > j {
                return i;
            }
            self.list.swap(i, j);
            i += 1;
            j -= 1;
        }
    }

    /// Whether some shifts were enough.
    fn partial_insertion(&mut self, a: usize, b: usize) -> bool {
        let mut i = a + 1;
        for _ in 0..5 {
            while i < b && !self.less(i, i - 1) {
                i += 1;
            }
            if i == b {
                return true;
            }
            if b - a < 50 {
                return false;
            }
            self.list.swap(i, i - 1);
            if i - a >= 2 {
                let mut j = i - 1;
                while j >= 1 && self.less(j, j - 1) {
                    self.list.swap(j, j - 1);
                    j -= 1;
                }
            }
            if b - i >= 2 {
                let mut j = i + 1;
                while j < b && self.less(j, j - 1) {
                    self.list.swap(j, j - 1);
                    j += 1;
                }
            }
        }
        false
    }

    fn break_patterns(&mut self, a: usize, b: usize) {
        let length = b - a;
        if length < 8 {
            return;
        }
        let mut random = length as u64;
        let modulus = 1u64 << (u64::BITS - (length as u64).leading_zeros());
        let middle = a + length / 4 * 2;
        for i in middle - 1..=middle + 1 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = (random & (modulus - 1)) as usize;
            if other >= length {
                other -= length;
            }
            self.list.swap(i, a + other);
        }
    }

    fn choose_pivot(&self, a: usize, b: usize) -> (usize, Hint) {
        let length = b - a;
        let quarter = length / 4;
        let (mut i, mut j, mut k) = (a + quarter, a + quarter * 2, a + quarter * 3);
        let mut swaps = 0;
        if length >= 50 {
            i = self.median(i - 1, i, i + 1, &mut swaps);
            j = self.median(j - 1, j, j + 1, &mut swaps);
            k = self.median(k - 1, k, k + 1, &mut swaps);
        }
        j = self.median(i, j, k, &mut swaps);
        let hint = match swaps {
            0 => Hint::Increasing,
            12 => Hint::Decreasing,
            _ => Hint::Unknown,
        };
        (j, hint)
    }

    fn median(&self, a: usize, b: usize, c: usize, swaps: &mut u32) -> usize {
        let mut order = |a: usize, b: usize| {
            if self.less(b, a) {
                *swaps += 1;
                (b, a)
            } else {
                (a, b)
            }
        };
        let (a, b) = order(a, b);
        let (b, _) = order(b, c);
        order(a, b).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order() {
        let mut names = ["a10", "a2", "b1", "a1", "10", "9", "a"];
        sort_as_go(&mut names, |a, b| natural_less(a, b));
        assert_eq!(names, ["9", "10", "a", "a1", "a2", "a10", "b1"]);
    }

    /// What Go's `sort.Sort` makes of lists with many equal keys: keys and the places in which they end.
    const GO: &str = include_str!("sort/go.txt");

    #[test]
    fn as_go_sorts() {
        let numbers = |text: &str| -> Vec<u32> { text.split(',').filter_map(|n| n.parse().ok()).collect() };
        for line in GO.lines() {
            let (keys, places) = line.split_once(' ').unwrap_or_default();
            let mut list: Vec<(u32, u32)> = (0..).zip(numbers(keys)).map(|(i, key)| (key, i)).collect();
            sort_as_go(&mut list, |a, b| a.0 < b.0);
            assert_eq!(list.iter().map(|(_, i)| *i).collect::<Vec<_>>(), numbers(places), "{keys}");
        }
        assert_eq!(GO.lines().count(), 40);
    }

    #[test]
    fn nan_last() {
        let mut values = [f64::NAN, 1.0, f64::INFINITY, f64::NAN, -1.0];
        sort_as_go(&mut values, |a, b| value_less(*a, *b, true));
        assert_eq!(values[..3], [f64::INFINITY, 1.0, -1.0]);
        assert!(values[3].is_nan() && values[4].is_nan());
    }
}
