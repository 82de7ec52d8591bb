//! Algorithm 1 with its exact reductions: a candidate is evaluated until its partial loss exceeds the best whole loss,
//! and a round ends the search when it changes nothing. The winners are those of [`super::exhaustive`].

use super::evaluate::Evaluator;
use super::{Problem, Settings, Solution, candidates, race};
use crate::Result;

/// Finds the scales of one problem.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lefts = candidates::left(&problem, settings)?;
    let rights = candidates::right(&problem, settings)?;
    let mut scales = candidates::initial_right(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;
    let stretches = evaluator.stretches();

    // The candidate of B by group; before the first round, B has the initial scales, which are no candidate.
    let mut b_winners: Option<Vec<usize>> = None;
    let mut a_winner = None;
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_right(&scales);
        let step = |candidate: usize, (): &(), stretch: usize, sums: &mut [f64]| {
            let codes = evaluator.codes(stretch, lefts[candidate]);
            sums[0] += evaluator.loss(stretch, lefts[candidate], &codes, &b);
        };
        let best = race::winners(lefts.len(), stretches, 1, |_| (), step)[0];
        let before = a_winner.replace(best.0);
        if a_winner == before {
            break;
        }

        let a = lefts[best.0];
        let codes = evaluator.quantize_left(a);
        let start = |candidate: usize| evaluator.quantize_right(&rights[candidate]);
        let mut best = Vec::new();
        for unit in 0..evaluator.units() {
            let groups = evaluator.groups_of(unit).len();
            best.extend(race::winners(rights.len(), stretches, groups, start, |_, b, stretch, sums| {
                evaluator.add_unit_losses(stretch, a, &codes[stretch], b, unit, sums);
            }));
        }
        let found: Vec<usize> = best.iter().map(|(i, _)| *i).collect();
        loss = best.iter().map(|(_, loss)| loss).sum();
        scales = found.iter().enumerate().map(|(group, &i)| rights[i][group]).collect();
        if b_winners.as_ref() == Some(&found) {
            break;
        }
        b_winners = Some(found);
    }
    let a = lefts[a_winner.expect("there is a round")];
    Ok(Solution { a, b: scales, loss })
}
