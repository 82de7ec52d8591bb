//! The figures of a comparison, each as its formula. Sums are in f64, from the first element to the last.

use std::cmp::Ordering;
use std::fmt;
use std::ops::AddAssign;

use ndarray::{ArrayD, ArrayView1, Axis};
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::Reading;

/// Signal and noise power, from which the ratio follows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "Option<f64>"))]
pub struct Sqnr {
    /// `Σo²`.
    pub signal: f64,
    /// `Σ(ô−o)²`.
    pub noise: f64,
}

impl Sqnr {
    /// Of `ô` (quantized) against `o` (float).
    pub fn of<'a>(
        o: impl IntoIterator<Item = &'a f32>,
        quantized: impl IntoIterator<Item = &'a f32>,
    ) -> Self {
        let mut sums = Self::default();
        for (&o, &q) in o.into_iter().zip(quantized) {
            let (o, q) = (f64::from(o), f64::from(q));
            sums.signal += o * o;
            sums.noise += (q - o) * (q - o);
        }
        sums
    }

    /// Of the output of a site, as far as what reads it can tell: a quantized model may have its channels in another range,
    /// which the layers behind take back. `o` is compared with the nearest `a·ô + b` of each channel (of each matrix
    /// `[…, tokens, channels]`, if there are tokens enough to tell), and what a Softmax takes without the mean of each row.
    pub fn of_site(o: &ArrayD<f32>, quantized: &ArrayD<f32>, before_softmax: bool) -> Self {
        const ENOUGH: usize = 16;
        let rank = o.ndim();
        if before_softmax && rank > 0 {
            let centred = |x: &ArrayD<f32>| {
                let mut x = x.clone();
                for mut row in x.lanes_mut(Axis(rank - 1)) {
                    let mean = row.mean().unwrap_or(0.0);
                    row -= mean;
                }
                x
            };
            return Self::of(&centred(o), &centred(quantized));
        }
        if rank < 3 || o.shape()[rank - 2] < ENOUGH {
            return Self::of(o, quantized);
        }
        let mut sums = Self::default();
        for (o, q) in o.lanes(Axis(rank - 2)).into_iter().zip(quantized.lanes(Axis(rank - 2))) {
            let mean = |x: &ArrayView1<f32>| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
            let (mean_o, mean_q) = (mean(&o), mean(&q));
            let (mut oo, mut oq, mut qq) = (0.0, 0.0, 0.0);
            for (&o, &q) in o.iter().zip(q) {
                let (o, q) = (f64::from(o) - mean_o, f64::from(q) - mean_q);
                oo += o * o;
                oq += o * q;
                qq += q * q;
            }
            sums.signal += o.iter().map(|&o| f64::from(o) * f64::from(o)).sum::<f64>();
            sums.noise += if qq > 0.0 { (oo - oq * oq / qq).max(0.0) } else { oo };
        }
        sums
    }

    /// `10·log10(Σo² / Σ(ô−o)²)`; `None` where it is no number: both agree exactly, or the signal is zero.
    pub fn db(self) -> Option<f64> {
        Some(10.0 * (self.signal / self.noise).log10()).filter(|db| db.is_finite())
    }
}

impl AddAssign for Sqnr {
    fn add_assign(&mut self, other: Self) {
        self.signal += other.signal;
        self.noise += other.noise;
    }
}

impl fmt::Display for Sqnr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.db() {
            Some(db) => f.pad(&format!("{db:.2} dB")),
            None if self.noise == 0.0 => f.pad("exact"),
            None => f.pad("no signal"),
        }
    }
}

/// As decibels, or null.
impl Serialize for Sqnr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.db().serialize(serializer)
    }
}

/// Both powers of a ratio, for what is not yet the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Powers(f64, f64);

impl From<Sqnr> for Powers {
    fn from(Sqnr { signal, noise }: Sqnr) -> Self {
        Self(signal, noise)
    }
}

impl From<Powers> for Sqnr {
    fn from(Powers(signal, noise): Powers) -> Self {
        Self { signal, noise }
    }
}

impl Powers {
    /// The one in relation to the other; 0 where neither is anything.
    pub(super) fn relative_noise(self) -> f64 {
        if self.1 == 0.0 { 0.0 } else { (self.1 / self.0).min(f64::MAX) }
    }
}

impl AddAssign for Powers {
    fn add_assign(&mut self, other: Self) {
        *self = Self(self.0 + other.0, self.1 + other.1);
    }
}

