//! Quantization of whole slices to the i16 codes that the integer kernels take, compiled once for each vector unit.

use multiversion::multiversion;

use super::{Bits, Quantizer, Scale, TwinScale, magnitude, uniform_code};

/// The codes of a slice of floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Codes {
    /// One code an element, in units of the quantizer's smallest scale.
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
#[multiversion(targets("x86_64+avx2"))]
pub fn uniform_codes(xs: &[f32], scale: Scale, bits: Bits, codes: &mut [i16]) {
    codes.iter_mut().zip(xs).for_each(|(code, &x)| *code = uniform_code(x, scale.get(), bits) as i16);
}

impl Quantizer {
    /// As [`uniform_codes`].
    ///
    /// # Panics
    /// If it is a twin.
    pub fn uniform_codes(self, xs: &[f32], codes: &mut [i16]) {
        let Self::Uniform { scale, bits } = self else { panic!("a twin has two ranges") };
        uniform_codes(xs, scale, bits, codes);
    }

    /// The codes of `xs`; fused if every possible `|code| ≤ max_fused` (at most `i16::MAX`), else split.
    pub fn codes(self, xs: &[f32], max_fused: i32) -> Codes {
        let mut codes = vec![0; xs.len()];
        match self {
            Self::TwinSoftmax { scale, .. } | Self::TwinGelu { scale, .. } if !self.fuses(max_fused) => {
                let mut coarse = codes.clone();
                self.twin_codes(xs, [1, 0], &mut codes);
                self.twin_codes(xs, [0, 1], &mut coarse);
                return Codes::Split { fine: codes, coarse, shift: scale.shift };
            }
            _ => self.fused_codes(xs, &mut codes),
        }
        Codes::Fused(codes)
    }

    /// Whether [`codes`](Self::codes) gives one code an element.
    pub fn fuses(self, max_fused: i32) -> bool {
        matches!(self, Self::Uniform { .. }) || self.max_abs_code() <= max_fused.min(i16::MAX.into())
    }

    /// The fused codes of `xs`, modulo 2¹⁶ where they do not fit; as many as the shorter slice holds.
    pub fn fused_codes(self, xs: &[f32], codes: &mut [i16]) {
        match self {
            Self::Uniform { scale, bits } => uniform_codes(xs, scale, bits, codes),
            Self::TwinSoftmax { scale, .. } | Self::TwinGelu { scale, .. } => {
                self.twin_codes(xs, [1, 1 << scale.shift], codes);
            }
        }
    }

    /// `a·units[0] + b·units[1]` of every element, where a and b are its codes in R1 and R2.
    fn twin_codes(self, xs: &[f32], units: [i32; 2], codes: &mut [i16]) {
        match self {
            Self::Uniform { .. } => unreachable!("a uniform quantizer has one range"),
            Self::TwinGelu { scale, bits } => gelu_codes(xs, scale, bits, units, codes),
            Self::TwinSoftmax { scale, bits } => softmax_codes(xs, scale, bits, units, codes),
        }
    }
}

/// Free of branches, so that it vectorizes: each clamp at 0 empties the range to which the element does not belong.
#[multiversion(targets("x86_64+avx2"))]
fn gelu_codes(xs: &[f32], scale: TwinScale, bits: Bits, units: [i32; 2], codes: &mut [i16]) {
    let (fine, coarse) = (scale.fine.get(), scale.coarse());
    for (code, &x) in codes.iter_mut().zip(xs) {
        *code = (magnitude(x, coarse, bits) * units[1] - magnitude(-x, fine, bits) * units[0]) as i16;
    }
}

/// Free of branches, so that it vectorizes.
#[multiversion(targets("x86_64+avx2"))]
fn softmax_codes(xs: &[f32], scale: TwinScale, bits: Bits, units: [i32; 2], codes: &mut [i16]) {
    let (fine, coarse) = (scale.fine.get(), scale.coarse());
    let end = bits.half() as f32 * fine;
    for (code, &x) in codes.iter_mut().zip(xs) {
        let (a, b) = (magnitude(x, fine, bits) * units[0], magnitude(x, coarse, bits) * units[1]);
        *code = (if x >= end { b } else { a }) as i16;
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
