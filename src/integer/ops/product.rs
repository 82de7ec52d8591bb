//! `codes(x) · B · Δ`, the arithmetic of every site.

use crate::kernel::{self, PackedB, fits_i32};
use crate::quant::{Codes, Quantizer};

/// Whether `codes · b` is exact for every input of `a`: as one product, or as the two of a twin's ranges.
pub(super) fn is_exact(a: Quantizer, b: &PackedB) -> bool {
    fits_i32(largest_part(a), b)
}

/// The largest `|code|` of `a`, if a twin's ranges are multiplied apart.
fn largest_part(a: Quantizer) -> i32 {
    match a {
        Quantizer::Uniform { .. } => a.max_abs_code(),
        Quantizer::TwinSoftmax { bits, .. } | Quantizer::TwinGelu { bits, .. } => bits.half() - 1,
    }
}

/// `out[M, N] = (codes of x[M, K] · b) · steps`, where `steps` has one number, or one a column. In each product of
/// codes the sum is exact; it becomes a float once.
///
/// # Panics
/// Unless [`is_exact`] holds and the lengths agree.
pub(super) fn multiply(a: Quantizer, x: &[f32], b: &PackedB, steps: &[f32], out: &mut [f32]) {
    assert!(is_exact(a, b), "a sum of {} products might overflow", b.k());
    let m = x.len() / b.k();
    let max_fused = if fits_i32(a.max_abs_code(), b) { i16::MAX.into() } else { 0 };
    let gemm = |codes: &[i16]| {
        let mut sums = vec![0; m * b.n()];
        kernel::best().gemm(codes, m, b, &mut sums);
        sums
    };
    match a.codes(x, max_fused) {
        Codes::Fused(codes) => scale(gemm(&codes).into_iter().map(|sum| sum as f32), steps, out),
        Codes::Split { fine, coarse, shift } => {
            let join = |(fine, coarse)| (i64::from(fine) + (i64::from(coarse) << shift)) as f32;
            scale(gemm(&fine).into_iter().zip(gemm(&coarse)).map(join), steps, out);
        }
    }
}

fn scale(sums: impl ExactSizeIterator<Item = f32>, steps: &[f32], out: &mut [f32]) {
    assert_eq!(sums.len(), out.len());
    if let [step] = steps {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * step);
    } else {
        let mut sums = sums;
        for row in out.chunks_exact_mut(steps.len()) {
            row.iter_mut().zip(steps).zip(&mut sums).for_each(|((out, step), sum)| *out = sum * step);
        }
    }
}
