//! The figures of a comparison.

use serde::Serialize;

use super::doubts::{doubts, remarks};
use super::notable::NotableImage;
use super::statistics::{mcnemar, paired, wilson};
use super::tally::Tally;
use super::{Boxes, Precision, Sqnr};
use crate::engine::Reading;

/// Both models' accuracy, and the distance between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Comparison {
    /// How many images were compared.
    pub images: usize,
    /// What ran the float and the quantized model: `builtin`, or another runtime with its version.
    pub engines: [String; 2],
    /// Where labels are given.
    pub accuracy: Option<Accuracy>,
    /// What only a classifier has, of images or of places in them.
    pub classifier: Option<Classifier>,
    /// What only labels have, of which an image may have several.
    pub labels: Option<Labels>,
    /// What only boxes have.
    pub boxes: Option<Boxes>,
    /// What only numbers have.
    pub numbers: Option<Numbers>,
    /// What only features have.
    pub features: Option<Features>,
    /// Of all outputs together: `10·log10(Σo² / Σ(ô−o)²)`.
    pub sqnr_db: Sqnr,
    /// `√(mean (ô−o)²)` over all elements.
    pub rmse: f64,
    /// `√(Σ(ô−o)² / Σo²)`; `None` if the float model gives only zeros.
    pub relative_error: Option<f64>,
    /// Mean over the images of the cosine between both outputs.
    pub cosine: f64,
    /// The FLOAT outputs beside the one that the figures above are of.
    pub others: Vec<OutputFigures>,
    /// Of every site's output, in the order of the graph; empty unless asked for.
    pub sites: Vec<SiteFigures>,
    /// Images that the quantized model gives another class, those with the largest distance first; at most 24.
    pub changed_images: Vec<NotableImage>,
    /// The images with the largest distance; at most 12.
    pub farthest_images: Vec<NotableImage>,
    /// Why the figures say nothing of the quantized model, or less than they seem to. With a doubt no threshold is met.
    pub doubts: Vec<String>,
    /// What the user should know, though it is no reason for doubt.
    pub remarks: Vec<String>,
}

/// The share of images that each model classifies as labelled, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Accuracy {
    /// The float model.
    pub float: TopK,
    /// The quantized model.
    pub quantized: TopK,
    /// What quantizing costs.
    pub drop: Drop,
}

/// Top-1 and top-5 accuracy in percent. Of equal logits, the lower class comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TopK {
    /// The label has the largest logit.
    pub top1: f64,
    /// Its interval of 95 % confidence (Wilson).
    pub top1_interval: [f64; 2],
    /// The label is among the five largest.
    pub top5: f64,
}

/// How much top-1 accuracy the quantized model loses, over the same images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Drop {
    /// In percentage points; negative for a gain.
    pub points: f64,
    /// Its interval of 95 % confidence (Agresti and Min).
    pub interval: [f64; 2],
    /// Images that only the float model gets right, and only the quantized one.
    pub only: [usize; 2],
    /// How probable so unequal a split is of models that are equally good: the exact test of `McNemar`.
    pub p: f64,
}

/// How alike the predictions are, whatever the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Classifier {
    /// Images with the same top-1 class, or of maps the places, in percent.
    pub agreement: f64,
    /// Its interval of 95 % confidence (Wilson); of maps `None`, as places of an image depend on one another.
    pub agreement_interval: Option<[f64; 2]>,
    /// Mean of `KL(softmax of the float logits ‖ softmax of the quantized logits)`, in nats.
    pub kl: f64,
    /// Of maps, the mean over the classes of the places that both models give to a class, in percent of those that one gives.
    pub mean_iou: Option<f64>,
}

/// How alike the labels are that both models give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Labels {
    /// Labels on the same side of probability 0.5, in percent of all labels of all images.
    pub agreement: f64,
    /// Images with the same labels, in percent, and the interval of 95 % confidence (Wilson).
    pub same: (f64, [f64; 2]),
    /// The label that agrees least, and on how many of the images, in percent.
    pub worst: (usize, f64),
    /// Mean over the images of the sum over the labels of the KL divergence of the one probability from the other, in nats.
    pub kl: f64,
    /// How well the labels are ranked; `None` if none occurs, or if there are too many scores to keep.
    pub precision: Option<Precision>,
}

/// How far apart the numbers are that both models give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Numbers {
    /// `1 − Σ(ô−o)²/Σ(o−ō)²`, where ō is the mean of each number over the images; `None` if the float model gives the same
    /// numbers for all of them.
    pub r2: Option<f64>,
    /// The largest `|ô−o|`.
    pub largest_error: f64,
}

