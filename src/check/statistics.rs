//! How far a rate may be from what it would be on all images: intervals of 95 % confidence, in percent.

/// The quantile of the normal distribution for 95 %, both sides.
const Z: f64 = 1.959_963_984_540_054;

/// The interval of Wilson (1927) for a rate of `hits` in `n`, in percent.
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 100.0];
    }
    let (n, rate) = (n as f64, hits as f64 / n as f64);
    let shrink = 1.0 + Z * Z / n;
    let centre = (rate + Z * Z / (2.0 * n)) / shrink;
    let half = Z / shrink * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    [centre - half, centre + half].map(|bound| 100.0 * bound.clamp(0.0, 1.0))
}

/// The interval of Agresti and Min (2005) for the difference of two rates of the same `n` images, in percentage points, where
/// `only_first` have only the first hit and `only_second` the other.
pub fn paired(only_first: usize, only_second: usize, n: usize) -> [f64; 2] {
    let (b, c, n) = (only_first as f64 + 0.5, only_second as f64 + 0.5, n as f64 + 2.0);
    let difference = (b - c) / n;
    let half = Z * (b + c - (b - c) * (b - c) / n).max(0.0).sqrt() / n;
    [difference - half, difference + half].map(|bound| 100.0 * bound.clamp(-1.0, 1.0))
}

/// The exact test of `McNemar` (1947): how probable at least so unequal a split of the images that only one model gets right is,
/// if both are equally good.
pub fn mcnemar(only_first: usize, only_second: usize) -> f64 {
    let n = only_first + only_second;
    (2.0 * at_least(only_first.max(only_second), n, 0.5)).min(1.0)
}

/// How probable `hits` or more in `n` are at a rate of `p`.
pub(super) fn at_least(hits: usize, n: usize, p: f64) -> f64 {
    if hits == 0 || p >= 1.0 {
        return 1.0;
    }
    if hits > n || p <= 0.0 {
        return 0.0;
    }
    // ln of n choose k, from k = 0 on.
    let (mut ln_choose, mut sum) = (0.0, 0.0);
    for k in 0..=n {
        if k >= hits {
            sum += (ln_choose + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp();
        }
        ln_choose += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn wilson_bounds_are_the_rates_that_the_score_test_just_does_not_reject() {
        for (hits, n) in [(0, 10), (3, 10), (10, 10), (915, 1000), (1, 3)] {
            let rate = hits as f64 / n as f64;
            for bound in wilson(hits, n).map(|bound| bound / 100.0) {
                let score = (rate - bound).abs() - Z * (bound * (1.0 - bound) / n as f64).sqrt();
                assert!(score.abs() < 1e-6, "{hits} of {n}: {bound}");
            }
        }
        assert_eq!(wilson(0, 0), [0.0, 100.0]);
    }

    #[test]
    fn tails_are_the_sums_of_their_terms() {
        // n choose k of small numbers, exactly.
        let choose = |n: u64, k: u64| (0..k).fold(1, |product, i| product * (n - i) / (i + 1));
        for (hits, n, p) in [(3, 10, 0.5), (0, 4, 0.1), (9, 9, 0.25), (1, 20, 0.001)] {
            let term = |k| choose(n, k) as f64 * f64::powi(p, k as i32) * f64::powi(1.0 - p, (n - k) as i32);
            close(at_least(hits as usize, n as usize, p), (hits..=n).map(term).sum());
        }
        // The terms of a large n are below the smallest f64, their sum is not.
        let half = at_least(25_000, 50_000, 0.5);
        assert!((half - 0.5 - 0.5 * 0.003_568_230_39).abs() < 1e-8, "{half}");
    }

    #[test]
    fn equal_models_are_told_from_others() {
        close(mcnemar(5, 5), 1.0);
        close(mcnemar(0, 0), 1.0);
        // 2 · (1 + 10) / 2^10
        close(mcnemar(9, 1), 22.0 / 1024.0);
        close(mcnemar(1, 9), 22.0 / 1024.0);
    }

    #[test]
    fn an_interval_of_a_difference_holds_it() {
        let [low, high] = paired(30, 10, 1000);
        // (30.5 − 10.5)/1002 and 1.96·√(41 − 400/1002)/1002.
        close(f64::midpoint(low, high), 100.0 * 20.0 / 1002.0);
        close(high - low, 100.0 * 2.0 * Z * (41.0f64 - 400.0 / 1002.0).sqrt() / 1002.0);
        let [low, high] = paired(0, 0, 10);
        assert!(low < 0.0 && high > 0.0, "ten images cannot tell");
    }
}
