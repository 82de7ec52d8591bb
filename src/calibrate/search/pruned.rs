//! Algorithm 1 with its exact reductions: a candidate is dropped once its partial loss exceeds the best whole loss
//! known, and a round ends the search when it changes nothing. The winners are those of [`super::exhaustive`].

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::evaluate::{Evaluator, Left, Sums};
use super::{Problem, Settings, Solution, candidates};
use crate::Result;

/// Finds the scales of one problem.
pub(super) fn search(problem: Problem, settings: &Settings) -> Result<Solution> {
    let lefts = candidates::left(&problem, settings)?;
    let rights = candidates::right(&problem, settings)?;
    let mut scales = candidates::initial_right(&problem, settings)?;
    let evaluator = Evaluator::new(problem, settings)?;

    // The candidate of B by group; before the first round, B has the initial scales, which are no candidate.
    let mut b_winners: Option<Vec<usize>> = None;
    let mut a_winner = None;
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let b = evaluator.quantize_right(&scales);
        let race = Race { candidates: lefts.len(), sums: 1, stretches: evaluator.stretches() };
        let best = race.winners(|candidate, stretches, sums, hopeless| {
            evaluator.add_losses(stretches, Left::Candidate(lefts[candidate]), &b, Sums::Joint, sums, hopeless)
        });
        let before = a_winner.replace(best[0].0);
        loss = best[0].1;
        if a_winner == before {
            break;
        }

        let a = lefts[best[0].0];
        let codes = evaluator.quantize_left(a);
        let race = Race { candidates: rights.len(), sums: scales.len(), ..race };
        let rights_packed: Vec<_> = rights.iter().map(|scales| evaluator.quantize_right(scales)).collect();
        let best = race.winners(|candidate, stretches, sums, hopeless| {
            let b = &rights_packed[candidate];
            evaluator.add_losses(stretches, Left::Codes(a, &codes), b, Sums::ByGroup, sums, hopeless)
        });
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

/// A comparison of candidates by one sum of losses or several.
#[derive(Clone, Copy)]
struct Race {
    candidates: usize,
    sums: usize,
    stretches: usize,
}

impl Race {
    /// By sum, the candidate of the least (the first of equals) and that least.
    ///
    /// `add(candidate, stretches, sums, hopeless)` adds the losses of some stretches to `sums`, and gives up (false)
    /// once all sums are `hopeless(index, sum)`. All candidates run the first stretch, which is the heaviest; the most
    /// promising then go first, so that those that follow are measured by a good one.
    fn winners(
        &self,
        add: impl Fn(usize, std::ops::Range<usize>, &mut [f64], &dyn Fn(usize, f64) -> bool) -> bool + Sync,
    ) -> Vec<(usize, f64)> {
        let heats = self.stretches.min(1);
        let heat = |candidate| {
            let mut sums = vec![0f64; self.sums];
            add(candidate, 0..heats, &mut sums, &|_, _| false);
            sums
        };
        let heats_run: Vec<Vec<f64>> = (0..self.candidates).into_par_iter().map(heat).collect();

        let best = Mutex::new(vec![(usize::MAX, f64::INFINITY); self.sums]);
        let order = by_promise(&heats_run);
        let next = AtomicUsize::new(0);
        (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
            while let Some(&candidate) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                // A partial loss that equals the best is kept: the tie goes to the lower index.
                let hopeless = |index: usize, sum: f64| sum > lock(&best)[index].1;
                let mut sums = heats_run[candidate].clone();
                if !add(candidate, heats..self.stretches, &mut sums, &hopeless) {
                    continue;
                }
                for (best, loss) in lock(&best).iter_mut().zip(sums) {
                    if loss < best.1 || (loss == best.1 && candidate < best.0) {
                        *best = (candidate, loss);
                    }
                }
            }
        });
        best.into_inner().expect("no evaluation panics while holding the lock")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no evaluation panics while holding the lock")
}

/// The candidates, those first that are nearest to the least of some sum.
fn by_promise(sums: &[Vec<f64>]) -> Vec<usize> {
    let least: Vec<f64> = (0..sums[0].len())
        .map(|i| sums.iter().map(|sums| sums[i]).fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE))
        .collect();
    let distance =
        |sums: &Vec<f64>| sums.iter().zip(&least).map(|(s, least)| s / least).fold(f64::INFINITY, f64::min);
    let distances: Vec<f64> = sums.iter().map(distance).collect();
    let mut order: Vec<usize> = (0..sums.len()).collect();
    order.sort_by(|&i, &j| distances[i].total_cmp(&distances[j]));
    order
}
