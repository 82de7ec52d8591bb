//! Algorithm 1 with its exact reductions: a candidate is evaluated until its partial loss exceeds the best whole loss,
//! and a round ends the search when it changes nothing. The winners are those of [`super::exhaustive`].

use rayon::prelude::*;

use super::best_first::winners;
use super::evaluate::{Evaluator, QuantizedRhs};
use super::{Problem, Settings, Solution, candidates};
use crate::Result;

/// Finds the scales of one problem.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lhs_candidates = candidates::lhs(&problem, settings)?;
    let rhs_candidates = candidates::rhs(&problem, settings)?;
    let mut scales = candidates::initial_rhs(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;
    let row_blocks = evaluator.row_blocks();

    // The candidate of each group of B; before the first round, B has the initial scales, which are no candidate.
    let mut b_winners: Option<Vec<usize>> = None;
    let mut a_winner = None;
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_rhs(&scales);
        let add_loss = |candidate: usize, (): &(), rows: usize, sums: &mut [f64]| {
            let a = evaluator.quantize_lhs(rows, lhs_candidates[candidate]);
            sums[0] += evaluator.loss(rows, &a, &b);
        };
        let winner = winners(lhs_candidates.len(), row_blocks, 1, |_| (), add_loss)[0].candidate;
        if a_winner.replace(winner) == Some(winner) {
            break;
        }

        let a = lhs_candidates[winner];
        let lhs: Vec<_> =
            (0..row_blocks).into_par_iter().map(|rows| evaluator.quantize_lhs(rows, a)).collect();
        let start = |candidate: usize| evaluator.quantize_rhs(&rhs_candidates[candidate]);
        let mut best = Vec::with_capacity(scales.len());
        for (columns, block) in evaluator.column_blocks().iter().enumerate() {
            let add_losses = |_, b: &QuantizedRhs, rows: usize, sums: &mut [f64]| {
                evaluator.add_losses(rows, columns, &lhs[rows], b, sums);
            };
            best.extend(winners(rhs_candidates.len(), row_blocks, block.groups.len(), start, add_losses));
        }
        let found: Vec<usize> = best.iter().map(|winner| winner.candidate).collect();
        loss = best.iter().map(|winner| winner.loss).sum();
        scales = found.iter().enumerate().map(|(group, &i)| rhs_candidates[i][group]).collect();
        if b_winners.as_ref() == Some(&found) {
            break;
        }
        b_winners = Some(found);
    }
    let a = lhs_candidates[a_winner.expect("there is a round")];
    Ok(Solution { a, b: scales, loss })
}
