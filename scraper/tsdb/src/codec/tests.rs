use proptest::prelude::*;

use super::*;

/// A small generator, so that shapes can be drawn from one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

const SPECIAL: [u64; 12] = [
    0x7ff0_0000_0000_0002, // stale
    0x7ff8_0000_0000_0001,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_dead_beef, // some payload
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x8000_0000_0000_0000, // -0
    0x0000_0000_0000_0001, // the least subnormal
    0x800f_ffff_ffff_ffff,
    0x7fef_ffff_ffff_ffff, // the greatest
    0x4340_0000_0000_0000, // 2^53
    0x4320_0000_0000_0000, // 2^51
];

/// Columns of the shapes that metrics have, and some that none has.
fn column(seed: u64, shape: u64, len: usize, specials: u64) -> Vec<f64> {
    let mut random = Random(seed | 1);
    let power = numbers::POWERS[random.below(10) as usize];
    let shift = random.below(45) + 8;
    let mut at = (random.next() >> (20 + random.below(30))) as i64;
    let mut slope = 0i64;
    (0..len)
        .map(|i| {
            if specials > 0 && random.below(specials) == 0 {
                return f64::from_bits(SPECIAL[random.below(12) as usize]);
            }
            match shape {
                0 => f64::from_bits(random.next()),
                1 => {
                    at += (random.next() >> (shift + 3).max(14)) as i64;
                    at as f64 / power
                }
                2 => random.below(5) as f64,
                3 => {
                    if random.below(30) == 0 {
                        at = random.next() as i64;
                    }
                    at as f64
                }
                4 => {
                    at = at.wrapping_add(random.next() as i64 >> shift);
                    at as f64 / power
                }
                5 => (random.below(2000) as f64 - 1000.0) * 4096.0,
                6 => {
                    at = if random.below(100) == 0 { 0 } else { at.wrapping_add(random.below(1000) as i64) };
                    at as f64 / 100.0
                }
                7 => 1.79e9 + i as f64 * 15.0 + random.below(1_000_000) as f64 / 1e9,
                8 => (random.next() as f64 / 1e19).exp(),
                9 => {
                    slope += random.below(7) as i64 - 3;
                    at = at.wrapping_add(slope);
                    at as f64
                }
                10 => (i as f64 * 123.456).floor() + random.below(9) as f64,
                11 => f64::from_bits((random.next() % 3) << 62),
                12 => {
                    if random.below(4) == 0 {
                        at += random.below(50) as i64;
                    }
                    at as f64 / 10.0
                }
                _ => f64::from_bits(random.below(1 << 20)),
            }
        })
        .collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Encodes, decodes, compares bit by bit; returns the encoded form.
fn check(values: &[f64], effort: Effort) -> Vec<u8> {
    let mut bytes = vec![];
    encode_column(values, effort, &mut bytes);
    let mut out = vec![7.0];
    decode_column(&bytes, values.len(), &mut out).unwrap();
    assert_eq!(out[0], 7.0);
    assert_eq!(bits(&out[1..]), bits(values));
    let constant = values.first().is_some_and(|f| values.iter().all(|v| v.to_bits() == f.to_bits()));
    assert_eq!(column_constant(&bytes).map(f64::to_bits), constant.then(|| values[0].to_bits()));
    assert!(bytes.len() <= 8 * values.len() + 1, "{} bytes for {} values", bytes.len(), values.len());
    bytes
}

fn any_column() -> impl Strategy<Value = Vec<f64>> {
    let len = prop_oneof![1 => 0usize..5, 3 => 0usize..70, 3 => 0usize..500, 1 => 0usize..=MAX_COLUMN];
    let specials = prop_oneof![Just(0u64), Just(2), Just(40), Just(400)];
    (any::<u64>(), 0u64..14, len, specials).prop_map(|(seed, shape, len, specials)| column(seed, shape, len, specials))
}

fn efforts() -> impl Strategy<Value = Effort> {
    prop_oneof![Just(Effort::Fast), Just(Effort::Best)]
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(n) }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn every_column_comes_back(values in any_column(), effort in efforts()) {
        check(&values, effort);
    }

    #[test]
    fn any_bits_come_back(raw in proptest::collection::vec(any::<u64>(), 0..40), effort in efforts()) {
        check(&raw.iter().map(|b| f64::from_bits(*b)).collect::<Vec<_>>(), effort);
    }

    /// Damaged columns give an error or a column of the asked length, and leave nothing behind on an error.
    #[test]
    fn damage_never_panics(
        values in any_column(),
        effort in efforts(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        len in proptest::option::of(0usize..=MAX_COLUMN),
    ) {
        let mut bytes = check(&values, effort);
        for (at, byte) in damage.iter().filter(|_| !values.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if let Some(cut) = cut.filter(|_| !values.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        let len = len.unwrap_or(values.len());
        let mut out = vec![];
        match decode_column(&bytes, len, &mut out) {
            Ok(()) => prop_assert_eq!(out.len(), len),
            Err(_) => prop_assert!(out.is_empty()),
        }
        let mut out = vec![];
        match decode_timestamps(&bytes, len, &mut out) {
            Ok(()) => prop_assert_eq!(out.len(), len),
            Err(_) => prop_assert!(out.is_empty()),
        }
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), form in 0u8..128, len in 0usize..600) {
        let mut noise = vec![form, form % 16];
        noise.extend(bytes);
        let mut out = vec![];
        prop_assert!(decode_column(&noise, len, &mut out).is_err() || out.len() == len);
    }

    #[test]
    fn timestamps_come_back(seed in any::<u64>(), shape in 0u64..6, len in 0usize..500) {
        let mut random = Random(seed | 1);
        let mut at = 1_700_000_000_000i64;
        let timestamps: Vec<i64> = (0..len as i64).map(|i| match shape {
            0 => at + i * 15_000,
            1 => at + i * 15_000 + random.below(9) as i64,
            2 => { at += 14_990 + random.below(20) as i64; at }
            3 => random.next() as i64,
            4 => { at += 15_000 * (1 + (random.below(20) / 19) as i64); at }
            _ => if i % 2 == 0 { i64::MIN } else { i64::MAX },
        }).collect();
        let mut bytes = vec![];
        encode_timestamps(&timestamps, &mut bytes);
        let mut out = vec![3];
        decode_timestamps(&bytes, len, &mut out).unwrap();
        prop_assert_eq!(&out[1..], &timestamps[..]);
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    /// Quotients are those of a division, to the last bit: near halves between two floats, too.
    #[test]
    fn divided_exactly(seed in any::<u64>(), shift in 12u32..63, e in 0usize..16) {
        let mut random = Random(seed | 1);
        let power = numbers::POWERS[e];
        let mut ints: Vec<i64> = (0..67).map(|_| random.next() as i64 >> shift).collect();
        ints.extend([0, 1, -1, 1 << 51, -1 << 51]);
        ints.extend((0..16).map(|i| (1 << 51) - i));
        // About products with what is just between two floats.
        let limit = (1i64 << 51) as f64;
        ints.extend((0..64).flat_map(|_| {
            let half = (random.below(1 << 53) as f64 + 0.5) * 0.5f64.powi(random.below(60) as i32);
            let product = (half * power) % limit;
            [product.floor() as i64, product.ceil() as i64]
        }));
        let expected: Vec<f64> = ints.iter().map(|i| *i as f64 / power).collect();
        for wide in [false, true] {
            narthex_model::wide::use_wide(wide);
            let mut found = vec![7.0];
            numbers::append_decimals(&ints, e as u8, &mut found);
            prop_assert_eq!(bits(&found[1..]), bits(&expected));
        }
    }
}

/// What a column of 480 may take at most, by shape.
#[test]
fn columns_are_small() {
    let mut random = Random(1);
    let mut noise = |n: u64| random.below(n) as f64;
    let mut total = 0.0;
    let cases: Vec<(&str, Vec<f64>, usize)> = vec![
        ("constant", vec![1.0; 480], 2),
        ("constant decimal", vec![0.05; 480], 3),
        ("line", (0..480).map(|i| 1e9 + 15.0 * f64::from(i)).collect(), 12),
        ("one change", (0..480).map(|i| if i < 300 { 5.0 } else { 6.0 }).collect(), 14),
        ("stale end", (0..480).map(|i| if i < 479 { 5.0 } else { f64::from_bits(SPECIAL[0]) }).collect(), 14),
        ("nan half", (0..480).map(|i| if i < 240 { 5.0 } else { f64::NAN }).collect(), 14),
        // 2 and 6 bits of noise are 120 and 360 bytes.
        ("four levels", (0..480).map(|_| noise(4)).collect(), 120 + 20),
        ("pages", (0..480).map(|_| 4096.0 * noise(64)).collect(), 360 + 30),
        (
            "rare steps",
            (0..480)
                .map(|i| {
                    total += if i % 7 == 0 { noise(3) } else { 0.0 };
                    total / 10.0
                })
                .collect(),
            45,
        ),
    ];
    for (name, values, limit) in cases {
        let bytes = check(&values, Effort::Best);
        let (len, form) = (bytes.len(), column_form(&bytes));
        assert!(name.starts_with("constant") == (form == "constant") && form != "unknown", "{name}: {form}");
        assert!(len <= limit, "{name}: {len} bytes, {limit} were enough");
    }
}

#[test]
fn too_long_is_refused() {
    assert_eq!(decode_column(&[0, 0], MAX_COLUMN + 1, &mut vec![]), Err(CodecError::TooLong(MAX_COLUMN + 1)));
    assert_eq!(decode_timestamps(&[0, 0], usize::MAX, &mut vec![]), Err(CodecError::TooLong(usize::MAX)));
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn parts_are_those_of_the_whole(
        values in any_column(), effort in efforts(), from in 0usize..=MAX_COLUMN, len in 0usize..=MAX_COLUMN
    ) {
        let mut bytes = Vec::new();
        encode_column(&values, effort, &mut bytes);
        let mut entries = Vec::new();
        put_entries(&bytes, values.len(), &mut entries);
        let from = from % (values.len() + 1);
        let range = from..(from + len).min(values.len());
        let mut scratch = Scratch::default();
        for entries in [&entries[..], &[]] {
            let mut out = vec![7.0];
            decode_part(&bytes, entries, values.len(), range.clone(), &mut scratch, &mut out).unwrap();
            prop_assert_eq!(bits(&out[1..]), bits(&values[range.clone()]));
        }
        prop_assert!(decode_part(&bytes, &entries, values.len(), 0..values.len() + 1, &mut scratch, &mut vec![]).is_err());
        if has_no_specials(&bytes) {
            prop_assert!(values.iter().all(|v| v.is_finite()));
        }
    }

    /// Whatever the processor has; also of columns that are damaged, where they decode at all.
    #[test]
    fn wide_and_plain_decode_alike(
        values in any_column(), effort in efforts(), from in 0usize..=MAX_COLUMN, damage in proptest::option::of(any::<(u64, u8)>())
    ) {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        encode_column(&values, effort, &mut bytes);
        put_entries(&bytes, values.len(), &mut entries);
        if let Some((at, with)) = damage.filter(|_| !bytes.is_empty()) {
            let at = (at % bytes.len() as u64) as usize;
            bytes[at] = with;
        }
        let from = from % (values.len() + 1);
        let decode = |wide: bool| {
            narthex_model::wide::use_wide(wide);
            let (mut out, mut whole) = (Vec::new(), Vec::new());
            let part = decode_part(&bytes, &entries, values.len(), from..values.len(), &mut Scratch::default(), &mut out);
            let all = decode_column(&bytes, values.len(), &mut whole);
            (part, all, bits(&out), bits(&whole))
        };
        let (plain, wide) = (decode(false), decode(true));
        prop_assert_eq!((plain.0, plain.1), (wide.0, wide.1));
        if damage.is_none() {
            prop_assert_eq!((&plain.2, &plain.3), (&wide.2, &wide.3));
        }
    }

    #[test]
    fn parts_of_damaged_columns_do_not_panic(
        values in any_column(), at in any::<u64>(), with in any::<u8>(), from in 0usize..=MAX_COLUMN, damage_entries in any::<bool>()
    ) {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        encode_column(&values, Effort::Best, &mut bytes);
        put_entries(&bytes, values.len(), &mut entries);
        let damaged = if damage_entries { &mut entries } else { &mut bytes };
        if !damaged.is_empty() {
            let at = (at % damaged.len() as u64) as usize;
            damaged[at] = with;
        }
        let from = from % (values.len() + 1);
        let mut out = Vec::new();
        let decoded = decode_part(&bytes, &entries, values.len(), from..values.len(), &mut Scratch::default(), &mut out);
        prop_assert_eq!(out.len(), if decoded.is_ok() { values.len() - from } else { 0 });
    }
}

/// Entries cost little, and a part is read without what is before.
#[test]
fn entries_are_small() {
    let mut random = Random(5);
    let mut at = 0;
    let values: Vec<f64> = (0..1440)
        .map(|_| {
            at += (0..6).map(|_| random.below(300)).sum::<u64>() as i64;
            at as f64 / 100.0
        })
        .collect();
    let (mut bytes, mut entries) = (Vec::new(), Vec::new());
    encode_column(&values, Effort::Best, &mut bytes);
    assert_eq!(column_form(&bytes), "huffman");
    put_entries(&bytes, values.len(), &mut entries);
    assert!(!entries.is_empty() && entries.len() * 30 < bytes.len(), "{} of {}", entries.len(), bytes.len());
    let mut scratch = Scratch::default();
    let mut out = Vec::new();
    decode_part(&bytes, &entries, values.len(), 1380..1400, &mut scratch, &mut out).unwrap();
    assert_eq!(bits(&out), bits(&values[1380..1400]));
    assert!(scratch.residuals_read() <= 256, "{} residuals were read", scratch.residuals_read());
}
