//! The float model's values at every site, and the curvature of the loss there, over the calibration set.

use std::collections::BTreeSet;
use std::iter::repeat;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{ArrayD, Axis};
use rayon::prelude::*;

use super::{Metric, Options, convolution};
use crate::data::Dataset;
use crate::plan::{Plan, RhsOperand, Site};
use crate::prepare::{Cut, Loss, Outputs, Prepared, hex_digest};
use crate::progress::Progress;
use crate::runtime::Session;
use crate::{Error, Result};

/// One site over all batches of the calibration set, in their order, in the shapes that the model computes. Of a Conv,
/// some windows alone: see [`convolution::windows`] and [`convolution::outputs`].
#[derive(Default)]
pub(super) struct SiteRecord {
    /// The lhs.
    pub(super) a: Vec<ArrayD<f32>>,
    /// The rhs; empty for a weight.
    pub(super) b: Vec<ArrayD<f32>>,
    /// `(∂L/∂O)²`, the mean over the probes; empty unless the metric is [`Metric::Hessian`].
    pub(super) curvature: Vec<ArrayD<f32>>,
}

impl SiteRecord {
    /// Whether the loss does not depend on the site: its curvature is zero everywhere.
    pub(super) fn is_flat(&self) -> bool {
        !self.curvature.is_empty() && self.curvature.iter().all(|batch| batch.iter().all(|&x| x == 0.0))
    }
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
    /// The loss at the session's outputs; at those beyond it is relative.
    losses: Vec<Loss>,
    /// What the user should know of the loss.
    notes: Vec<String>,
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
        let shape = input.shape_for(images.item_shape())?;
        let (names, losses): (Vec<String>, Vec<Loss>) = losses(model)?.into_iter().unzip();
        let mut session = Session::new(&model.computable_for(shape)?, shape, &names, &taps(plan))?;
        let mut notes: Vec<String> = model.cut().map(|cut| cut_note(model, cut)).into_iter().collect();
        if options.metric == Metric::Hessian {
            let wanted: Vec<&str> = plan.sites.iter().map(|site| site.output.as_str()).collect();
            let ends = session.end_at_missing_rules(&wanted)?;
            notes.extend(ends.iter().map(|(node, op)| {
                format!(
                    "warning: {op} `{node}` has no gradient rule: for the sites before it, the error at its input \
                     is the loss"
                )
            }));
        }
        let digests = vec![OnceLock::new(); images.len().div_ceil(batch)];
        Ok(Self { session, plan, options, images, shape, losses, notes, digests })
    }

    /// What the user should know of the loss.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Batches of the calibration set.
    pub(super) fn batches(&self) -> usize {
        self.digests.len()
    }

    /// Batch `index`; the last one is filled up with the first images, so that each counts nearly the same.
    fn load(&self, index: usize) -> Result<ArrayD<f32>> {
        let (size, total) = (self.shape[0], self.images.len());
        let mut batch = self.images.batch(index * size..total.min((index + 1) * size))?;
        while batch.len_of(Axis(0)) < size {
            let more = self.images.batch(0..total.min(size - batch.len_of(Axis(0))))?;
            batch.append(Axis(0), more.view()).expect("all images have one shape");
        }
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
            if let Some(windows) = site.windows() {
                let (x, y) = (recorded.shape(&site.a)?, recorded.shape(&site.output)?);
                let [rows, channels, outputs] = match (x, y) {
                    (&[n, channels, ..], &[_, outputs, h, w]) => {
                        [n * convolution::recorded([h, w]), channels, outputs]
                    }
                    _ => return Err(Error::model(&site.name, format!("a Conv makes {y:?} of {x:?}"))),
                };
                let floats = rows * windows.depth(channels) * windows.groups();
                let [a, output] = [floats, rows * outputs].map(|floats| floats * size_of::<f32>());
                return Ok(SiteFootprint { a, b: 0, output, heads: 1 });
            }
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
            let a = match site.windows() {
                Some(windows) => {
                    convolution::windows(windows, &value(&site.a)?.view(), index * self.shape[0])?
                }
                None => value(&site.a)?,
            };
            records.push(SiteRecord { a: vec![a], b, curvature: vec![] });
        }
        if self.options.metric == Metric::Hessian {
            let outputs: Vec<&str> = sites.iter().map(|site| site.output.as_str()).collect();
            let Options { gradient, seed, .. } = self.options;
            let losses = self.losses.iter().copied().chain(repeat(Loss::Relative));
            let outputs_of_loss: Vec<_> = recorded.outputs()?.into_iter().zip(losses).collect();
            let seeds = gradient.seeds(&outputs_of_loss, *seed, index as u64)?;
            recorded.gradients(seeds, &outputs, |site, gradients| {
                let mut curvature = finite(mean_square(gradients), &sites[site].name, "its gradient", index)?;
                if sites[site].windows().is_some() {
                    curvature = convolution::outputs(curvature, index * self.shape[0])?;
                }
                records[site].curvature.push(curvature);
                Ok(())
            })?;
        }
        Ok(records)
    }
}

/// The values whose errors are the loss; of a model of which a part is computed, what is computed of them, and the values at
/// which it goes on with the rest.
fn losses(model: &Prepared) -> Result<Vec<(String, Loss)>> {
    let Outputs { loss, names, .. } = model.outputs()?;
    let Some(cut) = model.cut() else { return Ok(loss) };
    let graph = model.graph();
    let is_computed = |name: &str| graph.producer(name).is_none_or(|id| cut.before(id).is_none());
    let of_classes = |(name, loss): &(String, Loss)| {
        is_computed(name) && matches!(loss, Loss::CrossEntropy(_) | Loss::BinaryCrossEntropy)
    };
    let mut found: Vec<(String, Loss)> = loss.into_iter().filter(of_classes).collect();
    let others = if found.is_empty() { names } else { Vec::new() };
    // Errors of different values are added: all are relative.
    for name in others.into_iter().filter(|name| is_computed(name)).chain(cut.boundary.iter().cloned()) {
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, Loss::Relative));
        }
    }
    Ok(found)
}

/// What is not computed of a model, and what takes its place.
fn cut_note(model: &Prepared, cut: &Cut) -> String {
    let labels: Vec<String> = cut.nodes.iter().map(|(id, _)| model.graph().node(*id).label()).collect();
    let values: Vec<String> = cut.boundary.iter().map(|value| format!("`{value}`")).collect();
    format!(
        "warning: {} cannot be computed here ({}): what lies behind stays in float, and the error of {} is part of the \
         loss",
        some_of(&labels),
        cut.nodes[0].1,
        some_of(&values),
    )
}

/// The first few of a list.
pub(super) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SHOWN].join(", ")),
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
