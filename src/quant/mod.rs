//! Scales, bit widths and quantizers: float ↔ code, written once (PTQ4ViT, Eqs. 2, 4 and 5).
//!
//! Rounding is half to even everywhere (ONNX `QuantizeLinear`), and `x/Δ` is a division. Codes are signed
//! integers in units of the quantizer's smallest scale, so that `value = code · scale` for every quantizer.

mod slices;

pub use slices::{Codes, uniform_bytes};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A bit width k from 2 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "u8"))]
pub struct Bits(u8);

impl Bits {
    /// 8 bits.
    pub const MAX: Self = Self(8);

    /// 7 bits.
    pub const SEVEN: Self = Self(7);

    /// `k` bits; an error outside 2…8.
    pub fn new(k: u8) -> Result<Self> {
        if (2..=8).contains(&k) {
            Ok(Self(k))
        } else {
            Err(Error::usage(format!("{k} bits: expected 2 to 8")))
        }
    }

    /// k.
    pub fn get(self) -> u8 {
        self.0
    }

    /// `2^(k−1)`: the negated smallest uniform code, and the number of magnitudes of a twin range.
    pub fn half(self) -> i32 {
        1 << (self.0 - 1)
    }
}

impl TryFrom<u8> for Bits {
    type Error = Error;

    fn try_from(k: u8) -> Result<Self> {
        Self::new(k)
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> u8 {
        bits.0
    }
}

/// A scale Δ in real units, the distance between two codes: positive, finite and normal.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Scale(f32);

impl Scale {
    /// Δ; an error unless it is positive, finite and normal.
    pub fn new(delta: f32) -> Result<Self> {
        if delta.is_normal() && delta > 0.0 {
            Ok(Self(delta))
        } else {
            Err(Error::usage(format!("scale {delta}: expected a positive, finite, normal number")))
        }
    }

    /// `2^exponent`, for exponents of normal floats (−126…127).
    pub fn power_of_two(exponent: i32) -> Self {
        assert!((-126..=127).contains(&exponent), "2^{exponent} is no normal f32");
        Self(f32::from_bits(((exponent + 127) as u32) << 23))
    }

    /// Δ.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl TryFrom<f32> for Scale {
    type Error = Error;

    fn try_from(delta: f32) -> Result<Self> {
        Self::new(delta)
    }
}

impl From<Scale> for f32 {
    fn from(scale: Scale) -> f32 {
        scale.0
    }
}

/// Two scales in a power-of-two ratio: `coarse = fine · 2^shift` (Eq. 5).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwinScale {
    /// Δ of range R1.
    pub fine: Scale,
    /// m, from 0 to [`MAX_SHIFT`].
    #[serde(deserialize_with = "shift_in_range")]
    pub shift: u8,
}

fn shift_in_range<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let shift = u8::deserialize(from)?;
    let too_large = || serde::de::Error::custom(format!("shift {shift}: expected 0 to {MAX_SHIFT}"));
    if shift <= MAX_SHIFT { Ok(shift) } else { Err(too_large()) }
}

impl TwinScale {
    /// Δ of range R2.
    pub fn coarse(self) -> f32 {
        self.fine.get() * Scale::power_of_two(self.shift.into()).get()
    }

    /// Post-softmax scales: `Δ_R1 = 2^−(k+j)` and `Δ_R2 = 2^−(k−1)`. The search tries every j in 0…10.
    pub fn softmax(bits: Bits, j: u8) -> Self {
        Self { fine: Scale::power_of_two(-i32::from(bits.get() + j)), shift: j + 1 }
    }

    /// Post-GELU scales for a given `Δ_R2`: the largest `m ≥ 0` for which `(2^(k−1)−1)·Δ_R2·2^−m` covers
    /// `reach`, the largest magnitude of the activation's negative range (in real units).
    pub fn gelu(bits: Bits, coarse: Scale, reach: f32) -> Result<Self> {
        let magnitudes = (bits.half() - 1) as f32;
        let covers = |m: u8| magnitudes * (coarse.get() / Scale::power_of_two(m.into()).get()) >= reach;
        let shift = (1..=MAX_SHIFT).take_while(|&m| covers(m)).last().unwrap_or(0);
        Ok(Self { fine: Scale::new(coarse.get() / Scale::power_of_two(shift.into()).get())?, shift })
    }
}

/// The largest m of a twin: keeps `(2^(k−1)−1) << m` far inside i32.
pub const MAX_SHIFT: u8 = 16;

