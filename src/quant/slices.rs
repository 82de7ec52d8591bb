//! Quantization of whole slices to the i16 codes that the integer kernels take, compiled once per vector unit.

use multiversion::multiversion;

use super::{Bits, Quantizer, Scale, TwinScale, magnitude, uniform_code};

/// The codes of a slice of floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Codes {
    /// One code per element, in units of the quantizer's smallest scale.
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
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn uniform_codes(xs: &[f32], scale: Scale, bits: Bits, codes: &mut [i16]) {
    codes.iter_mut().zip(xs).for_each(|(code, &x)| *code = uniform_code(x, scale.get(), bits) as i16);
}

/// As `uniform_codes`, in bytes, plus `offset`, modulo 2⁸.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn uniform_bytes(xs: &[f32], scale: Scale, bits: Bits, offset: i8, codes: &mut [i8]) {
    let byte = |x| (uniform_code(x, scale.get(), bits) as i8).wrapping_add(offset);
    codes.iter_mut().zip(xs).for_each(|(code, &x)| *code = byte(x));
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

    /// As [`uniform_bytes`].
    ///
    /// # Panics
    /// If it is a twin.
    pub fn uniform_bytes(self, xs: &[f32], offset: i8, codes: &mut [i8]) {
        let Self::Uniform { scale, bits } = self else { panic!("a twin has two ranges") };
        uniform_bytes(xs, scale, bits, offset, codes);
    }

    /// The codes of a twin as in [`Codes::Split`], in bytes, plus `offset`, modulo 2⁸.
    ///
    /// # Panics
    /// If it is uniform.
    pub fn split_bytes(self, xs: &[f32], offset: i8, fine: &mut [i8], coarse: &mut [i8]) {
        match self {
            Self::Uniform { .. } => panic!("a uniform quantizer has one range"),
            Self::TwinGelu { scale, bits } => gelu_bytes(xs, scale, bits, offset, fine, coarse),
            Self::TwinSoftmax { scale, bits } => softmax_bytes(xs, scale, bits, offset, fine, coarse),
        }
    }

    /// The codes of `xs`: fused if no `|code|` can exceed `max_abs_code` or `i16::MAX`, else split.
    pub fn codes(self, xs: &[f32], max_abs_code: i32) -> Codes {
        let mut codes = vec![0; xs.len()];
        match self.twin() {
            Some(TwinScale { shift, .. }) if self.max_abs_code() > max_abs_code.min(i16::MAX.into()) => {
                let mut coarse = codes.clone();
                self.split_codes(xs, &mut codes, &mut coarse);
                Codes::Split { fine: codes, coarse, shift }
            }
            _ => {
                self.fused_codes(xs, &mut codes);
                Codes::Fused(codes)
            }
        }
    }

    /// [`fake_quant`](Self::fake_quant) of every element.
    pub fn fake_quants(self, xs: &[f32]) -> Vec<f32> {
        let scale = self.scale();
        match self.codes(xs, i32::MAX) {
            Codes::Fused(codes) => codes.into_iter().map(|code| f32::from(code) * scale).collect(),
            Codes::Split { fine, coarse, shift } => {
                let join = |(a, b): (i16, i16)| i32::from(a) + (i32::from(b) << shift);
                fine.into_iter().zip(coarse).map(|codes| join(codes) as f32 * scale).collect()
            }
        }
    }

    /// The fused codes of `xs`, modulo 2¹⁶ where they do not fit; as many as the shorter slice holds.
    pub fn fused_codes(self, xs: &[f32], codes: &mut [i16]) {
        match self.twin() {
            None => self.uniform_codes(xs, codes),
            Some(TwinScale { shift, .. }) => {
                self.twin_codes(xs, Factors { fine: 1, coarse: 1 << shift }, codes);
            }
        }
    }

    /// The codes of a twin as in [`Codes::Split`], as many as the shorter slice holds.
    ///
    /// # Panics
    /// If it is uniform.
    pub fn split_codes(self, xs: &[f32], fine: &mut [i16], coarse: &mut [i16]) {
        self.twin_codes(xs, Factors { fine: 1, coarse: 0 }, fine);
        self.twin_codes(xs, Factors { fine: 0, coarse: 1 }, coarse);
    }

    /// `a·factors.fine + b·factors.coarse` of every element, where a and b are its codes in R1 and R2.
    fn twin_codes(self, xs: &[f32], factors: Factors, codes: &mut [i16]) {
        match self {
            Self::Uniform { .. } => panic!("a uniform quantizer has one range"),
            Self::TwinGelu { scale, bits } => gelu_codes(xs, scale, bits, factors, codes),
            Self::TwinSoftmax { scale, bits } => softmax_codes(xs, scale, bits, factors, codes),
        }
    }
}

