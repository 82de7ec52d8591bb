//! Float arithmetic on slices, compiled once per vector unit.
//!
//! Nothing here contracts or reorders: sums run in [`PANEL`] lanes whatever the CPU, so that every CPU, and any
//! division of the work, gives the same bits. What works on panels is compiled for AVX2 at most: for AVX-512, LLVM takes
//! the rows instead of the columns of a panel into a vector, and gathers and scatters them (six times as slow).
// What is compiled once per vector unit must be inlined into it.
#![allow(clippy::inline_always)]

use multiversion::multiversion;

use super::ops::written::{Unwritten, by_row};
use crate::elementary::{erf, exp};
use crate::kernel::{self, PANEL};

/// What may directly follow a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// `x·(1 + erf(x/√2))/2`.
    Gelu,
    /// `x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2`.
    TanhGelu,
    /// `x·σ(1.702·x)`.
    QuickGelu,
    /// `x·σ(x)`.
    Silu,
}

/// Adds the bias of each column.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn add_bias(values: &mut [[f32; PANEL]], bias: &[f32; PANEL]) {
    for values in values {
        values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}

/// Adds to the rows of `values` the products of the rows `x[M, R]` with `weights[R, width]`, from `column` on. The
/// products are summed first.
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn add_products(
    values: &mut [[f32; PANEL]],
    x: &[f32],
    weights: &[f32],
    width: usize,
    column: usize,
) {
    let channels = weights.len() / width;
    for (x, values) in x.chunks_exact(channels).zip(values) {
        let mut sums = [0f32; PANEL];
        for (x, row) in x.iter().zip(weights.chunks_exact(width)) {
            sums.iter_mut().zip(&row[column..]).for_each(|(sum, w)| *sum += x * w);
        }
        values.iter_mut().zip(sums).for_each(|(value, sum)| *value += sum);
    }
}

/// The activation of every value.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
        Activation::TanhGelu => values.iter_mut().for_each(|x| *x = tanh_gelu(*x)),
        Activation::QuickGelu => values.iter_mut().for_each(|x| *x /= 1.0 + exp(-1.702 * *x)),
        Activation::Silu => values.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
    }
}

/// ONNX `Softmax` of one row, in place; with `or_zero`, a row without a number becomes zeros.
pub(super) fn softmax(row: &mut [f32], or_zero: bool) {
    if !kernel::best().softmax(row) {
        plain_softmax(row);
    }
    // A NaN makes the whole row NaN.
    if or_zero && row.first().is_some_and(|x| x.is_nan()) {
        row.fill(0.0);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn plain_softmax(row: &mut [f32]) {
    let max = reduce(row, f32::NEG_INFINITY, |x| x, |max, x| if x > max { x } else { max });
    let mut sums = [0f32; PANEL];
    let mut exponentiate = |chunk: &mut [f32; PANEL]| {
        for (x, sum) in chunk.iter_mut().zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
    };
    let (chunks, rest) = row.as_chunks_mut::<PANEL>();
    chunks.iter_mut().for_each(&mut exponentiate);
    // The rest as a chunk, filled up with what adds nothing to the sum: one by one, it would take as long as all others.
    let mut last = [f32::NEG_INFINITY; PANEL];
    last[..rest.len()].copy_from_slice(rest);
    exponentiate(&mut last);
    rest.copy_from_slice(&last[..rest.len()]);
    let factor = 1.0 / join_lanes(sums, |a, b| a + b);
    for x in &mut *row {
        *x *= factor;
    }
}

/// ONNX `LayerNormalization` of rows as long as γ and β: `(x − mean)/√(variance + ε)·γ + β`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn layer_norm<'o>(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    out: &'o mut Unwritten,
) -> &'o mut [f32] {
    let n = gamma.len();
    let beta = &beta[..n];
    by_row(out, n, |row| {
        let row = &x[row * n..][..n];
        let mean = sum(row, |x| x) / n as f32;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        move |i| (row[i] - mean) * factor * gamma[i] + beta[i]
    })
}

/// `Σ term(x)`.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    reduce(row, 0.0, term, |a, b| a + b)
}

