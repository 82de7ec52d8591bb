//! Mean average precision of labels, of which an image may have any number. It takes the scores of all images, which are kept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::figures::sigmoid;
use crate::engine::Reading;

/// Scores of each model that are kept, at most: 256 MiB of both.
pub(super) const MOST_SCORES: usize = 1 << 25;

/// What both models give for the labels of some images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scores {
    /// How many labels there are.
    labels: usize,
    /// By image, and in it by label.
    #[serde(with = "packed")]
    float: Vec<f32>,
    #[serde(with = "packed")]
    quantized: Vec<f32>,
    /// The labels of every image, if they are known.
    given: Option<Vec<Vec<u32>>>,
}

/// How well labels are ranked: the mean over the labels that occur of the average precision, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Precision {
    /// Of the float model; `None` if no labels are given, and what it decides counts as right.
    pub float: Option<f64>,
    /// Of the quantized model.
    pub quantized: f64,
    /// How many labels occur.
    pub occurring: usize,
    /// The label whose average precision falls most, and by how many points.
    pub worst: (usize, f64),
}

impl Precision {
    /// What quantizing costs, in points.
    pub fn drop(&self) -> f64 {
        self.float.unwrap_or(100.0) - self.quantized
    }
}

impl Scores {
    /// Of images whose outputs `[N, …labels]` these are; an error if one has a label that the model does not give.
    pub(super) fn of(
        float: impl Iterator<Item = f32>,
        quantized: impl Iterator<Item = f32>,
        labels: usize,
        given: Option<&[Vec<u32>]>,
    ) -> Result<Self, String> {
        let unknown = given.into_iter().flatten().flatten().find(|&&label| label as usize >= labels);
        if let Some(label) = unknown {
            return Err(format!(
                "label {label} is outside the model's labels 0 to {}",
                labels.saturating_sub(1)
            ));
        }
        let given = given.map(<[_]>::to_vec);
        Ok(Self { labels, float: float.collect(), quantized: quantized.collect(), given })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.float.is_empty()
    }

    /// Whether they are of so many images, or of none.
    pub(super) fn is_sound(&self, images: usize) -> bool {
        let is_known = |label: &u32| (*label as usize) < self.labels;
        let finite = |scores: &[f32]| scores.iter().all(|score| score.is_finite());
        *self == Self::default()
            || self.labels > 0
                && Some(self.float.len()) == self.labels.checked_mul(images)
                && self.float.len() == self.quantized.len()
                && finite(&self.float)
                && finite(&self.quantized)
                && self
                    .given
                    .as_ref()
                    .is_none_or(|sets| sets.len() == images && sets.iter().flatten().all(is_known))
    }

