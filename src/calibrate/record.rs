//! The float model's values at every site, and the curvature of the loss there, over the calibration set.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array4, ArrayD};
use rayon::prelude::*;

use super::{Metric, Options, hex_digest};
use crate::plan::{self, Plan, RhsOperand, Site};
use crate::progress::Progress;
use crate::session::Session;
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
    pub(super) session: &'r Session,
    pub(super) plan: &'r Plan,
    pub(super) options: &'r Options,
    /// The number of batches of the calibration set.
    pub(super) chunks: usize,
    /// Loads the batch of an index.
    pub(super) load: &'r (dyn Fn(usize) -> Result<Array4<f32>> + Sync),
    /// Whether the session's output is the logits of a classifier.
    pub(super) logits: bool,
}

/// The values that a session must tap for `plan`.
pub(super) fn taps(plan: &Plan) -> Vec<&str> {
    let mut names = BTreeSet::new();
    for site in &plan.sites {
        names.insert(site.a.as_str());
        names.insert(site.output.as_str());
        if let RhsOperand::Activation(b) = &site.b {
            names.insert(b.as_str());
        }
    }
    names.into_iter().collect()
}

impl Recorder<'_> {
    /// SHA-256 of all batches.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let digest = |chunk| -> Result<String> {
            let batch = (self.load)(chunk)?;
            let bytes: Vec<u8> = batch.iter().flat_map(|x| x.to_le_bytes()).collect();
            Ok(hex_digest(&bytes))
        };
        let digests = (0..self.chunks).into_par_iter().map(digest).collect::<Vec<_>>();
        Ok(hex_digest(digests.into_iter().collect::<Result<String>>()?.as_bytes()))
    }

    /// What one batch takes, found by running one.
    pub(super) fn footprint(&self) -> Result<Footprint> {
        let recorded = self.session.forward((self.load)(0)?.into_dyn(), &[])?;
        let size =
            |name: &str| Ok::<_, Error>(recorded.shape(name)?.iter().product::<usize>() * size_of::<f32>());
        let of_site = |site: &Site| {
            let b = match &site.b {
                RhsOperand::Activation(b) => size(b)?,
                RhsOperand::Weight { .. } => 0,
            };
            let heads = if b > 0 { plan::heads(recorded.shape(&site.a)?) } else { 1 };
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
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= self.chunks {
                    return mine;
                }
                mine.push((chunk, self.record_chunk(sites, chunk)));
                progress.step("", 1);
            }
        };
        let mut by_chunk: Vec<_> = (0..at_once).into_par_iter().flat_map_iter(run).collect();
        by_chunk.sort_by_key(|(chunk, _)| *chunk);
        let mut records: Vec<SiteRecord> = sites.iter().map(|_| SiteRecord::default()).collect();
        for (_, chunk) in by_chunk {
            for (all, one) in records.iter_mut().zip(chunk?) {
                all.a.extend(one.a);
                all.b.extend(one.b);
                all.curvature.extend(one.curvature);
            }
        }
        Ok(records)
    }

    fn record_chunk(&self, sites: &[Site], chunk: usize) -> Result<Vec<SiteRecord>> {
        let operands: Vec<&str> = sites
            .iter()
            .flat_map(|site| match &site.b {
                RhsOperand::Activation(b) => vec![site.a.as_str(), b],
                RhsOperand::Weight { .. } => vec![site.a.as_str()],
            })
            .collect();
        let recorded = self.session.forward((self.load)(chunk)?.into_dyn(), &operands)?;
        let mut records = Vec::with_capacity(sites.len());
        for site in sites {
            let value = |name: &str| finite(recorded.value(name)?.to_owned(), &site.name, name, chunk);
            let b = match &site.b {
                RhsOperand::Activation(b) => vec![value(b)?],
                RhsOperand::Weight { .. } => vec![],
            };
            records.push(SiteRecord { a: vec![value(&site.a)?], b, curvature: vec![] });
        }
        if self.options.metric == Metric::Hessian {
            let outputs: Vec<&str> = sites.iter().map(|site| site.output.as_str()).collect();
            let Options { gradient, seed, .. } = self.options;
            let seeds = gradient.seeds(&recorded.outputs()?, self.logits, *seed, chunk as u64)?;
            recorded.gradients(seeds, &outputs, |site, gradients| {
                let curvature = finite(mean_square(gradients), &sites[site].name, "its gradient", chunk)?;
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

fn finite(values: ArrayD<f32>, site: &str, what: &str, chunk: usize) -> Result<ArrayD<f32>> {
    // Unlike a search, which ends early, this vectorizes.
    if values.fold(true, |finite, x| finite & x.is_finite()) {
        return Ok(values);
    }
    match values.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(Error::data(
            format!("site `{site}`"),
            format!(
                "`{what}` is not finite ({x}) for batch {chunk} of the calibration set: the float model overflows"
            ),
        )),
        None => Ok(values),
    }
}