/// Joins `term(x)` of the elements in [`PANEL`] lanes, each from `neutral` on, and then the lanes.
#[inline(always)]
fn reduce(row: &[f32], neutral: f32, term: impl Fn(f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [neutral; PANEL];
    let (chunks, rest) = row.as_chunks::<PANEL>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, term(x));
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &x)| *lane = join(*lane, term(x)));
    join_lanes(lanes, join)
}

/// One value of all lanes: half of them with the other half, until one is left.
#[inline(always)]
fn join_lanes(mut lanes: [f32; PANEL], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = PANEL / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn tanh_gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * (x + 0.044_715 * (x * x * x));
    // (1 + tanh y)/2 = 1/(1 + e^(−2y))
    x / (1.0 + exp(-2.0 * inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementary::tests::{exact_erf, points};

    fn worst(xs: impl Iterator<Item = f32>, ours: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        xs.map(|x| (f64::from(ours(x)) - exact(x.into())).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_near_their_definitions() {
        let exact = |x: f64| 0.5 * x * (1.0 + exact_erf(x / std::f64::consts::SQRT_2));
        assert!(worst(points(8.0), gelu, exact) < 2e-6);
        let exact = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        assert!(worst(points(8.0), tanh_gelu, exact) < 2e-6);
        for (activation, factor) in [(Activation::QuickGelu, 1.702), (Activation::Silu, 1.0)] {
            let ours = |x: f32| {
                let mut values = [x; 3];
                activate(&mut values, activation);
                values[2]
            };
            let exact = |x: f64| x / (1.0 + (-f64::from(factor as f32) * x).exp());
            assert!(worst(points(100.0), ours, exact) < 1e-5, "{activation:?}");
        }
    }

    #[test]
    fn rows_are_normalized_as_onnx_says() {
        for n in [1, 2, 15, 16, 17, 197] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 23) as f32 * 0.7 - 5.0).collect();
            let wide = || row.iter().map(|&x| f64::from(x));

            let mut ours = row.clone();
            softmax(&mut ours, false);
            let max = wide().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = wide().map(|x| (x - max).exp()).sum();
            for (ours, x) in ours.iter().zip(wide()) {
                assert!((f64::from(*ours) - (x - max).exp() / sum).abs() < 1e-6, "softmax of {n}");
            }

            let (gamma, beta): (Vec<f32>, Vec<f32>) =
                (0..n).map(|i| (1.0 + i as f32 * 0.01, 0.5 - i as f32 * 0.02)).unzip();
            let mut ours = Vec::with_capacity(n);
            let ours = layer_norm(&row, &gamma, &beta, 1e-5, &mut ours.spare_capacity_mut()[..n]);
            let mean = wide().sum::<f64>() / n as f64;
            let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            for (i, x) in wide().enumerate() {
                let normal = (x - mean) / (variance + 1e-5).sqrt();
                let expected = normal * f64::from(gamma[i]) + f64::from(beta[i]);
                assert!((f64::from(ours[i]) - expected).abs() < 1e-5, "layer norm of {n}");
            }
        }
    }

    /// Rows on both sides of each edge: one vector, and four.
    #[test]
    fn every_kernel_has_the_softmax_of_plain_loops() {
        for n in [0, 1, 15, 16, 17, 31, 64, 65, 80, 197, 208, 577] {
            let mut row: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 23) as f32 * 0.7 - 5.0).collect();
            for special in [None, Some(f32::NEG_INFINITY), Some(100.0), Some(f32::NAN)] {
                if let (Some(special), Some(x)) = (special, row.last_mut()) {
                    *x = special;
                }
                let mut expected = row.clone();
                plain_softmax(&mut expected);
                for kernel in kernel::all() {
                    let mut found = row.clone();
                    if kernel.softmax(&mut found) {
                        let same = found
                            .iter()
                            .zip(&expected)
                            .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                        assert!(same, "{} at {n}, {special:?}", kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn masked_scores_get_nothing() {
        let mut row = vec![0.5, f32::NEG_INFINITY, 0.5, f32::MIN];
        softmax(&mut row, true);
        assert_eq!(row, [0.5, 0.0, 0.5, 0.0]);
        let mut row = vec![f32::NEG_INFINITY; 20];
        softmax(&mut row, false);
        assert!(row.iter().all(|x| x.is_nan()), "as ONNX has it");
        softmax(&mut row, true);
        assert_eq!(row, [0.0; 20]);
    }
}
