//! The float model's values at every site, and the curvature of the loss there, over the calibration set.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::ArrayD;
use rayon::prelude::*;

use super::{Metric, Options};
use crate::data::Dataset;
use crate::plan::{Plan, RhsOperand, Site};
use crate::prepare::{Prepared, hex_digest};
use crate::progress::Progress;
use crate::runtime::Session;
use crate::{Error, Result};

/// One site over all batches of the calibration set, in their order, in the shapes that the model computes.
#[derive(Default)]
pub(super) struct SiteRecord {
    /// The lhs.
    pub(super) a: Vec<ArrayD<f32>>,
    /// The rhs; empty for a weight.
    pub(super) b: Vec<ArrayD<f32>>,
    /// `(∂L/∂O)²`, the mean over the probes; empty unless the metric is [`Metric::Hessian`].
    pub(super) curvature: Vec<ArrayD<f32>>,
}

/// How many bytes one batch takes.
pub(super) struct Footprint {
    /// The values of a forward pass that the backward pass needs.
    pub(super) values: usize,
    pub(super) sites: Vec<SiteFootprint>,
}

/// How many bytes the operands and the output of one site take.
pub(super) struct SiteFootprint {
    pub(super) a: usize,
    /// 0 for a weight.
    pub(super) b: usize,
    pub(super) output: usize,
    /// The number of problems that share them.
    pub(super) heads: usize,
}

/// Runs the float model over the calibration set.
pub(super) struct Recorder<'r> {
    session: Session,
    plan: &'r Plan,
    options: &'r Options,
    images: &'r Dataset,
    /// `[N, C, H, W]` of one batch.
    shape: [usize; 4],
    /// The session's output is the logits of a classifier.
    logits: bool,
    /// SHA-256 of each batch, known once it was loaded.
    digests: Vec<OnceLock<String>>,
}

/// The values that a session must tap for `plan`.
fn taps(plan: &Plan) -> Vec<&str> {
    let mut names = BTreeSet::new();
    for site in &plan.sites {
        names.insert(site.a.as_str());
        names.insert(site.output.as_str());
        if let RhsOperand::Activation { value: b, .. } = &site.b {
            names.insert(b.as_str());
        }
    }
    names.into_iter().collect()
}

impl<'r> Recorder<'r> {
    pub(super) fn new(
        model: &Prepared,
        plan: &'r Plan,
        images: &'r Dataset,
        options: &'r Options,
    ) -> Result<Self> {
        let input = model.input()?;
        let batch = input.batch();
        if !images.len().is_multiple_of(batch) {
            return Err(Error::data(
                "calibration set",
                format!("{} images do not fill batches of {batch}, the model's fixed batch", images.len()),
            ));
        }
        let shape = input.shape_for(images.item_shape())?;
        let mut outputs = model.outputs()?;
        if outputs.logits {
            outputs.names.truncate(1);
        }
        let session = Session::new(model.model(), shape, &outputs.names, &taps(plan))?;
        let digests = vec![OnceLock::new(); images.len() / batch];
        Ok(Self { session, plan, options, images, shape, logits: outputs.logits, digests })
    }

    /// Batches of the calibration set.
    pub(super) fn batches(&self) -> usize {
        self.digests.len()
    }

    fn load(&self, index: usize) -> Result<ArrayD<f32>> {
        let size = self.shape[0];
        let batch = self.images.batch(index * size..(index + 1) * size)?;
        self.digests[index].get_or_init(|| {
            let bytes: Vec<u8> = batch.iter().flat_map(|x| x.to_le_bytes()).collect();
            hex_digest(&bytes)
        });
        Ok(batch.into_dyn())
    }

    /// SHA-256 of all batches; loads those that were not loaded yet.
    pub(super) fn images_sha256(&self) -> Result<String> {
        let unknown =
            (0..self.batches()).into_par_iter().filter(|&index| self.digests[index].get().is_none());
        let loaded: Vec<Result<()>> = unknown.map(|index| self.load(index).map(drop)).collect();
        // The first error in order, on any number of threads.
        loaded.into_iter().collect::<Result<()>>()?;
        let digests = self.digests.iter().filter_map(OnceLock::get).map(String::as_str);
        Ok(hex_digest(digests.collect::<String>().as_bytes()))
    }

