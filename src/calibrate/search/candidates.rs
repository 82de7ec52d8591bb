//! The candidates of Algorithm 1, for each kind of operand.

use super::{LhsKind, Problem, Settings};
use crate::Result;
use crate::quant::{Bits, Quantizer, Scale, TwinScale};

/// Steps of the post-softmax `Δ_R1 = 2^−(k+step)`.
const SOFTMAX_STEPS: u8 = 11;

/// `(α + (β−α)·i/n)·max/2^(k−1)` for i = 1…n; all 1 for an operand that is zero throughout.
fn linear(max: f32, bits: Bits, settings: &Settings) -> Result<Vec<Scale>> {
    let n = settings.candidates;
    let step = |i: usize| settings.alpha + (settings.beta - settings.alpha) * i as f64 / n as f64;
    (1..=n).map(|i| scaled(max, step(i), bits)).collect()
}

/// `factor·max/2^(k−1)`.
fn scaled(max: f32, factor: f64, bits: Bits) -> Result<Scale> {
    let delta = (factor * f64::from(max) / f64::from(bits.half())) as f32;
    // Below the normal floats there is nothing to tell apart; an all-zero operand takes any scale.
    Scale::new(if max == 0.0 { 1.0 } else { delta.max(f32::MIN_POSITIVE) })
}

/// The quantizers tried for `A`.
pub(super) fn lhs(problem: &Problem, settings: &Settings) -> Result<Vec<Quantizer>> {
    let bits = settings.a_bits;
    let largest = |f: fn(f32) -> f32| problem.a.iter().flatten().fold(0f32, |m, &x| m.max(f(x)));
    match problem.a_kind {
        LhsKind::Uniform => {
            let scales = linear(largest(f32::abs), bits, settings)?;
            Ok(scales.into_iter().map(|scale| Quantizer::Uniform { scale, bits }).collect())
        }
        LhsKind::TwinSoftmax => Ok((0..SOFTMAX_STEPS)
            .map(|step| Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits, step), bits })
            .collect()),
        LhsKind::TwinGelu { reach } => {
            let coarse = linear(largest(|x| x), bits, settings)?;
            let twin = |coarse| TwinScale::gelu(bits, coarse, reach);
            coarse.into_iter().map(|c| Ok(Quantizer::TwinGelu { scale: twin(c)?, bits })).collect()
        }
    }
}

/// By candidate, the scale of every column group of `B`.
pub(super) fn rhs(problem: &Problem, settings: &Settings) -> Result<Vec<Vec<Scale>>> {
    let by_group: Vec<Vec<Scale>> = group_maxima(problem)
        .into_iter()
        .map(|max| linear(max, settings.b_bits, settings))
        .collect::<Result<_>>()?;
    Ok((0..settings.candidates).map(|i| by_group.iter().map(|scales| scales[i]).collect()).collect())
}

/// `Δ_B = max|B|/2^(k−1)` of every column group: where the search starts.
pub(super) fn initial_rhs(problem: &Problem, settings: &Settings) -> Result<Vec<Scale>> {
    group_maxima(problem).into_iter().map(|max| scaled(max, 1.0, settings.b_bits)).collect()
}

/// The candidate nearest to `max|x|/2^(k−1)` on a grid of `count` up to 1.2 times that.
pub(super) fn near_maximum(count: usize) -> usize {
    (count - 1) * 5 / 6
}

fn group_maxima(problem: &Problem) -> Vec<f32> {
    let mut column = vec![0f32; problem.columns()];
    for row in problem.b.matrices().iter().flat_map(|b| b.rows()) {
        for (max, &x) in column.iter_mut().zip(row) {
            *max = max.max(x.abs());
        }
    }
    problem.groups.iter().map(|g| column[g.clone()].iter().fold(0f32, |a, &b| a.max(b))).collect()
}
