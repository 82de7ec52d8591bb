//! A linear layer: the ranges of its channels, its scales, its codes and its bias, in this order.

use ndarray::{Array2, ArrayD, Ix2, ShapeError};

use super::calibration::SiteScales;
use super::codes::WeightCodes;
use super::fold;
use super::gram::Rows;
use super::options::SiteBits;
use super::problems::{Solver, ensure_finite, lhs_kind, place, rows};
use super::record::SiteRecord;
use super::search::{Matrix, Problem, Rhs};
use super::{Options, WeightScales, bias, outliers, rounding, shares};
use crate::onnx::Graph;
use crate::plan::{BiasPlace, Norm, RhsOperand, ScaleOf, Site, WeightLayout};
use crate::quant::{Quantizer, Scale};
use crate::{Error, Result};

/// Calibrates a linear layer.
pub(super) fn solve<'s>(
    solver: &mut Solver<'s>,
    site: &'s Site,
    bits: SiteBits,
    record: SiteRecord,
) -> Result<SiteScales> {
    let Solver { graph, options, search, .. } = *solver;
    let a_rank = record.a[0].ndim();
    let by_channel = matches!(site.b, RhsOperand::Weight { scales: ScaleOf::Channel, .. });
    let by_share = by_channel || options.weights == WeightScales::PerChannel;
    let mut problem = problem(graph, site, record, options)?;
    let settings = options.settings(bits.a, bits.b);
    let own_bias = own_bias(site, a_rank);
    let mut lost: Option<Vec<f32>> = None;
    let mut fold = None;
    if options.fold {
        let choose = |norm: &Norm, can_shift: bool| {
            fold::choose(&problem, norm, can_shift, options.outliers && a_rank > 2, &settings)
        };
        fold = solver.fold(site, a_rank, choose)?;
    }
    if let (Some(fold), Rhs::Weight(weight)) = (&fold, &problem.b) {
        if !fold.shift.is_empty() && own_bias.is_none() {
            let why = "its input is shifted, and its bias cannot make up for that: switch folds off";
            return Err(Error::unsupported(place(site), why));
        }
        lost = Some(fold.lost(weight)).filter(|_| !fold.shift.is_empty());
        fold.apply(&mut problem);
    }
    let outliers = if options.outliers && a_rank > 2 { outliers::take(&mut problem) } else { vec![] };

    let solution = match by_share {
        true => shares::run(problem.clone(), &settings, search),
        false => search.run(problem.clone(), &settings),
    };
    let solution = solution.map_err(|error| Error::model(place(site), error))?;
    ensure_finite(site, solution.loss)?;
    let (a, b, loss) = (vec![solution.a], solution.b, solution.loss);
    let mut scales = SiteScales { a, b, outliers, fold, loss, ..SiteScales::new(site, a_rank, bits.b) };
    refine(&mut scales, &problem, options)?;
    let correction = if options.bias && own_bias.is_some() && !options.metric.is_rowwise() {
        let quantized = dequantized(&scales, &problem);
        let correction = bias::correction(&problem, scales.a[0], &quantized);
        scales.loss = correction.loss;
        Some(correction.bias)
    } else {
        None
    };
    if let Some(own) = own_bias.filter(|_| lost.is_some() || correction.is_some()) {
        let part = |part: &Option<Vec<f32>>, at: usize| part.as_ref().map_or(0.0, |part| part[at]);
        scales.bias =
            Some(own.iter().enumerate().map(|(at, x)| x + part(&lost, at) + part(&correction, at)).collect());
        scales.correction = correction;
    }
    Ok(scales)
}

/// The bias of a linear layer, if it can be another.
pub(super) fn own_bias(site: &Site, a_rank: usize) -> Option<&Vec<f32>> {
    // One of more axes than the product stays as it is.
    let own = |place: &BiasPlace| !matches!(place, BiasPlace::Add { rank, .. } if *rank > a_rank);
    site.bias.as_ref().filter(|bias| own(&bias.place)).map(|bias| &bias.values)
}