    /// What one batch takes, found by running an empty one.
    pub(super) fn footprint(&self) -> Result<Footprint> {
        let recorded = self.session.forward(ArrayD::zeros(&self.shape[..]), &[])?;
        let size =
            |name: &str| Ok::<_, Error>(recorded.shape(name)?.iter().product::<usize>() * size_of::<f32>());
        let of_site = |site: &Site| {
            let (b, heads) = match &site.b {
                RhsOperand::Activation { value, .. } => {
                    (size(value)?, site.heads(recorded.shape(&site.a)?, recorded.shape(value)?))
                }
                RhsOperand::Weight { .. } => (0, 1),
            };
            Ok(SiteFootprint { a: size(&site.a)?, b, output: size(&site.output)?, heads })
        };
        let sites = self.plan.sites.iter().map(of_site).collect::<Result<_>>()?;
        Ok(Footprint { values: recorded.bytes(), sites })
    }

    /// Records some sites, `at_once` batches at a time.
    pub(super) fn record(
        &self,
        sites: Range<usize>,
        at_once: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<SiteRecord>> {
        let sites = &self.plan.sites[sites];
        let next = AtomicUsize::new(0);
        let run = |_| {
            let mut mine = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.batches() {
                    return mine;
                }
                mine.push((index, self.record_batch(sites, index)));
                progress.step("", 1);
            }
        };
        let mut by_batch: Vec<_> = (0..at_once).into_par_iter().flat_map_iter(run).collect();
        by_batch.sort_by_key(|(index, _)| *index);
        let mut records: Vec<SiteRecord> = sites.iter().map(|_| SiteRecord::default()).collect();
        for (_, batch) in by_batch {
            for (all, one) in records.iter_mut().zip(batch?) {
                all.a.extend(one.a);
                all.b.extend(one.b);
                all.curvature.extend(one.curvature);
            }
        }
        Ok(records)
    }

    fn record_batch(&self, sites: &[Site], index: usize) -> Result<Vec<SiteRecord>> {
        let operands: Vec<&str> = sites
            .iter()
            .flat_map(|site| match &site.b {
                RhsOperand::Activation { value: b, .. } => vec![site.a.as_str(), b],
                RhsOperand::Weight { .. } => vec![site.a.as_str()],
            })
            .collect();
        let recorded = self.session.forward(self.load(index)?, &operands)?;
        let mut records = Vec::with_capacity(sites.len());
        for site in sites {
            let value = |name: &str| finite(recorded.value(name)?.to_owned(), &site.name, name, index);
            let b = match &site.b {
                RhsOperand::Activation { value: b, .. } => vec![value(b)?],
                RhsOperand::Weight { .. } => vec![],
            };
            records.push(SiteRecord { a: vec![value(&site.a)?], b, curvature: vec![] });
        }
        if self.options.metric == Metric::Hessian {
            let outputs: Vec<&str> = sites.iter().map(|site| site.output.as_str()).collect();
            let Options { gradient, seed, .. } = self.options;
            let seeds = gradient.seeds(&recorded.outputs()?, self.logits, *seed, index as u64)?;
            recorded.gradients(seeds, &outputs, |site, gradients| {
                let curvature = finite(mean_square(gradients), &sites[site].name, "its gradient", index)?;
                records[site].curvature.push(curvature);
                Ok(())
            })?;
        }
        Ok(records)
    }
}

/// The mean of the squares over the first axis.
fn mean_square(gradients: &ArrayD<f32>) -> ArrayD<f32> {
    let share = 1.0 / gradients.shape()[0] as f32;
    let mut sum = ArrayD::zeros(&gradients.shape()[1..]);
    for gradient in gradients.outer_iter() {
        sum.zip_mut_with(&gradient, |sum, x| *sum += x * x * share);
    }
    sum
}

fn finite(values: ArrayD<f32>, site: &str, what: &str, index: usize) -> Result<ArrayD<f32>> {
    // Unlike a search, which ends early, this vectorizes.
    if values.fold(true, |finite, x| finite & x.is_finite()) {
        return Ok(values);
    }
    match values.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Error::data(
            format!("site `{site}`"),
            format!(
                "`{what}` is not finite ({x}) for batch {index} of the calibration set: the float model overflows"
            ),
        )),
        None => Ok(values),
    }
}
