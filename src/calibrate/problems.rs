//! From the record of a site to its search problems: one per site, or one per head.

use std::collections::HashMap;

use ndarray::{Array2, ArrayD, IxDyn, ShapeError};

use super::calibration::SiteScales;
use super::fold::Fold;
use super::options::SiteBits;
use super::record::SiteRecord;
use super::search::{LhsKind, Matrix, Problem, Rhs, Search};
use super::{Options, convolution, heads, linear};
use crate::onnx::{Graph, tensor};
use crate::plan::{LhsSource, Norm, Plan, RhsOperand, Site, WeightLayout};
use crate::{Error, Result};

/// An operand or the curvature of one problem, for each image or batch.
type Matrices = Vec<Matrix>;

/// Calibrates one site after another, in the order of the graph.
pub(super) struct Solver<'s> {
    pub(super) graph: &'s Graph,
    pub(super) plan: &'s Plan,
    pub(super) options: &'s Options,
    pub(super) search: Search,
    /// k of every site.
    pub(super) bits: Vec<SiteBits>,
    /// The folds of values that linear layers take: all that take one have the same.
    folds: HashMap<&'s str, Option<Fold>>,
}

impl<'s> Solver<'s> {
    /// One that begins after the sites that were `done` before.
    pub(super) fn new(
        graph: &'s Graph,
        plan: &'s Plan,
        options: &'s Options,
        search: Search,
        bits: Vec<SiteBits>,
        done: &[SiteScales],
    ) -> Self {
        let of_linear = plan.sites.iter().zip(done).filter(|(site, _)| weight_len(graph, site) > 0);
        let mut folds: HashMap<&str, Option<Fold>> =
            of_linear.map(|(site, scales)| (site.a.as_str(), scales.fold.clone())).collect();
        let of_values =
            plan.heads.values.iter().filter_map(|link| {
                Some((plan.sites[link.proj].a.as_str(), done.get(link.site)?.fold.clone()))
            });
        folds.extend(of_values);
        Self { graph, plan, options, search, bits, folds }
    }

    /// Calibrates site number `done.len()`, and changes what those before it have to do for it.
    pub(super) fn solve(&mut self, record: SiteRecord, done: &mut Vec<SiteScales>) -> Result<()> {
        let index = done.len();
        let site = &self.plan.sites[index];
        let scales = match (&site.b, site.windows()) {
            (_, Some(windows)) => convolution::solve(
                self.graph,
                site,
                windows,
                &record,
                self.bits[index],
                self.options,
                self.search,
            )?,
            (RhsOperand::Weight { .. }, None) => linear::solve(self, site, self.bits[index], record)?,
            (RhsOperand::Activation { .. }, None) => self.product(index, &record, done)?,
        };
        done.push(scales);
        Ok(())
    }

    /// Calibrates a product of two activations.
    fn product(&mut self, index: usize, record: &SiteRecord, done: &mut [SiteScales]) -> Result<SiteScales> {
        let (site, options) = (&self.plan.sites[index], self.options);
        let a_rank = record.a[0].ndim();
        let SiteBits { a, b: b_bits } = self.bits[index];
        let settings = options.settings(a, b_bits);
        let mut problems = attention(site, record, lhs_kind(site, options, a_rank))?;
        let mut scales = SiteScales::new(site, a_rank, b_bits);
        if options.fold {
            scales.fold = heads::fold(self, index, &mut problems, &settings, done)?;
        }
        for problem in problems {
            let solution =
                self.search.run(problem, &settings).map_err(|error| Error::model(place(site), error))?;
            ensure_finite(site, solution.loss)?;
            scales.a.push(solution.a);
            scales.b.extend(solution.b);
            scales.loss += solution.loss;
        }
        Ok(scales)
    }

    /// The fold of what `site` takes; the first site that takes a value chooses for the others.
    pub(super) fn fold(
        &mut self,
        site: &'s Site,
        a_rank: usize,
        choose: impl FnOnce(&Norm, bool) -> Result<Option<Fold>>,
    ) -> Result<Option<Fold>> {
        if let Some(known) = self.folds.get(site.a.as_str()) {
            return Ok(known.clone());
        }
        let found = match Norm::of(self.graph, &self.plan.sites, site) {
            Some(norm) => {
                let mut takers = self.plan.sites.iter().filter(|other| other.a == site.a);
                choose(&norm, takers.all(|other| linear::own_bias(other, a_rank).is_some()))?
            }
            None => None,
        };
        self.folds.insert(&site.a, found.clone());
        Ok(found)
    }

    /// Sets the fold of what `site` takes.
    pub(super) fn set_fold(&mut self, site: usize, fold: Fold) {
        self.folds.insert(&self.plan.sites[site].a, Some(fold));
    }
}

/// The twins that can be written: one over a weight, and probabilities of an axis before those of their matrices.
pub(super) fn lhs_kind(site: &Site, options: &Options, a_rank: usize) -> LhsKind {
    match (site.a_kind, &site.b) {
        (LhsSource::Softmax, RhsOperand::Activation { .. }) if options.softmax_twin && a_rank > 2 => {
            LhsKind::TwinSoftmax
        }
        (LhsSource::Activation(function), RhsOperand::Weight { .. }) if options.gelu_twin => {
            LhsKind::TwinGelu { reach: function.reach() }
        }
        _ => LhsKind::Uniform,
    }
}

