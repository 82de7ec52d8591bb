//! Quantization of whole slices to the i16 codes that the integer kernels take.

use super::{Bits, Quantizer, Scale, TwinScale, magnitude, uniform_code};

/// The codes of a slice of floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Codes {
    /// One code an element, in units of the quantizer's smallest step.
    Fused(Vec<i16>),
    /// A twin whose fused codes `a + (b << m)` do not fit the kernels: `a` and `b` apart.
    Split {
        /// The codes of range R1, 0 where the element is in R2.
        fine: Vec<i16>,
        /// The magnitudes of range R2, 0 where the element is in R1.
        coarse: Vec<i16>,
        /// m.
        shift: u8,
    },
}

/// The codes of a uniform quantizer, Eq. (2); as many as the shorter slice holds.
pub fn uniform_codes(xs: &[f32], scale: Scale, bits: Bits, codes: &mut [i16]) {
    codes.iter_mut().zip(xs).for_each(|(code, &x)| *code = uniform_code(x, scale.get(), bits) as i16);
}

impl Quantizer {
    /// The codes of `xs`; fused if every possible `|code| ≤ max_fused` (at most `i16::MAX`), else split.
    pub fn codes(self, xs: &[f32], max_fused: i32) -> Codes {
        let fused = self.max_abs_code() <= max_fused.min(i16::MAX.into());
        match self {
            Self::Uniform { scale, bits } => {
                let mut codes = vec![0; xs.len()];
                uniform_codes(xs, scale, bits, &mut codes);
                Codes::Fused(codes)
            }
            Self::TwinSoftmax { .. } | Self::TwinGelu { .. } if fused => {
                Codes::Fused(self.twin_codes(xs, |shift, fine, coarse| (fine + (coarse << shift)) as i16))
            }
            Self::TwinSoftmax { scale, .. } | Self::TwinGelu { scale, .. } => Codes::Split {
                fine: self.twin_codes(xs, |_, fine, _| fine as i16),
                coarse: self.twin_codes(xs, |_, _, coarse| coarse as i16),
                shift: scale.shift,
            },
        }
    }

    /// `join(m, a, b)` of every element, where one of `a` and `b` is 0. Free of branches, so that it vectorizes.
    fn twin_codes(self, xs: &[f32], join: impl Fn(u8, i32, i32) -> i16) -> Vec<i16> {
        match self {
            Self::Uniform { .. } => unreachable!("a uniform quantizer has one range"),
            Self::TwinGelu { scale: scale @ TwinScale { fine, shift }, bits } => {
                let (fine, coarse) = (fine.get(), scale.coarse());
                // Each clamp at 0 empties the range to which the element does not belong.
                let code = |&x: &f32| join(shift, -magnitude(-x, fine, bits), magnitude(x, coarse, bits));
                xs.iter().map(code).collect()
            }
            Self::TwinSoftmax { scale: scale @ TwinScale { fine, shift }, bits } => {
                let (fine, coarse) = (fine.get(), scale.coarse());
                let end = bits.half() as f32 * fine;
                let code = |&x: &f32| {
                    let (a, b) = (magnitude(x, fine, bits), magnitude(x, coarse, bits));
                    join(shift, if x >= end { 0 } else { a }, if x >= end { b } else { 0 })
                };
                xs.iter().map(code).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_have_the_codes_of_their_elements() {
        let xs: Vec<f32> = (-400..400).map(|i| i as f32 * 0.00731).chain([0.0, -0.0, 0.5, 1.0]).collect();
        for k in 2..=8 {
            let bits = Bits::new(k).unwrap();
            let scale = Scale::new(0.0213).unwrap();
            for q in [
                Quantizer::Uniform { scale, bits },
                Quantizer::TwinGelu { scale: TwinScale::gelu(bits, scale, 0.17).unwrap(), bits },
                Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits, 2), bits },
                Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits, 10), bits },
            ] {
                for max_fused in [0, i32::MAX] {
                    let joined: Vec<i32> = match q.codes(&xs, max_fused) {
                        Codes::Fused(codes) => codes.iter().map(|&c| c.into()).collect(),
                        Codes::Split { fine, coarse, shift } => {
                            assert!(fine.iter().zip(&coarse).all(|(a, b)| *a == 0 || *b == 0));
                            let join = |(a, b): (&i16, &i16)| i32::from(*a) + (i32::from(*b) << shift);
                            fine.iter().zip(&coarse).map(join).collect()
                        }
                    };
                    assert_eq!(joined, xs.iter().map(|&x| q.code(x)).collect::<Vec<_>>(), "{q:?}");
                }
            }
        }
    }
}
