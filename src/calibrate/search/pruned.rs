//! Algorithm 1 with its exact reductions: a candidate is dropped once its partial loss exceeds the best whole loss
//! known, and a round ends the search when it changes nothing. The winners are those of the plain loop.

use std::borrow::Cow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::evaluate::Evaluator;
use super::{Problem, Settings, Solution, candidates};
use crate::Result;
use crate::quant::Codes;

/// Far above what the order of summation can change in f64, and far below what tells candidates apart.
const SLACK: f64 = 1.0 + 1e-10;

/// Finds the scales of one problem.
pub fn search(problem: &Problem, settings: &Settings) -> Result<Solution> {
    search_with(problem, settings, true)
}

/// As [`search`]; `prune` says whether hopeless candidates are dropped early, which changes no result.
pub(super) fn search_with(problem: &Problem, settings: &Settings, prune: bool) -> Result<Solution> {
    let evaluator = Evaluator::new(problem, settings);
    let lefts = candidates::left(problem, settings)?;
    let rights = candidates::right(problem, settings)?;
    let pictures = problem.a.len();

    // The candidate of B by group; before the first round, B has the initial scales, which are no candidate.
    let mut b_winners: Option<Vec<usize>> = None;
    let mut a_winner = (lefts.len() - 1) * 5 / 6; // near max|x|/2^(k−1) on a grid up to 1.2 times that
    let mut scales = candidates::initial_right(problem, settings)?;
    let mut loss = f64::INFINITY;
    for round in 0..settings.rounds {
        let b = evaluator.pack_all(&scales);
        let best = winners(lefts.len(), 1, a_winner, |i, hopeless| {
            let a = lefts[i];
            let codes = |p| Cow::Owned(evaluator.quantize_left(p, a));
            let total = |sums: &[f64]| sums.iter().sum::<f64>();
            let losses = evaluator.losses(a.unit(), codes, &b, |sums| prune && hopeless(&[total(sums)]))?;
            Some(vec![total(&losses)])
        });
        let a_changed = round == 0 || best[0].0 != a_winner;
        (a_winner, loss) = best[0];
        if !a_changed {
            break;
        }

        let a = lefts[a_winner];
        let codes: Vec<Codes> =
            (0..pictures).into_par_iter().map(|p| evaluator.quantize_left(p, a)).collect();
        let start = b_winners.as_ref().map_or((settings.candidates - 1) * 5 / 6, |w| w[0]);
        let best = winners(rights.len(), problem.groups.len(), start, |i, hopeless| {
            let b = evaluator.pack(&rights[i]);
            evaluator.losses(a.unit(), |p| Cow::Borrowed(&codes[p]), &b, |sums| prune && hopeless(sums))
        });
        let found: Vec<usize> = best.iter().map(|(i, _)| *i).collect();
        loss = best.iter().map(|(_, loss)| loss).sum();
        scales = found.iter().enumerate().map(|(group, &i)| rights[i][group]).collect();
        if b_winners.as_ref() == Some(&found) {
            break;
        }
        b_winners = Some(found);
    }
    Ok(Solution { a: lefts[a_winner], b: scales, loss })
}

/// By group, the candidate of the least loss (the first of equals) and that loss.
///
/// `evaluate(candidate, hopeless)` gives the losses by group, or `None` once `hopeless(partial losses)`; the
/// candidates nearest to `start` come first, because they are likely to be good.
fn winners(
    count: usize,
    groups: usize,
    start: usize,
    evaluate: impl Fn(usize, &dyn Fn(&[f64]) -> bool) -> Option<Vec<f64>> + Sync,
) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&i| i.abs_diff(start));
    let best = Mutex::new(vec![(usize::MAX, f64::INFINITY); groups]);
    let next = AtomicUsize::new(0);
    (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
        while let Some(&candidate) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            // A partial loss that equals the best is kept: the tie goes to the lower index. Partial losses are summed in
            // another order than whole ones, hence the slack.
            let hopeless = |partial: &[f64]| {
                let best = best.lock().expect("no evaluation panics while holding the lock");
                partial.iter().zip(best.iter()).all(|(partial, (_, best))| *partial > best * SLACK)
            };
            let Some(losses) = evaluate(candidate, &hopeless) else { continue };
            let mut best = best.lock().expect("no evaluation panics while holding the lock");
            for (best, loss) in best.iter_mut().zip(losses) {
                if loss < best.1 || (loss == best.1 && candidate < best.0) {
                    *best = (candidate, loss);
                }
            }
        }
    });
    best.into_inner().expect("no evaluation panics while holding the lock")
}