/// An error if the loss of a site is not finite.
pub(super) fn ensure_finite(site: &Site, loss: f64) -> Result<()> {
    let why = "its errors overflow whatever the scales: a weight or an activation is too large";
    if loss.is_finite() { Ok(()) } else { Err(Error::model(place(site), why)) }
}

/// The number of elements of the site's weight; 0 where both operands are activations.
pub fn weight_len(graph: &Graph, site: &Site) -> usize {
    match &site.b {
        RhsOperand::Weight { value, .. } => graph.constant(value).map_or(0, tensor::len),
        RhsOperand::Activation { .. } => 0,
    }
}

/// The number of rows of the site's weight `[K, N]`; 0 where both operands are activations.
pub(super) fn weight_depth(graph: &Graph, site: &Site) -> usize {
    let RhsOperand::Weight { value, layout, .. } = &site.b else { return 0 };
    let outputs = match layout {
        WeightLayout::Kn => 1,
        WeightLayout::Nk | WeightLayout::Conv(_) => 0,
    };
    let outputs = graph.constant(value).map(tensor::shape).and_then(|dims| dims.get(outputs).copied());
    weight_len(graph, site) / outputs.unwrap_or(1).max(1)
}

/// The problems of a product `[…, H, M, K]·[…, H, K, N]` of two activations: one per head, or one for all where no axis is
/// that of the heads. The axes before the matrices broadcast.
pub(super) fn attention(site: &Site, record: &SiteRecord, a_kind: LhsKind) -> Result<Vec<Problem>> {
    let misshapen = || {
        let (a, b) = (record.a[0].shape(), record.b[0].shape());
        Error::unsupported(place(site), format!("operands {a:?} and {b:?} do not multiply"))
    };
    let heads = site.heads(record.a[0].shape(), record.b[0].shape());
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (of_a, of_b) in record.a.iter().zip(&record.b) {
        let leading = leading(of_a.shape(), of_b.shape()).ok_or_else(misshapen)?;
        a.push(matrices(of_a, &leading).ok_or_else(misshapen)?);
        b.push(matrices(of_b, &leading).ok_or_else(misshapen)?);
    }
    let curvature = record.curvature.iter().map(|of_output| {
        let [leading @ .., _, _] = of_output.shape() else { return Err(misshapen()) };
        matrices(of_output, leading).ok_or_else(misshapen)
    });
    let (mut a, mut b) = (by_head(a, heads), by_head(b, heads));
    let mut curvature = by_head(curvature.collect::<Result<_>>()?, heads);
    let problem = |head: usize| {
        let [a, b, curvature] = [&mut a, &mut b, &mut curvature].map(|all| std::mem::take(&mut all[head]));
        let groups = std::iter::once(0..b[0].ncols()).collect();
        Problem { a, a_kind, b: Rhs::Activation(b), groups, curvature, units: vec![] }
    };
    Ok((0..heads).map(problem).collect())
}

/// What the axes before the matrices of two operands broadcast to; `None` unless these are matrices that multiply.
fn leading(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let ([of_a @ .., _, k], [of_b @ .., same_k, _]) = (a, b) else { return None };
    let rank = of_a.len().max(of_b.len());
    let dim = |of: &[usize], axis: usize| (axis + of.len()).checked_sub(rank).map_or(1, |axis| of[axis]);
    let dims = (0..rank).map(|axis| match (dim(of_a, axis), dim(of_b, axis)) {
        (1, dim) | (dim, 1) => Some(dim),
        (dim, same) => (dim == same).then_some(dim),
    });
    dims.collect::<Option<_>>().filter(|_| k == same_k)
}

/// The matrices of a value, whose axes before these broadcast to `leading`.
fn matrices(value: &ArrayD<f32>, leading: &[usize]) -> Option<Matrices> {
    let [.., rows, columns] = *value.shape() else { return None };
    let count = leading.iter().product();
    let whole = value.broadcast(IxDyn(&[leading, &[rows, columns]].concat()))?;
    let stacked = whole.to_shape((count, rows, columns)).ok()?;
    Some(stacked.outer_iter().map(|matrix| matrix.to_shared()).collect())
}

/// Deals the matrices of all batches out to the heads.
fn by_head(batches: Vec<Matrices>, heads: usize) -> Vec<Matrices> {
    let mut dealt = vec![Matrices::new(); heads];
    for (i, matrix) in batches.into_iter().flat_map(|batch| batch.into_iter().enumerate()) {
        dealt[i % heads].push(matrix);
    }
    dealt
}

pub(super) fn place(site: &Site) -> String {
    format!("site `{}`", site.name)
}

/// All axes but the last as rows.
pub(super) fn rows(x: ArrayD<f32>) -> Result<Array2<f32>, ShapeError> {
    let columns = x.shape().last().copied().unwrap_or(1);
    let rows = x.len() / columns.max(1);
    x.into_shape_with_order((rows, columns))
}
