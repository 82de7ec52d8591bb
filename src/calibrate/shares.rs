//! A scale per channel at the price of one: the largest weight of each channel, times a share that all channels of a group
//! have in common, and that is searched.

use super::search::{Matrix, Problem, Search, Settings, Solution, column_maxima};
use crate::Result;
use crate::quant::Scale;

/// Searches the shares of `problem`; the solution has the scale of every channel, those of a second matrix of `B` after
/// those of the first.
pub(super) fn run(mut problem: Problem, settings: &Settings, search: Search) -> Result<Solution> {
    let groups = problem.groups.clone();
    // The curvature makes up for the larger outputs.
    problem.units = divide(problem.b.matrices_mut());
    let maxima = problem.units.clone();
    let solution = search.run(problem, settings)?;
    let n = groups.last().map_or(0, |columns| columns.end);
    let share = |channel: usize| {
        let group = groups.iter().position(|columns| columns.contains(&(channel % n)));
        solution.b[group.expect("groups cover all columns")].get()
    };
    let scale = |(channel, max): (usize, &f32)| Scale::new((share(channel) * max).max(f32::MIN_POSITIVE));
    Ok(Solution { b: maxima.iter().enumerate().map(scale).collect::<Result<_>>()?, ..solution })
}

/// Divides every column by its largest magnitude. Gives the magnitudes.
fn divide(matrices: &mut [Matrix]) -> Vec<f32> {
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
    maxima
}