/// How one operand becomes k-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Quantizer {
    /// Eq. (2): `clamp(round(x/Δ), −2^(k−1), 2^(k−1)−1)`.
    Uniform {
        /// Δ.
        scale: Scale,
        /// k.
        bits: Bits,
    },
    /// Eq. (4) after Softmax: R1 = `[0, 2^(k−1)·fine)`, R2 above it with `coarse = 2^−(k−1)`.
    TwinSoftmax {
        /// Both scales.
        scale: TwinScale,
        /// k.
        bits: Bits,
    },
    /// Eq. (4) after GELU: R1 holds x < 0, R2 holds x ≥ 0.
    TwinGelu {
        /// Both scales.
        scale: TwinScale,
        /// k.
        bits: Bits,
    },
}

impl Quantizer {
    /// k.
    pub fn bits(self) -> Bits {
        match self {
            Self::Uniform { bits, .. } | Self::TwinSoftmax { bits, .. } | Self::TwinGelu { bits, .. } => bits,
        }
    }

    /// The same range in codes of `bits`; an error if a scale would be too small.
    pub fn with_bits(self, to: Bits) -> Result<Self> {
        let factor = Scale::power_of_two(i32::from(self.bits().get()) - i32::from(to.get())).get();
        let finer = |scale: Scale| Scale::new(scale.get() * factor);
        let twin = |scale: TwinScale| Ok::<_, Error>(TwinScale { fine: finer(scale.fine)?, ..scale });
        Ok(match self {
            Self::Uniform { scale, .. } => Self::Uniform { scale: finer(scale)?, bits: to },
            Self::TwinSoftmax { scale, .. } => Self::TwinSoftmax { scale: twin(scale)?, bits: to },
            Self::TwinGelu { scale, .. } => Self::TwinGelu { scale: twin(scale)?, bits: to },
        })
    }

    /// Both scales of a twin; `None` if it is uniform.
    pub fn twin(self) -> Option<TwinScale> {
        match self {
            Self::Uniform { .. } => None,
            Self::TwinSoftmax { scale, .. } | Self::TwinGelu { scale, .. } => Some(scale),
        }
    }

    /// The smallest scale, in real units: `value = code · scale`.
    pub fn scale(self) -> f32 {
        match self {
            Self::Uniform { scale, .. } => scale.get(),
            Self::TwinSoftmax { scale, .. } | Self::TwinGelu { scale, .. } => scale.fine.get(),
        }
    }

    /// The largest `|code|`.
    pub fn max_abs_code(self) -> i32 {
        let half = self.bits().half();
        self.twin().map_or(half, |twin| (half - 1) << twin.shift)
    }

    /// The code of `x` in units of [`scale`](Self::scale): for a twin `a + (b << m)` of Eq. (5).
    #[inline]
    pub fn code(self, x: f32) -> i32 {
        let coarse = |scale: TwinScale, bits| magnitude(x, scale.coarse(), bits) << scale.shift;
        match self {
            Self::Uniform { scale, bits } => uniform_code(x, scale.get(), bits),
            Self::TwinSoftmax { scale, bits } if x >= bits.half() as f32 * scale.fine.get() => {
                coarse(scale, bits)
            }
            Self::TwinSoftmax { scale, bits } => magnitude(x, scale.fine.get(), bits),
            Self::TwinGelu { scale, bits } if x >= 0.0 => coarse(scale, bits),
            Self::TwinGelu { scale, bits } => -magnitude(x.abs(), scale.fine.get(), bits),
        }
    }

    /// The value that stands for `x`: `code(x) · scale`.
    #[inline]
    pub fn fake_quant(self, x: f32) -> f32 {
        self.code(x) as f32 * self.scale()
    }
}

/// Eq. (2).
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn uniform_code(x: f32, delta: f32, bits: Bits) -> i32 {
    let half = bits.half() as f32;
    round_half_even((x / delta).clamp(-half, half - 1.0))
}

/// One range of Eq. (4): `clamp(round(x/Δ), 0, 2^(k−1)−1)`.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn magnitude(x: f32, delta: f32, bits: Bits) -> i32 {
    round_half_even((x / delta).clamp(0.0, (bits.half() - 1) as f32))
}

