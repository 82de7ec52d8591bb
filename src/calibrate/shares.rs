//! A scale per channel at the price of one: the largest weight of each channel, times a share that is searched.

use ndarray::Array2;

use super::Metric;
use super::search::{Problem, Rhs};
use crate::Result;
use crate::quant::Scale;

/// Divides every column of `B` by its largest magnitude, which makes the outputs larger: the curvature makes up for it.
/// Gives the magnitudes; those of a second matrix of `B` follow those of the first.
pub(super) fn divide(problem: &mut Problem, metric: Metric) -> Vec<f32> {
    let matrices = match &mut problem.b {
        Rhs::Weight(b) => std::slice::from_mut(b),
        Rhs::Activation(b) => &mut b[..],
    };
    let one_matrix = matrices.len() == 1;
    let mut maxima = Vec::new();
    for b in matrices {
        for mut column in b.columns_mut() {
            let max = column.iter().fold(0f32, |max, x| max.max(x.abs()));
            // A channel of zeros has no errors, whatever its scale.
            let max = if max > 0.0 { max } else { 1.0 };
            column /= max;
            maxima.push(max);
        }
    }
    let n = problem.groups.last().map_or(0, |columns| columns.end);
    if problem.curvature.is_empty() && metric == Metric::Mse {
        problem.curvature = problem.a.iter().map(|a| Array2::ones((a.nrows(), n))).collect();
    }
    for (i, curvature) in problem.curvature.iter_mut().enumerate() {
        let first = if one_matrix { 0 } else { i * n };
        for ((_, column), x) in curvature.indexed_iter_mut() {
            *x *= maxima[first + column] * maxima[first + column];
        }
    }
    maxima
}

/// The metric of a problem with divided weights.
pub(super) fn metric(problem: &Problem, metric: Metric) -> Metric {
    if problem.curvature.is_empty() { metric } else { Metric::Hessian }
}

/// The scale of each channel.
pub(super) fn scales(maxima: &[f32], share: Scale) -> Result<Vec<Scale>> {
    maxima.iter().map(|max| Scale::new((share.get() * max).max(f32::MIN_POSITIVE))).collect()
}
