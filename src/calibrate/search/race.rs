//! Which candidate has the least sum of losses, with no more evaluations than it takes to prove it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard};

use rayon::prelude::*;

/// One candidate on its way through the stretches of rows.
struct Runner<S> {
    candidate: usize,
    /// The next stretch.
    next: usize,
    /// What it has lost so far.
    sums: Vec<f64>,
    /// The least of `sums`.
    key: f64,
    state: S,
}

/// What all threads share.
struct Field<S> {
    runners: BinaryHeap<Runner<S>>,
    /// By sum, the best candidate that has arrived, and its sum.
    best: Vec<(usize, f64)>,
}

/// For each of `sums` sums over all `stretches`, the candidate for which it is least (the first of equals), and that
/// least.
///
/// `step(candidate, state, stretch, sums)` adds the non-negative losses of one stretch; `state` is the candidate's own,
/// made by `start(candidate)` and dropped with it. The candidate of the least partial sum always moves next (as in
/// Dijkstra's algorithm), so that none goes further than to where it exceeds the winner.
pub(super) fn winners<S: Send>(
    candidates: usize,
    stretches: usize,
    sums: usize,
    start: impl Fn(usize) -> S,
    step: impl Fn(usize, &S, usize, &mut [f64]) + Sync,
) -> Vec<(usize, f64)> {
    let runner =
        |candidate| Runner { candidate, next: 0, sums: vec![0.0; sums], key: 0.0, state: start(candidate) };
    let field = Field {
        runners: (0..candidates).map(runner).collect(),
        best: vec![(usize::MAX, f64::INFINITY); sums],
    };
    let field = Mutex::new(field);
    (0..rayon::current_num_threads()).into_par_iter().for_each(|_| {
        loop {
            let Some(mut runner) = next(&field) else { return };
            if runner.next < stretches {
                step(runner.candidate, &runner.state, runner.next, &mut runner.sums);
                runner.next += 1;
                runner.key = runner.sums.iter().copied().fold(f64::INFINITY, f64::min);
            }
            let mut field = lock(&field);
            if runner.next < stretches {
                field.runners.push(runner);
                continue;
            }
            for (best, &sum) in field.best.iter_mut().zip(&runner.sums) {
                if sum < best.1 || (sum == best.1 && runner.candidate < best.0) {
                    *best = (runner.candidate, sum);
                }
            }
        }
    });
    field.into_inner().expect("no step panics while holding the lock").best
}

/// Takes the runner of the least key that can still win or tie; drops those before it.
fn next<S>(field: &Mutex<Field<S>>) -> Option<Runner<S>> {
    let mut field = lock(field);
    while let Some(runner) = field.runners.pop() {
        if runner.sums.iter().zip(&field.best).any(|(sum, (_, best))| sum <= best) {
            return Some(runner);
        }
    }
    None
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no step panics while holding the lock")
}

/// The greatest, which a heap gives first, is the runner of the least key.
impl<S> Ord for Runner<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.total_cmp(&self.key).then(other.candidate.cmp(&self.candidate))
    }
}

impl<S> PartialOrd for Runner<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Runner<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<S> Eq for Runner<S> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_sum_wins_and_ties_go_to_the_first() {
        // By candidate, the losses of three stretches in two sums.
        let losses = [
            [[5, 0], [0, 0], [0, 9]],
            [[1, 2], [1, 2], [1, 2]],
            [[0, 3], [0, 3], [3, 0]],
            [[9, 0], [9, 0], [9, 7]],
        ];
        let best = winners(
            4,
            3,
            2,
            |_| (),
            |candidate, (), stretch, sums| {
                sums.iter_mut()
                    .zip(losses[candidate][stretch])
                    .for_each(|(sum, loss)| *sum += f64::from(loss));
            },
        );
        assert_eq!(best, [(1, 3.0), (1, 6.0)]);
    }

    #[test]
    fn no_candidate_runs_further_than_it_must() {
        let steps = Mutex::new(vec![0; 10]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let best = pool.install(|| {
            winners(
                10,
                8,
                1,
                |_| (),
                |candidate, (), _, sums| {
                    steps.lock().unwrap()[candidate] += 1;
                    sums[0] += (candidate + 1) as f64;
                },
            )
        });
        assert_eq!(best, [(0, 8.0)]);
        assert_eq!(*steps.lock().unwrap(), [8, 5, 3, 3, 2, 2, 2, 2, 1, 1], "as soon as the sum exceeds 8");
    }

    #[test]
    fn without_rows_the_first_candidate_wins() {
        assert_eq!(winners(3, 0, 1, |_| (), |_, (), _, _| unreachable!()), [(0, 0.0)]);
    }
}
