//! Outlier channels: columns of A so large that they alone would set the scale.
//!
//! In vision transformers a few tokens carry one channel tens of times larger than the rest. One scale has to choose
//! between clipping it and rounding all others coarsely. The products of such a channel are few enough to stay float.

use super::search::{Problem, Rhs, column_maxima};

/// How many times larger an outlier is than every other channel, at least.
const RATIO: f32 = 4.0;

/// One channel in this many may be an outlier; in a layer of fewer channels, one may.
const SHARE: usize = 64;

/// Sets the outlier channels of a linear `problem` to zero, and returns their indices in ascending order.
pub(super) fn take(problem: &mut Problem) -> Vec<usize> {
    if !matches!(problem.b, Rhs::Weight(_)) {
        return Vec::new();
    }
    let channels = find(&column_maxima(&problem.a));
    remove(problem, &channels);
    channels
}

/// Sets these channels of `problem` to zero.
pub(super) fn remove(problem: &mut Problem, channels: &[usize]) {
    for &channel in channels {
        problem.a.iter_mut().for_each(|a| a.column_mut(channel).fill(0.0));
        problem.b.matrices_mut().iter_mut().for_each(|b| b.row_mut(channel).fill(0.0));
    }
}

/// The most channels that [`SHARE`] allows, each of them [`RATIO`] times larger than every other one; else none.
fn find(largest: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..largest.len()).collect();
    order.sort_by(|&i, &j| largest[j].total_cmp(&largest[i]));
    let allowed = (largest.len() / SHARE).max(1);
    let split = |count: &usize| {
        let (outlier, other) = (largest[order[count - 1]], largest[order[*count]]);
        other > 0.0 && outlier >= RATIO * other
    };
    let count = (1..=allowed).rev().filter(|&count| count < order.len()).find(split).unwrap_or(0);
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use ndarray::rcarr2;

    use super::super::search::LhsKind;
    use super::*;

    #[test]
    fn outliers_are_few_and_far_above_the_rest() {
        let many = |outliers: &[(usize, f32)]| {
            let mut largest = vec![1.0; 128];
            for &(i, x) in outliers {
                largest[i] = x;
            }
            find(&largest)
        };
        assert_eq!(many(&[(7, 4.0)]), [7]);
        assert_eq!(many(&[(7, 3.9)]), [0; 0]);
        assert_eq!(many(&[(90, 5.0), (7, 300.0)]), [7, 90]);
        assert_eq!(many(&[(90, 3.0), (7, 300.0)]), [7], "3 is no outlier beside 1");
        assert_eq!(many(&[(1, 9.0), (2, 9.0), (3, 9.0)]), [0; 0], "three of 128 are too many");
        assert_eq!(find(&[5.0, 1.0]), [0]);
        assert_eq!(find(&[0.0, 0.0]), [0; 0], "no channel is above zeros");
        assert_eq!(find(&[5.0]), [0; 0], "all channels are no outliers");
    }

    #[test]
    fn outliers_leave_both_operands() {
        let mut problem = Problem {
            a: vec![rcarr2(&[[1.0, -8.0]]), rcarr2(&[[0.5, 0.0]])],
            a_kind: LhsKind::Uniform,
            b: Rhs::Weight(rcarr2(&[[1.0, 2.0], [3.0, 4.0]])),
            groups: std::iter::once(0..2).collect(),
            curvature: vec![],
            units: vec![],
        };
        assert_eq!(take(&mut problem), [1]);
        assert_eq!(problem.a, [rcarr2(&[[1.0, 0.0]]), rcarr2(&[[0.5, 0.0]])]);
        assert!(matches!(problem.b, Rhs::Weight(b) if b == rcarr2(&[[1.0, 2.0], [0.0, 0.0]])));
    }
}