/// Whether features still find what is alike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Features {
    /// Images whose nearest neighbour by cosine, among the images of the same block of [`BLOCK`](super::BLOCK), is the same, in
    /// percent, and the interval of 95 % confidence (Wilson).
    pub same_neighbour: (f64, [f64; 2]),
}

/// One output in the quantized model, against that of the float model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OutputFigures {
    /// Its name.
    pub name: String,
    /// Over all images.
    pub sqnr_db: Sqnr,
}

/// One site's output in the quantized model, against the same value of the float model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SiteFigures {
    /// The site.
    pub name: String,
    /// Over all images.
    pub sqnr_db: Sqnr,
}

/// The names of what was compared beside the output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub(super) struct Names {
    pub(super) others: Vec<String>,
    pub(super) sites: Vec<String>,
}

impl Comparison {
    /// The figures of all images that `tally` counts.
    pub(super) fn of(tally: &Tally, labelled: bool, names: &Names) -> Self {
        let n = tally.images.max(1) as f64;
        let is = |of: &[Reading]| of.contains(&tally.reading);
        let of_classes = matches!(tally.reading, Reading::Logits(Some(_)) | Reading::Probabilities);
        let of_labels = is(&[Reading::LabelLogits, Reading::LabelProbabilities]);
        // What is given of labels is no one class.
        let labelled = labelled && !of_labels;
        let (precision, doubt) = tally.scores.figures(tally.reading, tally.images).unzip();
        let output: Sqnr = tally.output.into();
        let figures = |names: &[String], sums: &[_]| {
            names.iter().cloned().zip(sums.iter().copied().map(Sqnr::from)).collect::<Vec<_>>()
        };
        Self {
            images: tally.images,
            engines: Default::default(),
            accuracy: labelled.then(|| accuracy(tally)),
            classifier: of_classes.then(|| classifier(tally)),
            labels: of_labels.then(|| labels(tally, precision)),
            boxes: tally.boxes.map(|boxes| boxes.figures(tally.images)),
            numbers: is(&[Reading::Numbers]).then(|| numbers(tally)),
            features: (tally.neighbours[1] > 0).then(|| Features { same_neighbour: rate(tally.neighbours) }),
            sqnr_db: output,
            rmse: (output.noise / tally.elements.max(1) as f64).sqrt(),
            relative_error: (output.signal > 0.0).then(|| (output.noise / output.signal).sqrt()),
            cosine: tally.cosine / n,
            others: figures(&names.others, &tally.others)
                .into_iter()
                .map(|(name, sqnr_db)| OutputFigures { name, sqnr_db })
                .collect(),
            sites: figures(&names.sites, &tally.sites)
                .into_iter()
                .map(|(name, sqnr_db)| SiteFigures { name, sqnr_db })
                .collect(),
            changed_images: tally.notable.changed.clone(),
            farthest_images: tally.notable.farthest.clone(),
            doubts: doubts(tally, labelled).into_iter().chain(doubt.flatten()).collect(),
            remarks: remarks(tally),
        }
    }
}

/// In percent, with its interval.
fn rate([hits, of]: [usize; 2]) -> (f64, [f64; 2]) {
    (100.0 * hits as f64 / of.max(1) as f64, wilson(hits, of))
}

fn accuracy(tally: &Tally) -> Accuracy {
    let n = tally.images;
    let top_k = |hits: [usize; 2]| {
        let (top1, top1_interval) = rate([hits[0], n]);
        TopK { top1, top1_interval, top5: rate([hits[1], n]).0 }
    };
    let (float, quantized, only) = (top_k(tally.float), top_k(tally.quantized), tally.only);
    let drop = Drop {
        points: float.top1 - quantized.top1,
        interval: paired(only[0], only[1], n),
        only,
        p: mcnemar(only[0], only[1]),
    };
    Accuracy { float, quantized, drop }
}

fn classifier(tally: &Tally) -> Classifier {
    let (agreement, interval) = rate(tally.agree);
    let of_maps = !tally.overlap.is_empty();
    let shares = tally.overlap.values().map(|&[both, either]| both as f64 / either.max(1) as f64);
    Classifier {
        agreement,
        agreement_interval: (!of_maps).then_some(interval),
        kl: tally.kl / tally.images.max(1) as f64,
        mean_iou: of_maps.then(|| 100.0 * shares.sum::<f64>() / tally.overlap.len() as f64),
    }
}