/// `KL(softmax(o) ‖ softmax(ô))` in nats.
pub fn kl(o: &[f32], quantized: &[f32]) -> f64 {
    log_softmax(o).zip(log_softmax(quantized)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// How far the outputs `quantized` of some images are from those of the float model, on average: the KL divergence in nats of
/// classes or labels; of others the squared error relative to the squares.
pub fn distance(reading: Reading, float: &ArrayD<f32>, quantized: &ArrayD<f32>) -> f64 {
    let of_rows = |axis: usize, kl: fn(&[f32], &[f32]) -> f64| {
        let rows = float.lanes(Axis(axis)).into_iter().zip(quantized.lanes(Axis(axis)));
        let (sum, count) =
            rows.fold((0.0, 0usize), |(sum, count), (o, q)| (sum + kl(&o.to_vec(), &q.to_vec()), count + 1));
        sum / count.max(1) as f64
    };
    let last = float.ndim().saturating_sub(1);
    let sigmoid_kl = |o: &[f32], q: &[f32]| binary_kl(&sigmoid(o), &sigmoid(q));
    match reading {
        Reading::Logits(None) if float.ndim() == 2 => of_rows(1, kl),
        Reading::Logits(Some(axis)) if axis < float.ndim() => of_rows(axis, kl),
        Reading::Probabilities if float.ndim() > 1 => of_rows(last, probability_kl),
        Reading::LabelProbabilities if float.ndim() > 1 => of_rows(last, binary_kl),
        Reading::LabelLogits if float.ndim() > 1 => of_rows(last, sigmoid_kl),
        _ => {
            let Sqnr { signal, noise } = Sqnr::of(float, quantized);
            if signal > 0.0 { noise / signal } else { noise }
        }
    }
}

/// `KL(o ‖ ô)` in nats, of probabilities; none is taken for smaller than the smallest positive f32.
pub fn probability_kl(o: &[f32], quantized: &[f32]) -> f64 {
    let positive = |p: f32| f64::from(p.max(f32::MIN_POSITIVE));
    o.iter().zip(quantized).map(|(&p, &q)| positive(p) * (positive(p).ln() - positive(q).ln())).sum()
}

/// The sum over labels of the KL divergence, in nats, of a label's probability from another.
pub fn binary_kl(o: &[f32], quantized: &[f32]) -> f64 {
    let of = |(&p, &q): (&f32, &f32)| probability_kl(&[p, 1.0 - p], &[q, 1.0 - q]);
    o.iter().zip(quantized).map(of).sum()
}

/// The probabilities of labels.
pub(super) fn sigmoid(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
}

/// `⟨o, ô⟩ / (|o|·|ô|)`; 1 if both are zero, 0 if one is.
pub fn cosine(o: &[f32], quantized: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    match (dot(o, o), dot(quantized, quantized)) {
        (0.0, 0.0) => 1.0,
        (0.0, _) | (_, 0.0) => 0.0,
        (oo, qq) => dot(o, quantized) / (oo.sqrt() * qq.sqrt()),
    }
}

/// The classes by falling logit, at most `k`; of equal logits the lower class first.
pub fn top(logits: &[f32], k: usize) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    // Stable: ties keep the order of the classes.
    classes.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap_or(Ordering::Equal));
    classes.truncate(k);
    classes
}

/// The first of [`top`]; `None` if there are no classes.
pub(super) fn first_place(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).reduce(|best, class| if logits[class] > logits[best] { class } else { best })
}

/// The place of `class` in the order of [`top`], from 0.
pub fn rank(logits: &[f32], class: usize) -> usize {
    let own = logits[class];
    logits.iter().enumerate().filter(|&(at, &logit)| logit > own || (logit == own && at < class)).count()
}

fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_sum = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
    logits.iter().map(move |&x| f64::from(x) - max - log_sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of sums of a handful of f64 terms.
    const TOLERANCE: f64 = 1e-12;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < TOLERANCE, "{found}, expected {expected}");
    }

    #[test]
    fn kl_of_known_distributions() {
        let ln = |p: [f64; 2]| p.map(|p| p.ln() as f32);
        close(kl(&[3.0, -1.0], &[3.0, -1.0]), 0.0);
        // Softmax ignores a common shift, however large.
        close(kl(&[0.0, 0.0], &[1000.0, 1000.0]), 0.0);
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ½·ln 2 + ½·ln(2/3). ln q is rounded to f32.
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln();
        assert!((kl(&[0.0, 0.0], &ln([0.25, 0.75])) - expected).abs() < 1e-7);
        // The other way round it is another number: KL(q ‖ p).
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((kl(&ln([0.25, 0.75]), &[0.0, 0.0]) - expected).abs() < 1e-7);
    }

    #[test]
    fn sqnr_is_a_ratio_of_powers() {
        let db = |o: &[f32], q: &[f32]| Sqnr::of(o, q).db();
        close(db(&[3.0, 4.0], &[3.0, 4.5]).unwrap(), 20.0);
        close(db(&[1.0], &[2.0]).unwrap(), 0.0);
        assert_eq!(db(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(db(&[0.0], &[1.0]), None);
        assert_eq!(Sqnr::of(&[1.0], &[1.0]).to_string(), "exact");
        assert_eq!(Sqnr::of(&[0.0], &[1.0]).to_string(), "no signal");
        let mut sum = Sqnr::of(&[3.0], &[3.0]);
        sum += Sqnr::of(&[4.0], &[4.5]);
        assert_eq!(sum, Sqnr::of(&[3.0, 4.0], &[3.0, 4.5]));
    }

    #[test]
    fn cosine_of_known_angles() {
        close(cosine(&[1.0, 0.0], &[2.0, 2.0]), 0.5f64.sqrt());
        close(cosine(&[1.0, 2.0], &[-2.0, -4.0]), -1.0);
        close(cosine(&[0.0], &[0.0]), 1.0);
        close(cosine(&[0.0], &[1.0]), 0.0);
    }

    #[test]
    fn ties_go_to_the_lowest_class() {
        let logits = [1.0, 3.0, 0.0, 3.0, 1.0];
        assert_eq!(top(&logits, 5), [1, 3, 0, 4, 2]);
        assert_eq!(top(&logits, 2), [1, 3]);
        for (place, &class) in top(&logits, 5).iter().enumerate() {
            assert_eq!(rank(&logits, class), place);
        }
        assert_eq!(top(&[0.0; 7], 3), [0, 1, 2]);
        assert_eq!(rank(&[-0.0, 0.0], 1), 1);
    }
}
