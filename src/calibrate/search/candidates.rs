//! The candidates of Algorithm 1 for each kind of operand.

use rayon::prelude::*;

use super::{LhsKind, Matrix, Problem, Settings};
use crate::Result;
use crate::quant::{Bits, Quantizer, Scale, TwinScale};

/// The post-softmax candidates are `Δ_R1 = 2^−(k+i)` for i from 0 up to this, exclusive.
const SOFTMAX_CANDIDATES: u8 = 11;

/// The quantizers tried for `A`.
pub(in super::super) fn lhs(problem: &Problem, settings: &Settings) -> Result<Vec<Quantizer>> {
    let bits = settings.a_bits;
    let largest = |f: fn(f32) -> f32| {
        let of_image = |a: &Matrix| largest(a.as_slice().expect("problems hold standard layout"), f);
        problem.a.par_iter().map(of_image).reduce(|| 0.0, f32::max)
    };
    match problem.a_kind {
        LhsKind::Uniform => {
            let scales = linear(largest(f32::abs), bits, settings)?;
            Ok(scales.into_iter().map(|scale| Quantizer::Uniform { scale, bits }).collect())
        }
        LhsKind::TwinSoftmax => Ok((0..SOFTMAX_CANDIDATES)
            .map(|i| Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits, i), bits })
            .collect()),
        LhsKind::TwinGelu { reach } => {
            let coarse = linear(largest(|x| x), bits, settings)?;
            let twin = |coarse| TwinScale::gelu(bits, coarse, reach);
            coarse.into_iter().map(|c| Ok(Quantizer::TwinGelu { scale: twin(c)?, bits })).collect()
        }
    }
}

/// The largest `f(x)`, or 0. In lanes, so that it vectorizes.
fn largest(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(max, &x)| *max = max.max(f(x)));
    }
    lanes.iter_mut().zip(rest).for_each(|(max, &x)| *max = max.max(f(x)));
    lanes.into_iter().fold(0.0, f32::max)
}

/// The scales tried for `B`, `[candidate][column group]`.
pub(super) fn rhs(problem: &Problem, settings: &Settings) -> Result<Vec<Vec<Scale>>> {
    let by_group: Vec<Vec<Scale>> = group_maxima(problem)
        .into_iter()
        .map(|max| linear(max, settings.b_bits, settings))
        .collect::<Result<_>>()?;
    Ok((0..settings.candidates).map(|i| by_group.iter().map(|scales| scales[i]).collect()).collect())
}

/// The initial scales `max|B|/2^(k−1)` of the column groups of `B`, where the search starts.
pub(super) fn initial_rhs(problem: &Problem, settings: &Settings) -> Result<Vec<Scale>> {
    group_maxima(problem).into_iter().map(|max| scale(max, 1.0, settings.b_bits)).collect()
}

/// The index of the candidate nearest to `max|x|/2^(k−1)`, of `count` that end at 1.2 times that.
pub(super) fn near_maximum(count: usize) -> usize {
    (count - 1) * 5 / 6
}

/// `(α + (β−α)·i/n)·max/2^(k−1)` for i = 1…n.
fn linear(max: f32, bits: Bits, settings: &Settings) -> Result<Vec<Scale>> {
    let n = settings.candidates;
    let factor = |i: usize| settings.alpha + (settings.beta - settings.alpha) * i as f64 / n as f64;
    (1..=n).map(|i| scale(max, factor(i), bits)).collect()
}

/// `factor·max/2^(k−1)`; 1 for an operand that is zero throughout.
fn scale(max: f32, factor: f64, bits: Bits) -> Result<Scale> {
    let delta = (factor * f64::from(max) / f64::from(bits.half())) as f32;
    // Below the normal floats there is nothing to tell apart; an all-zero operand takes any scale.
    Scale::new(if max == 0.0 { 1.0 } else { delta.max(f32::MIN_POSITIVE) })
}

/// `max|B|` of each column group.
fn group_maxima(problem: &Problem) -> Vec<f32> {
    let maxima = column_maxima(problem.b.matrices());
    problem.groups.iter().map(|group| maxima[group.clone()].iter().copied().fold(0.0, f32::max)).collect()
}

/// The largest `|x|` of each column, over all of `matrices`.
pub(in super::super) fn column_maxima(matrices: &[Matrix]) -> Vec<f32> {
    let mut maxima = vec![0f32; matrices.first().map_or(0, Matrix::ncols)];
    for row in matrices.iter().flat_map(|matrix| matrix.rows()) {
        maxima.iter_mut().zip(row).for_each(|(max, x)| *max = max.max(x.abs()));
    }
    maxima
}
