//! How close a quantized model is to the float model it came from, on images.

mod figures;
mod tally;
mod verdict;

use rayon::prelude::*;
use serde::Serialize;

pub use figures::{Sqnr, binary_kl, cosine, kl, probability_kl, rank, top};
pub use verdict::{Thresholds, Verdict};

use crate::data::Dataset;
use crate::engine::{Engine, Reading};
use crate::progress::Progress;
use crate::{Error, Result};
use tally::Tally;

/// Both models' accuracy, and the distance between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// How many images were compared.
    pub images: usize,
    /// Where labels are given.
    pub accuracy: Option<Accuracy>,
    /// What only a classifier has.
    pub classifier: Option<Classifier>,
    /// What only labels have, of which an image may have several.
    pub labels: Option<Labels>,
    /// What only numbers have.
    pub numbers: Option<Numbers>,
    /// Of all outputs together: `10·log10(Σo² / Σ(ô−o)²)`.
    pub sqnr_db: Sqnr,
    /// Mean over the images of the cosine between both outputs.
    pub cosine: f64,
    /// Of every site's output, in the order of the graph; empty unless asked for.
    pub sites: Vec<SiteFigures>,
}

/// The share of images that each model classifies as labelled, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Accuracy {
    /// The float model.
    pub float: TopK,
    /// The quantized model.
    pub quantized: TopK,
}

/// Top-1 and top-5 accuracy in percent. Of equal logits, the lower class comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopK {
    /// The label has the largest logit.
    pub top1: f64,
    /// The label is among the five largest.
    pub top5: f64,
}

/// How alike the predictions are, whatever the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Classifier {
    /// Images with the same top-1 class, in percent.
    pub agreement: f64,
    /// Mean of `KL(softmax of the float logits ‖ softmax of the quantized logits)`, in nats.
    pub kl: f64,
}

/// How alike the labels are that both models give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Labels {
    /// Labels on the same side of probability 0.5, in percent of all labels of all images.
    pub agreement: f64,
    /// Mean over the images of the sum over the labels of the KL divergence of the one probability from the other, in nats.
    pub kl: f64,
}

/// How far apart the numbers are that both models give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Numbers {
    /// `1 − Σ(ô−o)²/Σ(o−ō)²`, where ō is the mean of each number over the images; `None` if the float model gives the same
    /// numbers for all of them.
    pub r2: Option<f64>,
    /// The largest `|ô−o|`.
    pub largest_error: f64,
}

/// One site's output in the quantized model, against the same value of the float model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SiteFigures {
    /// The site.
    pub name: String,
    /// Over all images.
    pub sqnr_db: Sqnr,
}

/// What is compared, beside the outputs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scope {
    /// How the output is read.
    pub reading: Reading,
    /// The sites whose outputs are compared, too.
    pub sites: Vec<SiteOutput>,
}

/// The output of a site, which both models have.
#[derive(Clone, Debug)]
pub struct SiteOutput {
    /// The site.
    pub name: String,
    /// The name of the value.
    pub value: String,
    /// Whether a Softmax takes it, which forgets what is added to a whole row.
    pub before_softmax: bool,
}

/// Batches between two looks for an error.
const CHUNK: usize = 32;

/// Runs both models on every image of `data` and compares what they give.
///
/// The result is the same on any number of threads. Each thread holds one batch.
pub fn compare(
    float: &dyn Engine,
    quantized: &dyn Engine,
    data: &Dataset,
    scope: &Scope,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let shape = float.input_shape();
    if shape != quantized.input_shape() {
        let quantized = quantized.input_shape();
        let why = format!("the float model takes {shape:?} (N, C, H, W), the quantized model {quantized:?}");
        return Err(Error::model("input", why));
    }
    let batches = data.len().div_ceil(shape[0]);
    let mut total = Tally::default();
    progress.stage("compare both models", data.len() as u64);
    for start in (0..batches).step_by(CHUNK) {
        let chunk = start..batches.min(start + CHUNK);
        let tallies: Vec<Result<Tally>> = chunk
            .into_par_iter()
            .map(|at| one_batch(float, quantized, data, at * shape[0], scope, progress))
            .collect();
        // In the order of the images: neither sums nor the first error depend on the threads.
        for tally in tallies {
            total.add(&tally?);
        }
    }
    Ok(total.comparison(data.labels.is_some(), scope.sites.iter().map(|site| site.name.clone())))
}

fn one_batch(
    float: &dyn Engine,
    quantized: &dyn Engine,
    data: &Dataset,
    start: usize,
    scope: &Scope,
    progress: &dyn Progress,
) -> Result<Tally> {
    let end = data.len().min(start + float.input_shape()[0]);
    let images = data.batch(start..end)?;
    let taps: Vec<&str> = scope.sites.iter().map(|site| site.value.as_str()).collect();
    let found = quantized.run_tapped(&images.view(), &taps)?;
    let expected = float.run_tapped(&images.view(), &taps)?;
    let names = &data.names[start..end];
    let labels = data.labels.as_ref().map(|labels| &labels[start..end]);
    let mut tally = Tally::of_outputs(&expected.output, &found.output, scope.reading, names, labels)?;
    for ((site, found), expected) in scope.sites.iter().zip(&found.values).zip(&expected.values) {
        tally.add_site(site, expected, found)?;
    }
    for name in names {
        progress.step(name, 1);
    }
    Ok(tally)
}
