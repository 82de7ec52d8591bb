//! A scale per channel at the price of one: the largest weight of each channel, times a share that all channels of a group
//! have in common, and that is searched.

use ndarray::Array2;

use super::Metric;
use super::search::{Problem, Search, Settings, Solution, column_maxima};
use crate::Result;
use crate::quant::Scale;

/// Searches the shares of `problem`; the solution has the scale of every channel, those of a second matrix of `B` after
/// those of the first.
pub(super) fn run(mut problem: Problem, settings: &Settings, search: Search) -> Result<Solution> {
    let groups = problem.groups.clone();
    let maxima = divide(&mut problem, settings.metric);
    let metric = if problem.curvature.is_empty() { settings.metric } else { Metric::Hessian };
    let solution = search.run(problem, &Settings { metric, ..*settings })?;
    let n = groups.last().map_or(0, |columns| columns.end);
    let share = |channel: usize| {
        let group = groups.iter().position(|columns| columns.contains(&(channel % n)));
        solution.b[group.expect("groups cover all columns")].get()
    };
    let scale = |(channel, max): (usize, &f32)| Scale::new((share(channel) * max).max(f32::MIN_POSITIVE));
    Ok(Solution { b: maxima.iter().enumerate().map(scale).collect::<Result<_>>()?, ..solution })
}

/// Divides every column of `B` by its largest magnitude, which makes the outputs larger: the curvature makes up for it.
/// Gives the magnitudes.
fn divide(problem: &mut Problem, metric: Metric) -> Vec<f32> {
    let matrices = problem.b.matrices_mut();
    let one_matrix = matrices.len() == 1;
    let mut maxima = Vec::new();
    for b in matrices {
        let of_columns = column_maxima(std::slice::from_ref(b));
        for (mut column, max) in b.columns_mut().into_iter().zip(of_columns) {
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
