//! From pictures to scales: record every site of the float model, then search (PTQ4ViT, Algorithm 1).

mod calibration;
pub mod loss;
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

use crate::data::Dataset;
use crate::onnx::{Graph, Model};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::session::{Session, input_spec, output_name};
use crate::{Error, Result};
use record::Recorder;

/// What the records of one group of sites may take; the rest waits for a pass of its own.
const RECORD_BUDGET: usize = 2 << 30;

/// Searches the scales of every site of `plan` on `pictures`.
///
/// The result depends on the model, the pictures and the options alone, not on the number of threads.
pub fn calibrate(
    model: &Model,
    plan: &Plan,
    pictures: &Dataset,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Calibration> {
    options.validate()?;
    let graph = Graph::new(model)?;
    let input = input_spec(&graph)?;
    let batch = input.batch();
    if !pictures.len().is_multiple_of(batch) {
        return Err(Error::data(
            "calibration set",
            format!("{} pictures do not fill batches of {batch}, the model's fixed batch", pictures.len()),
        ));
    }
    let first = pictures.load(0)?;
    let (channels, height, width) = first.dim();
    let shape = input.shape_for([channels, height, width])?;
    let output = output_name(&graph)?;
    let session = Session::new(model, shape, &output, &record::taps(plan))?;
    let load = |chunk: usize| -> Result<Array4<f32>> { pictures.batch(chunk * batch..(chunk + 1) * batch) };
    let recorder = Recorder { session: &session, plan, options, chunks: pictures.len() / batch, load: &load };

    let groups = recorder.groups(RECORD_BUDGET)?;
    let mut sites = Vec::with_capacity(plan.sites.len());
    for (i, group) in groups.iter().enumerate() {
        let part =
            if groups.len() == 1 { String::new() } else { format!(" (part {} of {})", i + 1, groups.len()) };
        progress.stage(&format!("record values and gradients{part}"), recorder.chunks);
        let records = recorder.record(group.clone(), progress)?;
        progress.stage(&format!("search scales{part}"), group.len());
        for (site, record) in plan.sites[group.clone()].iter().zip(records) {
            sites.push(problems::solve(&graph, site, record, options)?);
            progress.step(&site.name);
        }
    }
    let provenance = Provenance {
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
        model_sha256: fingerprint(model),
        pictures: pictures.len(),
        options: *options,
    };
    Ok(Calibration { provenance, sites })
}

/// SHA-256 of the model as this library encodes it, in hexadecimal.
fn fingerprint(model: &Model) -> String {
    hex_digest(&model.encode())
}

/// SHA-256 in hexadecimal.
fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
