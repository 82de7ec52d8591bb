//! Algorithm 1 as it is written: every candidate in every round, to the last row.

use rayon::prelude::*;

use super::evaluate::Evaluator;
use super::{Problem, Settings, Solution, candidates};
use crate::Result;
use crate::quant::{Quantizer, Scale};

/// Finds the scales of one problem, slowly.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lhs_candidates = candidates::lhs(&problem, settings)?;
    let rhs_candidates = candidates::rhs(&problem, settings)?;
    let mut scales = candidates::initial_rhs(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;
    let row_blocks = 0..evaluator.row_blocks();
    let mut a = lhs_candidates[0];
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_rhs(&scales);
        let loss_of = |&a: &Quantizer| {
            row_blocks.clone().map(|rows| evaluator.loss(rows, &evaluator.quantize_lhs(rows, a), &b)).sum()
        };
        let losses: Vec<f64> = lhs_candidates.par_iter().map(loss_of).collect();
        a = lhs_candidates[first_minimum(&losses)];

        let lhs: Vec<_> =
            row_blocks.clone().into_par_iter().map(|rows| evaluator.quantize_lhs(rows, a)).collect();
        let losses_of = |b: &Vec<Scale>| {
            let b = evaluator.quantize_rhs(b);
            let mut sums = vec![0f64; scales.len()];
            for (rows, a) in lhs.iter().enumerate() {
                for (columns, block) in evaluator.column_blocks().iter().enumerate() {
                    evaluator.add_losses(rows, columns, a, &b, &mut sums[block.groups.clone()]);
                }
            }
            sums
        };
        let losses: Vec<Vec<f64>> = rhs_candidates.par_iter().map(losses_of).collect();
        loss = 0.0;
        for (group, scale) in scales.iter_mut().enumerate() {
            let of_group: Vec<f64> = losses.iter().map(|losses| losses[group]).collect();
            let winner = first_minimum(&of_group);
            *scale = rhs_candidates[winner][group];
            loss += of_group[winner];
        }
    }
    Ok(Solution { a, b: scales, loss })
}

fn first_minimum(losses: &[f64]) -> usize {
    (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}