fn labels(tally: &Tally, precision: Option<Precision>) -> Labels {
    let worst = tally.of_label.iter().enumerate().min_by_key(|(_, agree)| **agree);
    let (worst, agree) = worst.map_or((0, tally.images), |(label, agree)| (label, *agree));
    Labels {
        agreement: rate(tally.agree).0,
        same: rate([tally.alike, tally.images]),
        worst: (worst, rate([agree, tally.images]).0),
        kl: tally.kl / tally.images.max(1) as f64,
        precision,
    }
}

fn numbers(tally: &Tally) -> Numbers {
    let (n, output) = (tally.images as f64, Sqnr::from(tally.output));
    let spread: f64 = tally.numbers.iter().map(|[sum, squares]| (squares - sum * sum / n).max(0.0)).sum();
    // Below it, the spread is what rounding left of the squares.
    let varies = spread > 1e-12 * output.signal;
    Numbers { r2: varies.then(|| 1.0 - output.noise / spread), largest_error: tally.largest_error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 images of a good classifier of ten classes.
    fn good() -> Tally {
        Tally {
            images: 40,
            reading: Reading::Logits(Some(1)),
            float: [36, 40],
            quantized: [35, 40],
            only: [2, 1],
            shifted: [3, 4],
            agree: [37, 40],
            classes: 10,
            decision: Some(vec![3]),
            decisions_vary: true,
            outputs_vary: true,
            ..Tally::default()
        }
    }

    #[track_caller]
    fn doubt(tally: &Tally, part: &str) {
        let doubts = Comparison::of(tally, true, &Names::default()).doubts;
        assert!(doubts.iter().any(|doubt| doubt.contains(part)), "{doubts:?}");
    }

    #[test]
    fn a_good_model_is_not_doubted() {
        let found = Comparison::of(&good(), true, &Names::default());
        assert_eq!((found.doubts.len(), found.remarks.len()), (0, 0));
        let drop = found.accuracy.unwrap().drop;
        assert_eq!((drop.points, drop.only, drop.p), (2.5, [2, 1], 1.0));
        assert!(drop.interval[0] < 0.0 && drop.interval[1] > 2.5);
    }

    #[test]
    fn what_cannot_fail_is_doubted() {
        doubt(&Tally { decisions_vary: false, ..good() }, "same class (3 alone) for all 40 images");
        doubt(&Tally { outputs_vary: false, ..good() }, "same output for all 40 images");
        doubt(&Tally { classes: 1, ..good() }, "one class alone");
        let labels = Tally {
            reading: Reading::LabelLogits,
            of_label: vec![40, 38],
            decision: Some(vec![]),
            decisions_vary: false,
            ..good()
        };
        doubt(&labels, "same labels (none)");
        let one = Tally {
            images: 1,
            decisions_vary: false,
            outputs_vary: false,
            float: [1, 1],
            shifted: [0, 0],
            ..good()
        };
        assert!(
            Comparison::of(&one, false, &Names::default()).doubts.is_empty(),
            "one image varies from none"
        );
    }

    #[test]
    fn labels_that_do_not_fit_are_doubted() {
        doubt(&Tally { float: [0, 4], shifted: [37, 0], ..good() }, "right, and 92.50 % if each is one less");
        doubt(&Tally { float: [2, 9], shifted: [0, 30], ..good() }, "if each is one more");
        doubt(&Tally { float: [5, 20], ..good() }, "right for 5 of 40 images, no more than by chance");
        let many = Tally { classes: 1000, float: [3, 9], shifted: [0, 0], ..good() };
        assert!(
            Comparison::of(&many, true, &Names::default()).doubts.is_empty(),
            "3 of 40 are no chance with 1000 classes"
        );
    }

    #[test]
    fn unsure_models_are_remarked() {
        let remarks = |unsure, classes| {
            Comparison::of(&Tally { classes, unsure, ..good() }, false, &Names::default()).remarks
        };
        assert_eq!((remarks(39, 1000).len(), remarks(20, 1000).len(), remarks(40, 3).len()), (1, 0, 0));
    }

    #[test]
    fn maps_have_the_share_of_places_that_both_give_to_a_class() {
        let overlap = [(0, [6, 8]), (4, [1, 4])].into_iter().collect();
        let found =
            Comparison::of(&Tally { overlap, ..good() }, false, &Names::default()).classifier.unwrap();
        assert_eq!((found.mean_iou, found.agreement_interval), (Some(50.0), None));
    }
}
