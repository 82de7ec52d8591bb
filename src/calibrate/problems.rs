//! From the record of a site to its search problems: one per site, or one per head.

use ndarray::{Array2, ArrayD, Ix2, IxDyn, ShapeError};

use super::calibration::SiteScales;
use super::record::SiteRecord;
use super::search::{LhsKind, Problem, Rhs, Search};
use super::{Options, WeightScales, convolution, outliers, shares};
use crate::onnx::{Graph, tensor};
use crate::plan::{LhsSource, RhsOperand, ScaleOf, Site, WeightLayout};
use crate::{Error, Result};

/// An operand or the curvature of one problem, for each image or batch.
type Matrices = Vec<Array2<f32>>;

/// Searches the scales of one site.
pub(super) fn solve(
    graph: &Graph,
    site: &Site,
    record: SiteRecord,
    options: &Options,
    search: Search,
) -> Result<SiteScales> {
    if let Some(windows) = site.windows() {
        return convolution::solve(graph, site, windows, &record, options, search);
    }
    let a_rank = record.a[0].ndim();
    // The twins that can be written: one over a weight, and probabilities of an axis before those of their matrices.
    let a_kind = match (site.a_kind, &site.b) {
        (LhsSource::Softmax, RhsOperand::Activation { .. }) if options.softmax_twin && a_rank > 2 => {
            LhsKind::TwinSoftmax
        }
        (LhsSource::Activation(function), RhsOperand::Weight { .. }) if options.gelu_twin => {
            LhsKind::TwinGelu { reach: function.reach() }
        }
        _ => LhsKind::Uniform,
    };
    let (mut outliers, mut by_share) = (Vec::new(), false);
    let (problems, b_bits) = match &site.b {
        RhsOperand::Weight { layout, scales, .. } => {
            let weight = site.weight(graph)?;
            let mut problem = linear(site, record, a_kind, weight, *layout, *scales, options.weights)?;
            if options.outliers && a_rank > 2 {
                outliers = outliers::take(&mut problem);
            }
            by_share = *scales == ScaleOf::Channel && options.weights == WeightScales::PerTensor;
            (vec![problem], options.weight_bits)
        }
        RhsOperand::Activation { .. } => (attention(site, &record, a_kind)?, options.activation_bits),
    };
    let settings = options.settings(options.activation_bits, b_bits);
    let (name, output) = (site.name.clone(), None);
    let mut scales = SiteScales { name, a_rank, a: vec![], b: vec![], output, outliers, b_bits, loss: 0.0 };
    for problem in problems {
        let solution = match by_share {
            true => shares::run(problem, &settings, search),
            false => search.run(problem, &settings),
        };
        let solution = solution.map_err(|error| Error::model(place(site), error))?;
        ensure_finite(site, solution.loss)?;
        scales.a.push(solution.a);
        scales.b.extend(solution.b);
        scales.loss += solution.loss;
    }
    Ok(scales)
}

/// An error if the loss of a site is not finite.
pub(super) fn ensure_finite(site: &Site, loss: f64) -> Result<()> {
    let why = "its errors overflow whatever the scales: a weight or an activation is too large";
    if loss.is_finite() { Ok(()) } else { Err(Error::model(place(site), why)) }
}

/// The number of elements of the site's weight; 0 where both operands are activations.
pub(super) fn weight_len(graph: &Graph, site: &Site) -> usize {
    match &site.b {
        RhsOperand::Weight { value, .. } => graph.constant(value).map_or(0, tensor::len),
        RhsOperand::Activation { .. } => 0,
    }
}

/// The problem of a linear layer: all tokens of a batch are rows of one matrix.
fn linear(
    site: &Site,
    record: SiteRecord,
    a_kind: LhsKind,
    weight: ArrayD<f32>,
    layout: WeightLayout,
    of: ScaleOf,
    scales: WeightScales,
) -> Result<Problem> {
    let misshapen = |e: ShapeError| Error::model(place(site), e);
    let b = weight_matrix(weight, layout).map_err(misshapen)?;
    let n = b.ncols();
    let groups = match scales {
        WeightScales::PerChannel => (0..n).map(|c| c..c + 1).collect(),
        WeightScales::PerTensor if of == ScaleOf::Thirds && n.is_multiple_of(3) => {
            (0..3).map(|i| i * n / 3..(i + 1) * n / 3).collect()
        }
        WeightScales::PerTensor => std::iter::once(0..n).collect(),
    };
    let matrices = |values: Vec<ArrayD<f32>>| -> Result<Matrices> {
        values.into_iter().map(rows).collect::<Result<_, _>>().map_err(misshapen)
    };
    let (a, curvature) = (matrices(record.a)?, matrices(record.curvature)?);
    let agree = a.iter().all(|a| a.ncols() == b.nrows())
        && a.iter().zip(&curvature).all(|(a, c)| c.dim() == (a.nrows(), n));
    if !agree {
        let why = format!("operands {:?} and {:?} do not multiply", a[0].dim(), b.dim());
        return Err(Error::model(place(site), why));
    }
    Ok(Problem { a, a_kind, b: Rhs::Weight(b), groups, curvature })
}

/// The problems of a product `[…, H, M, K]·[…, H, K, N]` of two activations: one per head, or one for all where no axis is
/// that of the heads. The axes before the matrices broadcast.
fn attention(site: &Site, record: &SiteRecord, a_kind: LhsKind) -> Result<Vec<Problem>> {
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
        Problem { a, a_kind, b: Rhs::Activation(b), groups, curvature }
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
    Some(stacked.outer_iter().map(|matrix| matrix.to_owned()).collect())
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

/// The weight of a linear layer as `[K, N]`.
fn weight_matrix(weight: ArrayD<f32>, layout: WeightLayout) -> Result<Array2<f32>, ShapeError> {
    let weight = weight.into_dimensionality::<Ix2>()?;
    Ok(match layout {
        WeightLayout::Nk => weight.reversed_axes().as_standard_layout().into_owned(),
        _ => weight,
    })
}

/// All axes but the last as rows.
fn rows(x: ArrayD<f32>) -> Result<Array2<f32>, ShapeError> {
    let columns = x.shape().last().copied().unwrap_or(1);
    let rows = x.len() / columns.max(1);
    x.into_shape_with_order((rows, columns))
}
