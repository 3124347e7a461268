//! Loops compiled twice: for any processor that the program runs on, and for those with AVX2, BMI and FMA, chosen when
//! they are called. Programs are built for x86-64-v2, since virtual machines with a default CPU model have no more.
//!
//! Both give the same bits: the compiler neither reorders nor contracts floating-point arithmetic, whatever
//! instructions it may use.

use std::sync::atomic::{AtomicU8, Ordering};

/// Not asked yet, plain, wide.
static STATE: AtomicU8 = AtomicU8::new(0);
const PLAIN: u8 = 1;
const WIDE: u8 = 2;

/// Whether functions are to be wide: the processor has AVX2, BMI1, BMI2 and FMA. Asked once; further calls cost a load.
#[inline(always)]
pub fn is_wide() -> bool {
    match STATE.load(Ordering::Relaxed) {
        0 => {
            use_wide(true);
            STATE.load(Ordering::Relaxed) == WIDE
        }
        state => state == WIDE,
    }
}

/// Has functions be plain or, where the processor can, wide from now on, in the whole process: for tests and benchmarks
/// that compare them.
pub fn use_wide(wide: bool) {
    STATE.store(if wide && has_features() { WIDE } else { PLAIN }, Ordering::Relaxed);
}

fn has_features() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Defines functions that are compiled twice, as this module says. Bodies see nothing but their arguments; what they
/// call is compiled twice, too, where it is `#[inline(always)]`.
#[macro_export]
macro_rules! wide {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,bmi1,bmi2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if $crate::wide::is_wide() {
                    // SAFETY: the processor was asked, it has all of these features.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    )*};
}

#[cfg(test)]
mod tests {
    wide! {
        fn sum(values: &[f64]) -> f64 {
            values.iter().fold(0.0, |sum, v| sum + v * 3.0)
        }
    }

    #[test]
    fn both_ways_give_the_same_bits() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i) * 0.1).collect();
        let mut expected = 0.0;
        for v in &values {
            expected += v * 3.0;
        }
        for wide in [true, false, true] {
            super::use_wide(wide);
            assert!(wide || !super::is_wide());
            assert_eq!(sum(&values).to_bits(), f64::to_bits(expected));
        }
    }
}
