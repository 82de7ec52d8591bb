//! Best-first search for the candidate of the least loss, with no more evaluations than it takes to prove it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard};

use rayon::prelude::*;

/// A candidate that is evaluated in part.
struct Candidate<S> {
    index: usize,
    /// The row block to evaluate next.
    next: usize,
    /// The sums of its losses so far.
    sums: Vec<f64>,
    /// The least of `sums`.
    least: f64,
    state: S,
}

/// What all threads share.
struct Shared<S> {
    /// The candidates that no thread evaluates at the moment.
    queue: BinaryHeap<Candidate<S>>,
    /// For each sum, the best of the candidates that are evaluated in full.
    winners: Vec<Winner>,
}

/// The candidate of the least loss.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Winner {
    pub(super) candidate: usize,
    pub(super) loss: f64,
}

/// For each of `sums` sums over all row blocks, the candidate for which it is least (the first of equals).
///
/// `evaluate(candidate, state, row_block, sums)` adds the non-negative losses of one row block; `state` is the
/// candidate's own, made by `start(candidate)` and dropped with it. The candidate of the least partial sum is always
/// evaluated next (as in Dijkstra's algorithm), so that none is evaluated further than to where it exceeds the winner.
pub(super) fn winners<S: Send>(
    candidates: usize,
    row_blocks: usize,
    sums: usize,
    start: impl Fn(usize) -> S,
    evaluate: impl Fn(usize, &S, usize, &mut [f64]) + Sync,
) -> Vec<Winner> {
    let candidate =
        |index| Candidate { index, next: 0, sums: vec![0.0; sums], least: 0.0, state: start(index) };
    let shared = Mutex::new(Shared {
        queue: (0..candidates).map(candidate).collect(),
        winners: vec![Winner { candidate: usize::MAX, loss: f64::INFINITY }; sums],
    });
    (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
        while let Some(mut candidate) = pop(&shared) {
            if candidate.next < row_blocks {
                evaluate(candidate.index, &candidate.state, candidate.next, &mut candidate.sums);
                candidate.next += 1;
                candidate.least = candidate.sums.iter().copied().fold(f64::INFINITY, f64::min);
            }
            let mut shared = lock(&shared);
            if candidate.next < row_blocks {
                shared.queue.push(candidate);
                continue;
            }
            for (winner, &loss) in shared.winners.iter_mut().zip(&candidate.sums) {
                if loss < winner.loss || (loss == winner.loss && candidate.index < winner.candidate) {
                    *winner = Winner { candidate: candidate.index, loss };
                }
            }
        }
    });
    shared.into_inner().expect(NO_PANIC).winners
}

/// Takes the candidate of the least partial sum that can still win or tie; drops those before it.
fn pop<S>(shared: &Mutex<Shared<S>>) -> Option<Candidate<S>> {
    let mut shared = lock(shared);
    while let Some(candidate) = shared.queue.pop() {
        if candidate.sums.iter().zip(&shared.winners).any(|(&sum, winner)| sum <= winner.loss) {
            return Some(candidate);
        }
    }
    None
}

const NO_PANIC: &str = "no thread panics while holding the lock";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(NO_PANIC)
}

/// The greatest, which the heap gives first, is the candidate of the least partial sum.
impl<S> Ord for Candidate<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.least.total_cmp(&self.least).then(other.index.cmp(&self.index))
    }
}

impl<S> PartialOrd for Candidate<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Candidate<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<S> Eq for Candidate<S> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn winner(candidate: usize, loss: f64) -> Winner {
        Winner { candidate, loss }
    }

    #[test]
    fn the_least_sum_wins_and_ties_go_to_the_first() {
        // For each candidate, the losses of three row blocks in two sums.
        let losses = [
            [[5, 0], [0, 0], [0, 9]],
            [[1, 2], [1, 2], [1, 2]],
            [[0, 3], [0, 3], [3, 0]],
            [[9, 0], [9, 0], [9, 7]],
        ];
        let add = |candidate: usize, (): &(), row_block: usize, sums: &mut [f64]| {
            let losses = losses[candidate][row_block];
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += f64::from(loss));
        };
        assert_eq!(winners(4, 3, 2, |_| (), add), [winner(1, 3.0), winner(1, 6.0)]);
    }

    #[test]
    fn no_candidate_is_evaluated_further_than_it_must() {
        let evaluated = Mutex::new(vec![0; 10]);
        let add = |candidate: usize, (): &(), _, sums: &mut [f64]| {
            evaluated.lock().unwrap()[candidate] += 1;
            sums[0] += (candidate + 1) as f64;
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| winners(10, 8, 1, |_| (), add)), [winner(0, 8.0)]);
        let evaluated = evaluated.into_inner().unwrap();
        assert_eq!(evaluated, [8, 5, 3, 3, 2, 2, 2, 2, 1, 1], "until the sum exceeds 8");
    }

    #[test]
    fn without_rows_the_first_candidate_wins() {
        assert_eq!(winners(3, 0, 1, |_| (), |_, (), _, _| unreachable!()), [winner(0, 0.0)]);
    }
}