/// What the codes of each range of a twin are multiplied by.
#[derive(Clone, Copy)]
struct Factors {
    fine: i32,
    coarse: i32,
}

/// Free of branches, so that it vectorizes; the division, which takes longest, is by the scale of the element's range.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn gelu_codes(xs: &[f32], scale: TwinScale, bits: Bits, factors: Factors, codes: &mut [i16]) {
    for (code, &x) in codes.iter_mut().zip(xs) {
        let (fine, coarse) = gelu_ranges(x, scale, bits);
        *code = (fine * factors.fine + coarse * factors.coarse) as i16;
    }
}

/// As [`gelu_codes`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn softmax_codes(xs: &[f32], scale: TwinScale, bits: Bits, factors: Factors, codes: &mut [i16]) {
    for (code, &x) in codes.iter_mut().zip(xs) {
        let (fine, coarse) = softmax_ranges(x, scale, bits);
        *code = (fine * factors.fine + coarse * factors.coarse) as i16;
    }
}

/// As [`gelu_codes`], for both ranges at once.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn gelu_bytes(xs: &[f32], scale: TwinScale, bits: Bits, offset: i8, fine: &mut [i8], coarse: &mut [i8]) {
    for ((fine, coarse), &x) in fine.iter_mut().zip(coarse).zip(xs) {
        let (a, b) = gelu_ranges(x, scale, bits);
        (*fine, *coarse) = ((a as i8).wrapping_add(offset), (b as i8).wrapping_add(offset));
    }
}

/// As [`gelu_codes`], for both ranges at once.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn softmax_bytes(xs: &[f32], scale: TwinScale, bits: Bits, offset: i8, fine: &mut [i8], coarse: &mut [i8]) {
    for ((fine, coarse), &x) in fine.iter_mut().zip(coarse).zip(xs) {
        let (a, b) = softmax_ranges(x, scale, bits);
        (*fine, *coarse) = ((a as i8).wrapping_add(offset), (b as i8).wrapping_add(offset));
    }
}

/// The codes in R1, which is below 0, and in R2.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn gelu_ranges(x: f32, scale: TwinScale, bits: Bits) -> (i32, i32) {
    let is_fine = x < 0.0;
    let code = magnitude(x.abs(), if is_fine { scale.fine.get() } else { scale.coarse() }, bits);
    if is_fine { (-code, 0) } else { (0, code) }
}

/// The codes in R1, which ends at `2^(k−1)` of its steps, and in R2.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn softmax_ranges(x: f32, scale: TwinScale, bits: Bits) -> (i32, i32) {
    let is_coarse = x >= bits.half() as f32 * scale.fine.get();
    let code = magnitude(x, if is_coarse { scale.coarse() } else { scale.fine.get() }, bits);
    if is_coarse { (0, code) } else { (code, 0) }
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
                for max_abs_code in [0, i32::MAX] {
                    let joined: Vec<i32> = match q.codes(&xs, max_abs_code) {
                        Codes::Fused(codes) => codes.iter().map(|&c| c.into()).collect(),
                        Codes::Split { fine, coarse, shift } => {
                            assert!(fine.iter().zip(&coarse).all(|(a, b)| *a == 0 || *b == 0));
                            let join = |(a, b): (&i16, &i16)| i32::from(*a) + (i32::from(*b) << shift);
                            fine.iter().zip(&coarse).map(join).collect()
                        }
                    };
                    assert_eq!(joined, xs.iter().map(|&x| q.code(x)).collect::<Vec<_>>(), "{q:?}");
                }
                let each = |&x| q.fake_quant(x).to_bits();
                assert!(q.fake_quants(&xs).into_iter().map(f32::to_bits).eq(xs.iter().map(each)), "{q:?}");
                check_bytes(q, &xs);
            }
        }
    }

    fn check_bytes(q: Quantizer, xs: &[f32]) {
        for offset in [0, i8::MIN] {
            let check = |bytes: &[i8], codes: &[i16]| {
                let expected = codes.iter().map(|&code| (code as i8).wrapping_add(offset));
                assert!(bytes.iter().copied().eq(expected), "{q:?}");
            };
            let (mut bytes, mut coarse_bytes) = (vec![0; xs.len()], vec![0; xs.len()]);
            match q.codes(xs, 0) {
                Codes::Fused(codes) => {
                    q.uniform_bytes(xs, offset, &mut bytes);
                    check(&bytes, &codes);
                }
                Codes::Split { fine, coarse, .. } => {
                    q.split_bytes(xs, offset, &mut bytes, &mut coarse_bytes);
                    check(&bytes, &fine);
                    check(&coarse_bytes, &coarse);
                }
            }
        }
    }
}