/// `x`, of magnitude below 2^22, rounded half to even. Adding 1.5·2^23 leaves no room for a fraction, so the
/// addition itself rounds; unlike `round_ties_even` this vectorizes on every CPU.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn round_half_even(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(k: u8) -> Bits {
        Bits::new(k).unwrap()
    }

    #[test]
    fn uniform_follows_equation_2() {
        let cases = [
            (8, 0.5, 0.25, 0), // half to even
            (8, 0.5, 0.75, 2),
            (8, 0.5, -0.75, -2),
            (8, 1.0, 127.6, 127),
            (8, 1.0, -1e9, -128),
            (4, 1.0, 9.0, 7),
            (4, 1.0, -9.0, -8),
            (2, 0.1, 1.0, 1),
        ];
        for (k, delta, x, code) in cases {
            let q = Quantizer::Uniform { scale: Scale::new(delta).unwrap(), bits: bits(k) };
            assert_eq!(q.code(x), code, "k={k} Δ={delta} x={x}");
        }
    }

    #[test]
    fn twin_softmax_follows_equation_4() {
        // k = 4: Δ_R1 = 2^-(4+1), Δ_R2 = 2^-3, R1 = [0, 8/32).
        let q = Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits(4), 1), bits: bits(4) };
        assert_eq!(q.scale(), 1.0 / 32.0);
        let below = f32::from_bits(0.25f32.to_bits() - 1);
        let cases = [
            (0.0, 0),
            (3.0 / 32.0, 3),
            (below, 7), // rounds to 8, which R1 cannot hold
            (0.25, 2 << 2),
            (1.0, 7 << 2),
        ];
        for (x, code) in cases {
            assert_eq!(q.code(x), code, "x={x}");
        }
    }

    #[test]
    fn more_bits_make_the_same_range_finer() {
        let uniform = Quantizer::Uniform { scale: Scale::new(0.5).unwrap(), bits: bits(4) };
        assert_eq!(
            uniform.with_bits(bits(8)).unwrap(),
            Quantizer::Uniform { scale: Scale::new(0.03125).unwrap(), bits: bits(8) }
        );
        let softmax = |k| Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits(k), 3), bits: bits(k) };
        assert_eq!(softmax(4).with_bits(bits(8)).unwrap(), softmax(8));
        assert_eq!(softmax(6).with_bits(bits(6)).unwrap(), softmax(6));
    }

    #[test]
    fn twin_gelu_takes_the_largest_shift_that_covers_the_negative_range() {
        for k in 3..=8 {
            for coarse in [1e-4f32, 0.003, 0.05, 0.7] {
                let reach = 0.17;
                let s = TwinScale::gelu(bits(k), Scale::new(coarse).unwrap(), reach).unwrap();
                let covered = |m: i32| (bits(k).half() - 1) as f32 * coarse / 2f32.powi(m) >= reach;
                assert!(s.shift == 0 || covered(s.shift.into()), "k={k} Δ2={coarse}");
                assert!(!covered(i32::from(s.shift) + 1), "k={k} Δ2={coarse}: a larger m covers too");
                assert_eq!(s.coarse(), coarse);
            }
        }
    }

    fn any_quantizer() -> impl Strategy<Value = Quantizer> {
        let scale = (-12i32..3, 1.0f32..2.0).prop_map(|(e, f)| Scale::new(f * 2f32.powi(e)).unwrap());
        (0..3, 2u8..=8, scale, 0u8..=10).prop_map(|(kind, k, scale, j)| match kind {
            0 => Quantizer::Uniform { scale, bits: bits(k) },
            1 => Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits(k), j), bits: bits(k) },
            _ => Quantizer::TwinGelu { scale: TwinScale::gelu(bits(k), scale, 0.17).unwrap(), bits: bits(k) },
        })
    }

    proptest! {
        #[test]
        fn no_code_exceeds_the_largest(q in any_quantizer(), x in -4.0f32..4.0) {
            let x = if matches!(q, Quantizer::TwinSoftmax { .. }) { x.abs() / 4.0 } else { x };
            prop_assert!(q.code(x).abs() <= q.max_abs_code());
        }

        /// Not so for the post-softmax twin: just above R1 the coarse scale may round to zero, as in the paper.
        #[test]
        fn codes_are_monotonic(q in any_quantizer(), x in -1.0f32..1.0, d in 0.0f32..0.5) {
            prop_assume!(!matches!(q, Quantizer::TwinSoftmax { .. }));
            prop_assert!(q.code(x) <= q.code(x + d));
        }
    }
}
