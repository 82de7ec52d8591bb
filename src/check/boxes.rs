//! Whether a quantized detector finds the boxes of the float model again.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayView1, ArrayView2, Axis, Ix2};
use serde::{Deserialize, Serialize};

use super::statistics::wilson;
use crate::engine::{Detector, Scored};

/// A box counts if its class has a larger probability.
const LEAST_SCORE: f64 = 0.5;
/// Two boxes of one class are the same if their intersection is at least that of their union.
const LEAST_IOU: f64 = 0.5;

/// What a model gives for some images.
pub(super) struct Given<'a> {
    /// `[N, boxes, classes]`, or beside `classes` `[N, boxes]`.
    pub(super) scores: &'a ArrayD<f32>,
    /// `[N, boxes, 4]`.
    pub(super) boxes: &'a ArrayD<f32>,
    /// `[N, boxes]`.
    pub(super) classes: Option<&'a ArrayD<f32>>,
}

/// Counts over some images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BoxCounts {
    /// If each class has a probability of its own.
    own: Matches,
    /// If the last class is no object, and the probabilities of a box sum to 1.
    shared: Matches,
    /// Boxes of the float model that are no object by the second reading, and all.
    nothing: [usize; 2],
}

/// Pairs of the boxes of both models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matches {
    float: usize,
    quantized: usize,
    pairs: usize,
    /// Of the pairs.
    iou: f64,
    /// Images of which every box has a partner.
    alike: usize,
}

/// How alike the boxes are that both models find: those whose class has a probability above 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Boxes {
    /// Of the float model.
    pub float: usize,
    /// Of the quantized model.
    pub quantized: usize,
    /// Boxes of each model that have a partner of the same class in the other, with an `IoU` of at least 0.5.
    pub matched: usize,
    /// Boxes of the float model that have a partner, in percent; `None` if it has no box.
    pub recall: Option<f64>,
    /// Boxes of the quantized model that have a partner, in percent; `None` if it has no box.
    pub precision: Option<f64>,
    /// `2·matched/(float + quantized)`, in percent; `None` if there is no box.
    pub f1: Option<f64>,
    /// Mean over the pairs of intersection over union, in percent; `None` if there is none.
    pub mean_iou: Option<f64>,
    /// Images of which every box has a partner, in percent, and the interval of 95 % confidence (Wilson).
    pub same: (f64, [f64; 2]),
    /// Whether the last class was taken for no object, with probabilities that sum to 1; else each class has one of its own.
    pub last_is_no_object: bool,
}

impl BoxCounts {
    /// Of images whose outputs these are; `None` if they do not have the shapes of boxes.
    pub(super) fn of(detector: &Detector, float: &Given, quantized: &Given) -> Option<Self> {
        let images = float.scores.shape().first().copied()?;
        let mut sum = Self::default();
        for at in 0..images {
            let [float, quantized] = [float.image(at)?, quantized.image(at)?];
            let mut of_image = Self::default();
            let matches =
                |shared| Matches::of(&float.found(detector, shared), &quantized.found(detector, shared));
            let candidates = float.boxes.len_of(Axis(0));
            match detector.scored {
                _ if float.classes.is_some() => of_image.own = matches(false),
                Scored::Each => of_image.own = matches(false),
                Scored::Together => of_image.shared = matches(true),
                Scored::Logits => (of_image.own, of_image.shared) = (matches(false), matches(true)),
            }
            let nothing = match detector.scored {
                Scored::Each => 0,
                Scored::Together => candidates,
                Scored::Logits => float.scores.outer_iter().filter(is_nothing).count(),
            };
            of_image.nothing = [nothing, candidates];
            sum.add(&of_image);
        }
        Some(sum)
    }

    /// Adds the images behind these.
    pub(super) fn add(&mut self, other: &Self) {
        self.own.add(&other.own);
        self.shared.add(&other.shared);
        self.nothing = [self.nothing[0] + other.nothing[0], self.nothing[1] + other.nothing[1]];
    }

    /// Whether the counts can be of so many images.
    pub(super) fn is_sound(&self, images: usize) -> bool {
        const MOST: usize = usize::MAX >> 32;
        let fits = |of: &Matches| {
            of.pairs <= of.float.min(of.quantized)
                && of.float.max(of.quantized) <= MOST
                && of.alike <= images
                && (0.0..=of.pairs as f64 + 1.0).contains(&of.iou)
        };
        fits(&self.own) && fits(&self.shared) && self.nothing[0] <= self.nothing[1] && self.nothing[1] <= MOST
    }

    /// The figures of so many images.
    pub(super) fn figures(&self, images: usize) -> Boxes {
        // A softmax gives most boxes to no object. Its logits sum to about 0 in training, so that the largest is positive: where
        // each class has a probability of its own, half of the boxes would be objects of the last class.
        let last_is_no_object = self.nothing[1] > 0 && 2 * self.nothing[0] >= self.nothing[1];
        let found = if last_is_no_object { self.shared } else { self.own };
        let Matches { float, quantized, pairs, iou, alike } = found;
        let share = |of: usize, all: usize| (all > 0).then(|| 100.0 * of as f64 / all as f64);
        Boxes {
            float,
            quantized,
            matched: pairs,
            recall: share(pairs, float),
            precision: share(pairs, quantized),
            f1: share(2 * pairs, float + quantized),
            mean_iou: (pairs > 0).then(|| 100.0 * iou / pairs as f64),
            same: (share(alike, images).unwrap_or(0.0), wilson(alike, images)),
            last_is_no_object,
        }
    }
}

