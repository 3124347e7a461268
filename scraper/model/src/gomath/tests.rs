use super::*;

/// What Go 1.26 gives on amd64 with fused multiply-add: function, arguments and result, as bits. (Of NaN any bits.)
const GO: &str = include_str!("go.txt");

fn call(name: &str, x: f64, y: f64) -> f64 {
    match name {
        "exp" => exp(x),
        "exp2" => exp2(x),
        "log" => log(x),
        "log2" => log2(x),
        "log10" => log10(x),
        "sin" => sin(x),
        "cos" => cos(x),
        "tan" => tan(x),
        "asin" => asin(x),
        "acos" => acos(x),
        "atan" => atan(x),
        "sinh" => sinh(x),
        "cosh" => cosh(x),
        "tanh" => tanh(x),
        "asinh" => asinh(x),
        "acosh" => acosh(x),
        "atanh" => atanh(x),
        "pow" => pow(x, y),
        "atan2" => atan2(x, y),
        other => panic!("{other}"),
    }
}

fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[test]
fn as_go_computes() {
    // `NARTHEX_GOMATH` names a file with more cases.
    let more = std::env::var("NARTHEX_GOMATH").ok().and_then(|path| std::fs::read_to_string(path).ok());
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in more.as_deref().unwrap_or(GO).lines() {
        let mut parts = line.split(' ');
        let name = parts.next().unwrap_or_default();
        let mut bits = || f64::from_bits(u64::from_str_radix(parts.next().unwrap_or_default(), 16).unwrap_or_default());
        let (x, y, expected) = (bits(), bits(), bits());
        let result = call(name, x, y);
        count += 1;
        let same = result.to_bits() == expected.to_bits()
            || result.is_nan() && expected.is_nan()
            // Without fused multiply-add Go rounds otherwise, too.
            || !has_fma() && (result - expected).abs() <= 1e-14 * expected.abs();
        if !same {
            wrong.push(format!("{name}({x:e}, {y:e}) = {result:e}, not {expected:e}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
    assert!(count > 700);
}

/// The fused and the plain exponential differ in last digits only.
#[test]
#[cfg(target_arch = "x86_64")]
fn fused_and_plain() {
    if !has_fma() {
        return;
    }
    for i in -7000..7000 {
        let x = f64::from(i) / 10.0;
        let k = (LOG2_E * x).round_ties_even();
        // SAFETY: the processor has the features, as was asked above.
        let fused = unsafe { exp_fraction_fused(x, k) };
        let plain = exp_fraction_plain(x, k);
        assert!((fused - plain).abs() <= 1e-14 * fused, "{x}: {fused} {plain}");
    }
}
