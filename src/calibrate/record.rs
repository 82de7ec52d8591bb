//! The float model's values at every site, and the curvature of the loss there, over the calibration set.

use std::collections::BTreeSet;
use std::ops::Range;

use ndarray::{Array4, ArrayD};
use rayon::prelude::*;

use super::{Metric, Options};
use crate::plan::{Plan, RightOperand, Site};
use crate::progress::Progress;
use crate::session::Session;
use crate::{Error, Result};

/// One site over all chunks of the calibration set, in their order, in the shapes that the model computes.
#[derive(Default)]
pub(super) struct SiteRecord {
    /// The left operand.
    pub(super) a: Vec<ArrayD<f32>>,
    /// The right operand; empty for a weight.
    pub(super) b: Vec<ArrayD<f32>>,
    /// `(∂L/∂O)²`, the mean over the probes; empty unless the metric is [`Metric::Hessian`].
    pub(super) curvature: Vec<ArrayD<f32>>,
}

/// Runs the float model over the calibration set.
pub(super) struct Recorder<'r> {
    pub(super) session: &'r Session,
    pub(super) plan: &'r Plan,
    pub(super) options: &'r Options,
    /// Batches of the calibration set.
    pub(super) chunks: usize,
    /// The batch of a chunk.
    pub(super) load: &'r (dyn Fn(usize) -> Result<Array4<f32>> + Sync),
}

/// The values that a session must tap for `plan`.
pub(super) fn taps(plan: &Plan) -> Vec<&str> {
    let mut names = BTreeSet::new();
    for site in &plan.sites {
        names.insert(site.a.as_str());
        names.insert(site.output.as_str());
        if let RightOperand::Activation(b) = &site.b {
            names.insert(b.as_str());
        }
    }
    names.into_iter().collect()
}

impl Recorder<'_> {
    /// Divides the sites into runs whose records stay within `budget` bytes (but one site at least).
    pub(super) fn groups(&self, budget: usize) -> Result<Vec<Range<usize>>> {
        let recorded = self.session.forward((self.load)(0)?.into_dyn())?;
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (i, site) in self.plan.sites.iter().enumerate() {
            let len = |name: &str| recorded.value(name).map(|v| v.len());
            let mut floats = len(&site.a)?;
            if let RightOperand::Activation(b) = &site.b {
                floats += len(b)?;
            }
            if self.options.metric == Metric::Hessian {
                floats += len(&site.output)?;
            }
            let of_site = floats * size_of::<f32>() * self.chunks;
            match groups.last_mut() {
                Some(group) if bytes + of_site <= budget => {
                    group.end = i + 1;
                    bytes += of_site;
                }
                _ => {
                    groups.push(i..i + 1);
                    bytes = of_site;
                }
            }
        }
        Ok(groups)
    }

    /// Records the sites of one group.
    pub(super) fn record(&self, group: Range<usize>, progress: &dyn Progress) -> Result<Vec<SiteRecord>> {
        let sites = &self.plan.sites[group];
        let by_chunk: Vec<Result<Vec<SiteRecord>>> = (0..self.chunks)
            .into_par_iter()
            .map(|chunk| {
                let records = self.record_chunk(sites, chunk);
                progress.step("");
                records
            })
            .collect();
        let mut records: Vec<SiteRecord> = sites.iter().map(|_| SiteRecord::default()).collect();
        for chunk in by_chunk {
            for (all, one) in records.iter_mut().zip(chunk?) {
                all.a.extend(one.a);
                all.b.extend(one.b);
                all.curvature.extend(one.curvature);
            }
        }
        Ok(records)
    }

    fn record_chunk(&self, sites: &[Site], chunk: usize) -> Result<Vec<SiteRecord>> {
        let recorded = self.session.forward((self.load)(chunk)?.into_dyn())?;
        let mut records = Vec::with_capacity(sites.len());
        for site in sites {
            let value = |name: &str| finite(recorded.value(name)?.to_owned(), &site.name, name, chunk);
            let b = match &site.b {
                RightOperand::Activation(b) => vec![value(b)?],
                RightOperand::Weight { .. } => vec![],
            };
            records.push(SiteRecord { a: vec![value(&site.a)?], b, curvature: vec![] });
        }
        if self.options.metric == Metric::Hessian {
            let outputs: Vec<&str> = sites.iter().map(|site| site.output.as_str()).collect();
            let seeds = self.options.gradient.seeds(
                &recorded.output()?.to_owned(),
                self.options.seed,
                chunk as u64,
            )?;
            let share = 1.0 / seeds.len() as f32;
            for seed in seeds {
                let gradients = recorded.gradients(seed, &outputs)?;
                for ((record, site), gradient) in records.iter_mut().zip(sites).zip(gradients) {
                    let squared =
                        finite(gradient, &site.name, "its gradient", chunk)?.mapv_into(|g| g * g * share);
                    match record.curvature.first_mut() {
                        Some(sum) => *sum += &squared,
                        None => record.curvature.push(squared),
                    }
                }
            }
        }
        Ok(records)
    }
}

fn finite(values: ArrayD<f32>, site: &str, what: &str, chunk: usize) -> Result<ArrayD<f32>> {
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
