//! Algorithm 1 as it is written: every candidate in every round, to the last row.

use rayon::prelude::*;

use super::evaluate::Evaluator;
use super::{Problem, Settings, Solution, candidates};
use crate::Result;
use crate::quant::{Quantizer, Scale};

/// Finds the scales of one problem, slowly.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lefts = candidates::left(&problem, settings)?;
    let rights = candidates::right(&problem, settings)?;
    let mut scales = candidates::initial_right(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;
    let mut a = lefts[0];
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_right(&scales);
        let of_left = |&a: &Quantizer| {
            (0..evaluator.stretches()).map(|s| evaluator.loss(s, a, &evaluator.codes(s, a), &b)).sum()
        };
        let by_left: Vec<f64> = lefts.par_iter().map(of_left).collect();
        a = lefts[first_minimum(&by_left)];

        let codes = evaluator.quantize_left(a);
        let of_right = |b: &Vec<Scale>| {
            let b = evaluator.quantize_right(b);
            let mut sums = vec![0f64; scales.len()];
            for (stretch, codes) in codes.iter().enumerate() {
                for unit in 0..evaluator.units() {
                    let sums = &mut sums[evaluator.groups_of(unit)];
                    evaluator.add_unit_losses(stretch, a, codes, &b, unit, sums);
                }
            }
            sums
        };
        let by_right: Vec<Vec<f64>> = rights.par_iter().map(of_right).collect();
        loss = 0.0;
        for (group, scale) in scales.iter_mut().enumerate() {
            let of_group: Vec<f64> = by_right.iter().map(|losses| losses[group]).collect();
            let winner = first_minimum(&of_group);
            *scale = rights[winner][group];
            loss += of_group[winner];
        }
    }
    Ok(Solution { a, b: scales, loss })
}

fn first_minimum(losses: &[f64]) -> usize {
    (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}