    /// Adds the images behind these.
    pub(super) fn add(&mut self, other: &Self) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        self.float.extend(&other.float);
        self.quantized.extend(&other.quantized);
        if let (Some(own), Some(more)) = (&mut self.given, &other.given) {
            own.extend_from_slice(more);
        }
    }

    /// The figures, and what casts doubt on them; `None` if there are no scores of all `images`, or if no label occurs.
    pub(super) fn figures(&self, reading: Reading, images: usize) -> Option<(Precision, Option<String>)> {
        if self.is_empty() || !self.is_sound(images) {
            return None;
        }
        let truth = match &self.given {
            Some(sets) => sets.clone(),
            None => self.float.chunks(self.labels).map(|row| decided(row, reading)).collect(),
        };
        let [float, quantized] = [&self.float, &self.quantized].map(|of| self.precisions(of, &truth, 0));
        let pairs = || float.iter().zip(&quantized).enumerate();
        let falls =
            pairs().filter_map(|(label, (float, quantized))| Some((label, (*float)? - (*quantized)?)));
        let worst = falls.reduce(|worst, next| if next.1 > worst.1 { next } else { worst })?;
        let of_float = mean(&float)?;
        let precision = Precision {
            float: self.given.is_some().then_some(of_float),
            quantized: mean(&quantized)?,
            occurring: float.iter().flatten().count(),
            worst: (worst.0, 100.0 * worst.1),
        };
        let doubt = self.given.as_ref().and_then(|sets| self.doubt(of_float, sets));
        Some((precision, doubt))
    }

    /// By label, the average precision of `scores`, where `truth` has its labels so many places further on.
    fn precisions(&self, scores: &[f32], truth: &[Vec<u32>], shift: i64) -> Vec<Option<f64>> {
        let of_label = |label: usize| {
            let sought = u32::try_from(label as i64 - shift).ok()?;
            let is_right = |image: usize| truth[image].contains(&sought);
            let rows = scores.chunks(self.labels).enumerate();
            average_precision(rows.map(|(image, row)| (row[label], is_right(image))).collect())
        };
        (0..self.labels).into_par_iter().map(of_label).collect()
    }

    /// Whether the labels fit the float model, whose mean is `found`.
    fn doubt(&self, found: f64, truth: &[Vec<u32>]) -> Option<String> {
        /// By how much of what is left to 100 %, and of chance, a mean must be better than chance.
        const MARGIN: f64 = 0.25;
        let images = truth.len();
        let mut occurrences = vec![0; self.labels];
        truth.iter().flatten().for_each(|label| occurrences[*label as usize] += 1);
        let of_chance = |count: &usize| (*count > 0).then(|| by_chance(*count, images));
        let chance = mean(&occurrences.iter().map(of_chance).collect::<Vec<_>>())?;
        let [share, of_float] = [chance / 100.0, found / 100.0];
        let is_better = |precision: f64| precision > share + MARGIN * share * (1.0 - share);
        if is_better(of_float) {
            return None;
        }
        let shifted = |shift: i64| mean(&self.precisions(&self.float, truth, shift)).unwrap_or(0.0);
        for (shift, change) in [(-1, "less"), (1, "more")] {
            let precision = shifted(shift);
            if precision > 2.0 * found && is_better(precision / 100.0) {
                return Some(format!(
                    "the labels are off by one: the float model has a mAP of {found:.2} %, and {precision:.2} % if each is one \
                     {change} (labels count from 0)"
                ));
            }
        }
        Some(format!(
            "the float model itself has a mAP of {found:.2} %, where chance has {chance:.2} %: the labels, or the way in which \
             images are prepared, do not fit it (or there are too few images to tell)"
        ))
    }
}

/// The labels that the float model gives an image: those of a probability above 0.5.
fn decided(row: &[f32], reading: Reading) -> Vec<u32> {
    let probabilities = match reading {
        Reading::LabelProbabilities => row.to_vec(),
        _ => sigmoid(row),
    };
    probabilities.iter().zip(0..).filter(|(p, _)| **p > 0.5).map(|(_, label)| label).collect()
}

/// Of those that are there, in percent; `None` if none is.
fn mean(of: &[Option<f64>]) -> Option<f64> {
    let count = of.iter().flatten().count();
    (count > 0).then(|| 100.0 * of.iter().flatten().sum::<f64>() / count as f64)
}

/// The average precision of scored items, of which some are right: `Σ_t (R_t − R_{t−1})·P_t` over the scores t from the
/// largest on, P and R the precision and the recall of the items whose score is at least t. `None` if none is right.
///
/// No value is interpolated, and items of one score count at once, as in scikit-learn's `average_precision_score`.
fn average_precision(mut items: Vec<(f32, bool)>) -> Option<f64> {
    let right = items.iter().filter(|(_, right)| *right).count();
    // By falling score; the order among equals does not matter.
    items.sort_unstable_by(|(a, _), (b, _)| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal));
    let (mut seen, mut hits, mut sum) = (0, 0, 0.0);
    for equal in items.chunk_by(|(a, _), (b, _)| a == b) {
        let more = equal.iter().filter(|(_, right)| *right).count();
        seen += equal.len();
        hits += more;
        sum += (more as f64 / right as f64) * (hits as f64 / seen as f64);
    }
    (right > 0).then_some(sum)
}

/// The expected average precision of `n` items in random order, of which so many are right.
fn by_chance(right: usize, n: usize) -> f64 {
    if n < 2 {
        return 1.0;
    }
    let harmonic: f64 = (1..=n).map(|i| 1.0 / i as f64).sum::<f64>() / n as f64;
    harmonic + (right - 1) as f64 / (n - 1) as f64 * (1.0 - harmonic)
}

/// Floats as base64 of their bytes, the lowest first.
mod packed {
    use super::*;

    pub(super) fn serialize<S: Serializer>(scores: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        use serde::de::Error as _;
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let (scores, []) = bytes.as_chunks::<4>() else {
            return Err(D::Error::custom("floats of 4 bytes are expected"));
        };
        Ok(scores.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

#[cfg(test)]
mod tests;
