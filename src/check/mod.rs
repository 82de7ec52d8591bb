//! How close a quantized model is to the float model it came from, on images.

mod figures;
mod tally;
mod verdict;

use ndarray::{Array4, Axis, Slice, concatenate};
use rayon::prelude::*;
use serde::Serialize;

pub use figures::{Sqnr, cosine, kl, rank, top};
pub use verdict::{Thresholds, Verdict, verdict};

use crate::data::Dataset;
use crate::integer::Runner;
use crate::progress::Progress;
use crate::session::FloatModel;
use crate::{Error, Result};
use tally::Tally;

/// Both models' accuracy, and the distance between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How many images were compared.
    pub images: usize,
    /// Where labels are given.
    pub accuracy: Option<Accuracy>,
    /// What only a classifier has.
    pub classifier: Option<Classifier>,
    /// Of all outputs together: `10·log10(Σo² / Σ(ô−o)²)`.
    pub sqnr_db: Sqnr,
    /// Mean over the images of the cosine between both outputs.
    pub cosine: f64,
    /// Of every site's output, in the order of the graph; empty unless asked for.
    pub layers: Vec<Layer>,
}

/// The share of images that each model classifies as labelled, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The float model.
    pub float: TopK,
    /// The quantized model.
    pub quantized: TopK,
}

/// Top-1 and top-5 accuracy in percent. Of equal logits, the lower class comes first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TopK {
    /// The label has the largest logit.
    pub top1: f64,
    /// The label is among the five largest.
    pub top5: f64,
}

/// How alike the predictions are, whatever the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Classifier {
    /// Images with the same top-1 class, in percent.
    pub agreement: f64,
    /// Mean of `KL(softmax of the float logits ‖ softmax of the quantized logits)`, in nats.
    pub kl: f64,
}

/// One site's output in the quantized model, against the same value of the float model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// The site.
    pub name: String,
    /// Over all images.
    pub sqnr_db: Sqnr,
}

/// The float model, ready to be compared: [`FloatModel`] with the taps that [`taps`] gave.
pub struct Float {
    /// The model.
    pub model: FloatModel,
    /// The shape of one run, `[N, C, H, W]`.
    pub shape: [usize; 4],
    /// Its output is the logits of a classifier, not features.
    pub logits: bool,
}

/// Batches between two looks for an error.
const CHUNK: usize = 32;

/// What the float model must give for a comparison with `quantized`: its `output`, and with `layers` every site's.
pub fn taps(output: &str, quantized: &Runner, layers: bool) -> Vec<String> {
    let sites = if layers { quantized.sites() } else { &[] };
    std::iter::once(output.to_string()).chain(sites.iter().map(|site| site.output.clone())).collect()
}

/// Runs both models on every image of `data`; with `layers`, compares every site's output too.
///
/// The result is the same on any number of threads. Each thread holds one batch.
pub fn compare(
    float: &Float,
    quantized: &Runner,
    data: &Dataset,
    layers: bool,
    progress: &dyn Progress,
) -> Result<Comparison> {
    same_images(float.shape, quantized.input_shape())?;
    let batch = float.shape[0];
    let batches = data.len().div_ceil(batch);
    let mut total = Tally::default();
    progress.stage("compare both models", data.len() as u64);
    for start in (0..batches).step_by(CHUNK) {
        let chunk = start..batches.min(start + CHUNK);
        let tallies: Vec<Result<Tally>> = chunk
            .into_par_iter()
            .map(|at| one_batch(float, quantized, data, at * batch, layers, progress))
            .collect();
        // In the order of the images: neither sums nor the first error depend on the threads.
        for tally in tallies {
            total.add(&tally?);
        }
    }
    let names = quantized.sites().iter().map(|site| site.name.clone());
    Ok(total.comparison(data.labels.is_some(), names))
}

/// The images from `start` on that make one batch of `size`, and how many they are: where the data set ends early,
/// its last image is repeated.
///
/// # Panics
/// If `start` is beyond the data set.
pub fn load_batch(data: &Dataset, start: usize, size: usize) -> Result<(Array4<f32>, usize)> {
    let present = size.min(data.len() - start);
    let images = data.batch(start..start + present)?;
    if present == size {
        return Ok((images, present));
    }
    let last = images.slice_axis(Axis(0), Slice::from(-1..));
    let mut parts = vec![images.view()];
    parts.resize(1 + size - present, last);
    let padded = concatenate(Axis(0), &parts).expect("all parts are images of one shape");
    Ok((padded, present))
}

fn one_batch(
    float: &Float,
    quantized: &Runner,
    data: &Dataset,
    start: usize,
    layers: bool,
    progress: &dyn Progress,
) -> Result<Tally> {
    let (images, present) = load_batch(data, start, float.shape[0])?;
    let (output, sites) = if layers {
        quantized.run_sites(&images.view())?
    } else {
        (quantized.run(&images.view())?, Vec::new())
    };
    let expected = float.model.run(images.into_dyn())?;
    let names = &data.names[start..start + present];
    let labels = data.labels.as_ref().map(|labels| &labels[start..start + present]);
    let mut tally = Tally::of_outputs((&expected[0], float.logits), &output, names, labels)?;
    for ((site, values), expected) in quantized.sites().iter().zip(&sites).zip(&expected[1..]) {
        tally.add_layer(&site.name, expected, &values.output, (present, float.shape[0]))?;
    }
    for name in names {
        progress.step(name, 1);
    }
    Ok(tally)
}

fn same_images(float: [usize; 4], quantized: [usize; 4]) -> Result<()> {
    if float == quantized {
        return Ok(());
    }
    let why = format!("the float model takes {float:?} (N, C, H, W), the quantized model {quantized:?}");
    Err(Error::model("input", why))
}
