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
    let mut a = lhs_candidates[0];
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_rhs(&scales);
        let of_lhs = |&a: &Quantizer| {
            (0..evaluator.stretches()).map(|s| evaluator.loss(s, a, &evaluator.codes(s, a), &b)).sum()
        };
        let by_lhs: Vec<f64> = lhs_candidates.par_iter().map(of_lhs).collect();
        a = lhs_candidates[first_minimum(&by_lhs)];

        let codes = evaluator.quantize_lhs(a);
        let of_rhs = |b: &Vec<Scale>| {
            let b = evaluator.quantize_rhs(b);
            let mut sums = vec![0f64; scales.len()];
            for (stretch, codes) in codes.iter().enumerate() {
                for unit in 0..evaluator.units() {
                    let sums = &mut sums[evaluator.groups_of(unit)];
                    evaluator.add_unit_losses(stretch, a, codes, &b, unit, sums);
                }
            }
            sums
        };
        let by_rhs: Vec<Vec<f64>> = rhs_candidates.par_iter().map(of_rhs).collect();
        loss = 0.0;
        for (group, scale) in scales.iter_mut().enumerate() {
            let of_group: Vec<f64> = by_rhs.iter().map(|losses| losses[group]).collect();
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
