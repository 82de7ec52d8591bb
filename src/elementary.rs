//! Elementary functions without branches or tables, so that LLVM vectorizes the loops around them.
// They must be inlined into what is compiled once per vector unit.
#![allow(clippy::inline_always)]

/// `erf(x)`, our own rational minimax approximation on |x| ≤ 3.92, where it is 1 to the last bit but one; absolute
/// error below 4e-7.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    const END: f32 = 3.92;
    // The first is nearly 2/√π.
    #[allow(clippy::approx_constant)]
    const P: [f32; 6] =
        [1.128_379, 0.192_765, 0.053_060_606, 0.003_868_367_3, 0.000_287_480_16, 2.034_726_8e-6];
    const Q: [f32; 6] = [1.0, 0.504_165_23, 0.115_085_01, 0.015_172_377, 0.001_188_124_5, 3.807_059_3e-5];
    let x = clamp(x, END);
    let t = x * x;
    x * horner(&P, t) / horner(&Q, t)
}

/// The constants of [`exp`].
pub struct Exp;

impl Exp {
    /// What is larger is taken for this, and what is smaller for its opposite.
    pub const END: f32 = 88.0;
    /// Below this, the result is zero.
    pub const ZERO: f32 = -87.0;
    /// 1.5·2^23: adding it rounds to an integer.
    pub const MAGIC: f32 = 12_582_912.0;
    /// ln 2 in two parts; this one has so few bits that its product with n is exact.
    pub const LN_2_HIGH: f32 = 355.0 / 512.0;
    /// The other part.
    pub const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Of degree 7.
    pub const TAYLOR: [f32; 8] =
        [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
}

/// `e^x`: `2^n·e^r`, |r| ≤ ln 2/2, the Taylor polynomial of degree 7. Zero below −87, and x is taken for 88 above it.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let bounded = clamp(x, Exp::END);
    let shifted = bounded * std::f32::consts::LOG2_E + Exp::MAGIC;
    let n = shifted - Exp::MAGIC;
    let r = bounded - n * Exp::LN_2_HIGH - n * Exp::LN_2_LOW;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(Exp::MAGIC.to_bits() as i32);
    let power = f32::from_bits((exponent.wrapping_add(127) << 23) as u32);
    let value = horner(&Exp::TAYLOR, r) * power;
    if x < Exp::ZERO { 0.0 } else { value }
}

/// `x` in `−end…end`; NaN stays.
#[inline(always)]
fn clamp(x: f32, end: f32) -> f32 {
    let x = if x > end { end } else { x };
    if x < -end { -end } else { x }
}

#[inline(always)]
fn horner<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut value = coefficients[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        value = value * x + coefficients[i];
    }
    value
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The Maclaurin series, in f64.
    pub(crate) fn exact_erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// From `-end` to `end`.
    pub(crate) fn points(end: f32) -> impl Iterator<Item = f32> {
        (-20_000..=20_000).map(move |i| end * i as f32 / 20_000.0)
    }

    #[test]
    fn functions_are_near_their_definitions() {
        let error = |x: f32| (f64::from(erf(x)) - exact_erf(x.into())).abs();
        assert!(points(6.0).map(error).fold(0.0, f64::max) < 4e-7);
        let relative = |x: f32| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
        assert!(points(86.9).map(relative).fold(0.0, f64::max) < 3e-7);
        assert_eq!([exp(-87.1), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp(1e9).is_finite() && exp(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }
}