/// Rounds the weight of a problem whose scales are found, where that helps.
pub(super) fn refine(scales: &mut SiteScales, problem: &Problem, options: &Options) -> Result<()> {
    let Rhs::Weight(weight) = &problem.b else { return Ok(()) };
    if !options.rounds_in_turn(scales.b_bits) {
        return Ok(());
    }
    let rows = Rows::new(problem, scales.a[0]);
    let by_column = scales_of_columns(scales, weight.ncols(), &problem.groups);
    let each = scales.b.len() == weight.ncols();
    let Some(mut found) = rounding::round(&rows, weight, &by_column, scales.b_bits, each)? else {
        return Ok(());
    };
    for &outlier in &scales.outliers {
        found.codes.row_mut(outlier).fill(0);
    }
    if each {
        scales.b = found.scales;
    }
    scales.codes = Some(WeightCodes::new(&found.codes));
    Ok(())
}

/// The scale of each of `n` columns.
fn scales_of_columns(scales: &SiteScales, n: usize, groups: &[std::ops::Range<usize>]) -> Vec<Scale> {
    match scales.b.len() == n {
        true => scales.b.clone(),
        false => groups
            .iter()
            .zip(&scales.b)
            .flat_map(|(group, &scale)| group.clone().map(move |_| scale))
            .collect(),
    }
}

/// The weight that the codes stand for, without what attention multiplies its columns by.
pub(super) fn dequantized(scales: &SiteScales, problem: &Problem) -> Array2<f32> {
    let weight = &problem.b.matrices()[0];
    let by_column = scales_of_columns(scales, weight.ncols(), &problem.groups);
    let factor = |column: usize| scales.columns.as_ref().map_or(1.0, |factors| factors[column]);
    match scales.codes.as_ref().and_then(|codes| codes.matrix([weight.nrows(), weight.ncols()])) {
        Some(codes) => Array2::from_shape_fn(weight.dim(), |at| {
            f32::from(codes[at]) * by_column[at.1].get() / factor(at.1)
        }),
        None => Array2::from_shape_fn(weight.dim(), |at| {
            let quantizer = Quantizer::Uniform { scale: by_column[at.1], bits: scales.b_bits };
            quantizer.fake_quant(weight[at] * factor(at.1)) / factor(at.1)
        }),
    }
}

/// The problem of a linear layer: all tokens of a batch are rows of one matrix.
pub(super) fn problem(graph: &Graph, site: &Site, record: SiteRecord, options: &Options) -> Result<Problem> {
    let RhsOperand::Weight { scales: of, .. } = site.b else { unreachable!("it is a linear layer") };
    let a_kind = lhs_kind(site, options, record.a[0].ndim());
    let b = weight(graph, site)?;
    let misshapen = |e: ShapeError| Error::model(place(site), e);
    let n = b.ncols();
    let groups = match of {
        ScaleOf::Thirds if n.is_multiple_of(3) => (0..3).map(|i| i * n / 3..(i + 1) * n / 3).collect(),
        _ => std::iter::once(0..n).collect(),
    };
    let matrices = |values: Vec<ArrayD<f32>>| -> Result<Vec<Matrix>> {
        values.into_iter().map(|x| Ok(rows(x)?.into_shared())).collect::<Result<_, _>>().map_err(misshapen)
    };
    let (a, curvature) = (matrices(record.a)?, matrices(record.curvature)?);
    let agree = a.iter().all(|a| a.ncols() == b.nrows())
        && a.iter().zip(&curvature).all(|(a, c)| c.dim() == (a.nrows(), n));
    if !agree {
        let why = format!("operands {:?} and {:?} do not multiply", a[0].dim(), b.dim());
        return Err(Error::model(place(site), why));
    }
    Ok(Problem { a, a_kind, b: Rhs::Weight(b.into_shared()), groups, curvature, units: vec![] })
}

/// The weight of a linear layer as `[K, N]`.
pub(super) fn weight(graph: &Graph, site: &Site) -> Result<Array2<f32>> {
    let weight =
        site.weight(graph)?.into_dimensionality::<Ix2>().map_err(|e| Error::model(place(site), e))?;
    Ok(match site.b {
        RhsOperand::Weight { layout: WeightLayout::Nk, .. } => {
            weight.reversed_axes().as_standard_layout().into_owned()
        }
        _ => weight,
    })
}
