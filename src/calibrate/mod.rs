//! From images to scales: record every site of the float model, then search (PTQ4ViT, Algorithm 1).

mod calibration;
pub mod loss;
mod memory;
mod metric;
mod options;
mod outliers;
mod problems;
mod record;
pub mod search;

use ndarray::Array4;
use sha2::{Digest, Sha256};

pub use calibration::{Calibration, Provenance, SiteScales};
pub use loss::Gradient;
pub use metric::Metric;
pub use options::{Method, Options, WeightScales};
pub use search::Search;

use crate::data::Dataset;
use crate::onnx::{Graph, Model};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::session::{Session, input_spec, outputs};
use crate::{Error, Result};
use prost::Message as _;
use record::{Recorder, SiteFootprint};

/// How a calibration is done; none of this changes its result.
pub struct Run<'r> {
    /// How thoroughly the search looks.
    pub search: Search,
    /// How much memory the process may take, in bytes. Sites that do not fit at once are recorded in groups, one after
    /// another.
    pub memory: usize,
    /// What an earlier run has finished. It is used only if it is of this model, these images and these options.
    pub resume: Option<Calibration>,
    /// Called after every site, with what is finished.
    pub save: &'r dyn Fn(&Calibration) -> Result<()>,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { search: Search::Pruned, memory: 4 << 30, resume: None, save: &|_| Ok(()) }
    }
}

/// Searches the scales of every site of `plan` on `images`.
///
/// The result depends on the model, the images and the options alone, not on the run or the number of threads.
pub fn calibrate(
    model: &Model,
    plan: &Plan,
    images: &Dataset,
    options: &Options,
    run: Run,
    progress: &dyn Progress,
) -> Result<Calibration> {
    options.validate()?;
    let graph = Graph::new(model)?;
    let input = input_spec(&graph)?;
    let batch = input.batch();
    if !images.len().is_multiple_of(batch) {
        return Err(Error::data(
            "calibration set",
            format!("{} images do not fill batches of {batch}, the model's fixed batch", images.len()),
        ));
    }
    let first = images.load(0)?;
    let (channels, height, width) = first.dim();
    let shape = input.shape_for([channels, height, width])?;
    let mut outputs = outputs(&graph)?;
    if outputs.logits {
        outputs.names.truncate(1);
    }
    let session = Session::new(model, shape, &outputs.names, &record::taps(plan))?;
    let load = |chunk: usize| -> Result<Array4<f32>> { images.batch(chunk * batch..(chunk + 1) * batch) };
    let (chunks, logits) = (images.len() / batch, outputs.logits);
    let recorder = Recorder { session: &session, plan, options, chunks, load: &load, logits };

    let provenance = Provenance {
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
        model_sha256: fingerprint(model),
        images: images.len(),
        images_sha256: recorder.fingerprint()?,
        options: *options,
    };
    let mut calibration = match run.resume {
        Some(earlier) if earlier.begins(&provenance, plan) => earlier,
        _ => Calibration { provenance, sites: Vec::new() },
    };
    let done = calibration.sites.len();
    if done == plan.sites.len() {
        return Ok(calibration);
    }
    if done > 0 {
        progress.note(&format!("{done} of {} sites were calibrated before", plan.sites.len()));
    }

    let footprint = recorder.footprint()?;
    let weights: Vec<usize> = plan.sites.iter().map(|site| problems::weight_len(&graph, site) * 4).collect();
    let demand = memory::Demand {
        footprint: &footprint,
        weights: &weights,
        chunks,
        model: model.proto.encoded_len(),
        metric: options.metric,
    };
    let limits = memory::Limits { threads: rayon::current_num_threads(), memory: run.memory };
    let division = memory::divide(demand, done, limits)?;
    for (i, group) in division.groups.iter().enumerate() {
        let part = match division.groups.len() {
            1 => String::new(),
            parts => format!(" (part {} of {parts})", i + 1),
        };
        progress.stage(&format!("record values and gradients{part}"), recorder.chunks as u64);
        let records = recorder.record(group.clone(), division.at_once, progress)?;
        let work: Vec<u64> =
            group.clone().map(|site| search_work(&footprint.sites[site], weights[site])).collect();
        progress.stage(&format!("search scales{part}"), work.iter().sum());
        for ((site, record), work) in plan.sites[group.clone()].iter().zip(records).zip(work) {
            calibration.sites.push(problems::solve(&graph, site, record, options, run.search)?);
            progress.step(&site.name, work);
            (run.save)(&calibration)?;
        }
    }
    Ok(calibration)
}

/// The work of one evaluation: its multiplications, and its outputs, whose errors are summed.
fn search_work(site: &SiteFootprint, weight: usize) -> u64 {
    // (M·K)·(K·N)·(M·N) is the square of the multiplications.
    let [a, b, output] = [site.a, weight + site.b, site.output].map(|bytes| bytes as f64 / 4.0);
    ((a * b * output / site.heads as f64).sqrt() + 16.0 * output) as u64
}

/// SHA-256 of the model as this library encodes it, in hexadecimal.
fn fingerprint(model: &Model) -> String {
    hex_digest(&model.encode())
}

/// SHA-256 in hexadecimal.
fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