impl<'a> Given<'a> {
    fn image(&self, at: usize) -> Option<OfImage<'a>> {
        let row =
            |of: &'a ArrayD<f32>| (of.ndim() > 1 && at < of.shape()[0]).then(|| of.index_axis(Axis(0), at));
        let (scores, boxes) = (row(self.scores)?, row(self.boxes)?);
        let boxes = boxes.into_dimensionality::<Ix2>().ok().filter(|boxes| boxes.ncols() == 4)?;
        let (scores, classes) = match scores.ndim() {
            2 => (scores.into_dimensionality::<Ix2>().ok()?, None),
            1 => {
                let classes = row(self.classes?)?;
                let scores = scores.insert_axis(Axis(1)).into_dimensionality::<Ix2>().ok()?;
                (scores, Some(classes.into_shape_with_order(boxes.nrows()).ok()?))
            }
            _ => return None,
        };
        (scores.nrows() == boxes.nrows()).then_some(OfImage { scores, boxes, classes })
    }
}

struct OfImage<'a> {
    scores: ArrayView2<'a, f32>,
    boxes: ArrayView2<'a, f32>,
    classes: Option<ArrayView1<'a, f32>>,
}

/// A box with its left, top, right and bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    score: f64,
    corners: [f64; 4],
}

impl OfImage<'_> {
    /// The boxes by class; of one class in the order of the output.
    fn found(&self, detector: &Detector, shared: bool) -> BTreeMap<i64, Vec<Found>> {
        let mut found: BTreeMap<i64, Vec<Found>> = BTreeMap::new();
        for (at, (scores, sides)) in self.scores.outer_iter().zip(self.boxes.outer_iter()).enumerate() {
            let probabilities = probabilities(&scores, detector.scored, shared, self.classes.is_some());
            let [a, b, c, d] = [0, 1, 2, 3].map(|side| f64::from(sides[side]));
            let corners = match detector.centred {
                true => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
                false => [a, b, c, d],
            };
            for (class, &score) in probabilities.iter().enumerate().filter(|(_, score)| **score > LEAST_SCORE)
            {
                let class = self.classes.map_or(class as i64, |classes| classes[at] as i64);
                found.entry(class).or_default().push(Found { score, corners });
            }
        }
        found
    }
}

/// The probabilities of the classes of one box.
fn probabilities(scores: &ArrayView1<f32>, scored: Scored, shared: bool, beside_classes: bool) -> Vec<f64> {
    let scores = scores.iter().map(|&score| f64::from(score));
    if beside_classes || scored == Scored::Each {
        return scores.collect();
    }
    let mut found: Vec<f64> = match (scored, shared) {
        (Scored::Logits, true) => {
            let largest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.clone().map(|score| (score - largest).exp()).sum();
            scores.map(|score| (score - largest).exp() / sum).collect()
        }
        (Scored::Logits, false) => scores.map(|score| 1.0 / (1.0 + (-score).exp())).collect(),
        _ => scores.collect(),
    };
    if shared {
        found.pop();
    }
    found
}

/// Whether the last of several logits is positive and larger than all others.
fn is_nothing(logits: &ArrayView1<f32>) -> bool {
    let mut all = logits.iter().rev();
    let last = all.next().copied().unwrap_or(0.0);
    logits.len() > 1 && last > 0.0 && all.all(|other| *other < last)
}

impl Matches {
    /// Of one image: the boxes of the quantized model in turn, that of the largest score first, take that box of the same class
    /// which they overlap most, of those that are left.
    fn of(float: &BTreeMap<i64, Vec<Found>>, quantized: &BTreeMap<i64, Vec<Found>>) -> Self {
        let count = |of: &BTreeMap<i64, Vec<Found>>| of.values().map(Vec::len).sum();
        let mut sum = Self { float: count(float), quantized: count(quantized), ..Self::default() };
        for (class, own) in quantized {
            let mut left = float.get(class).cloned().unwrap_or_default();
            let mut own = own.clone();
            // Stable: of equal scores the first comes first.
            own.sort_by(|a, b| b.score.total_cmp(&a.score));
            for found in own {
                let overlaps = left.iter().map(|other| iou(found.corners, other.corners)).enumerate();
                let best = overlaps.reduce(|best, next| if next.1 > best.1 { next } else { best });
                if let Some((at, iou)) = best.filter(|(_, iou)| *iou >= LEAST_IOU) {
                    left.remove(at);
                    sum.pairs += 1;
                    sum.iou += iou;
                }
            }
        }
        sum.alike = usize::from(sum.pairs == sum.float && sum.pairs == sum.quantized);
        sum
    }

    fn add(&mut self, other: &Self) {
        self.float += other.float;
        self.quantized += other.quantized;
        self.pairs += other.pairs;
        self.iou += other.iou;
        self.alike += other.alike;
    }
}

/// Intersection over union; 0 of boxes without an area.
fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let side = |from: f64, to: f64| (to - from).max(0.0);
    let area = |[left, top, right, bottom]: [f64; 4]| side(left, right) * side(top, bottom);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests;
