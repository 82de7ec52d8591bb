//! Algorithm 1 with its exact reductions: a candidate is evaluated until its partial loss exceeds the best whole loss,
//! and a round ends the search when it changes nothing. The winners are those of [`super::exhaustive`].

use super::evaluate::Evaluator;
use super::{Problem, Settings, Solution, candidates, race};
use crate::Result;

/// Finds the scales of one problem.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lhs_candidates = candidates::lhs(&problem, settings)?;
    let rhs_candidates = candidates::rhs(&problem, settings)?;
    let mut scales = candidates::initial_rhs(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;
    let stretches = evaluator.stretches();

    // The candidate of B by group; before the first round, B has the initial scales, which are no candidate.
    let mut b_winners: Option<Vec<usize>> = None;
    let mut a_winner = None;
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_rhs(&scales);
        let step = |candidate: usize, (): &(), stretch: usize, sums: &mut [f64]| {
            let codes = evaluator.codes(stretch, lhs_candidates[candidate]);
            sums[0] += evaluator.loss(stretch, lhs_candidates[candidate], &codes, &b);
        };
        let best = race::winners(lhs_candidates.len(), stretches, 1, |_| (), step)[0];
        let before = a_winner.replace(best.0);
        if a_winner == before {
            break;
        }

        let a = lhs_candidates[best.0];
        let codes = evaluator.quantize_lhs(a);
        let start = |candidate: usize| evaluator.quantize_rhs(&rhs_candidates[candidate]);
        let mut best = Vec::new();
        for unit in 0..evaluator.units() {
            let groups = evaluator.groups_of(unit).len();
            best.extend(race::winners(
                rhs_candidates.len(),
                stretches,
                groups,
                start,
                |_, b, stretch, sums| {
                    evaluator.add_unit_losses(stretch, a, &codes[stretch], b, unit, sums);
                },
            ));
        }
        let found: Vec<usize> = best.iter().map(|(i, _)| *i).collect();
        loss = best.iter().map(|(_, loss)| loss).sum();
        scales = found.iter().enumerate().map(|(group, &i)| rhs_candidates[i][group]).collect();
        if b_winners.as_ref() == Some(&found) {
            break;
        }
        b_winners = Some(found);
    }
    let a = lhs_candidates[a_winner.expect("there is a round")];
    Ok(Solution { a, b: scales, loss })
}
