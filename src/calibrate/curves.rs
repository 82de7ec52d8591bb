//! What a report shows of a site: the values that it takes, the points that stand for them, and its loss against the scale (the
//! paper's Figures 2 to 5).
//!
//! Everything here is computed in plain f32 on a few images, apart from the search.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::calibration::{Calibration, SiteScales};
use super::histogram::Histogram;
use super::metric::Row;
use super::options::SiteBits;
use super::problems::{attention, lhs_kind};
use super::record::{Recorder, SiteRecord};
use super::search::{LhsKind, Matrix, Problem, Rhs, Settings, lhs_candidates};
use super::{Groups, Metric, Options, convolution, heads, linear, outliers};
use crate::Result;
use crate::data::Dataset;
use crate::plan::{Plan, RhsOperand};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::quant::{Quantizer, Scale};

/// How many scales a curve has.
const POINTS: usize = 32;

/// How many rows of a problem are looked at.
const ROWS: usize = 768;

/// What is seen of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteCurves {
    /// The site's name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// How many heads have a scale each; the histogram and the quantizers are those of the first one.
    pub heads: usize,
    /// The values of the lhs.
    pub values: Histogram,
    /// The quantizers of the lhs that were found, and their losses.
    pub found: CurvePoint,
    /// Of a twin: the uniform quantizer of the lhs that has the least loss.
    pub uniform: Option<Quantizer>,
    /// The loss against the scale of the lhs, in the order of the scales.
    pub points: Vec<CurvePoint>,
}

/// The losses of one scale of the lhs, with the rhs quantized as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    /// The quantizer of each head.
    pub quantizers: Vec<Quantizer>,
    /// By [`Metric::ALL`], summed over the heads.
    pub losses: [f64; 4],
}

/// Looks at every site of `plan` on `images`, which should be few. Sites of several groups of channels are left out.
pub fn curves(
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    images: &Dataset,
    memory: usize,
    progress: &dyn Progress,
) -> Result<Vec<SiteCurves>> {
    let options = Options { metric: Metric::Hessian, ..calibration.provenance.options };
    let recorder = Recorder::new(model, plan, images, &options)?;
    let bits: Vec<SiteBits> = plan.sites.iter().map(|site| options.bits_of(model.graph(), site)).collect();
    let groups = Groups::new(model, plan, &recorder, (&options, &bits), 0, memory)?;
    progress.stage("losses against scales", plan.sites.len() as u64);
    let mut found = Vec::new();
    for group in groups.division.groups.clone() {
        let records = recorder.record(group.clone(), groups.division.at_once, &())?;
        for (index, record) in group.zip(records) {
            let site = &plan.sites[index];
            let settings = Settings { candidates: POINTS, ..options.settings(bits[index].a, bits[index].b) };
            if let Some(scales) = calibration.site(&site.name)
                && let Some(mut problems) = problems(model, plan, index, record, scales, &options)?
            {
                problems.par_iter_mut().for_each(thin);
                let (name, kind) = (site.name.clone(), site.kind.name());
                found.push(SiteCurves { name, kind, ..of_site(&problems, scales, &settings)? });
            }
            progress.step(&site.name, 1);
        }
    }
    Ok(found)
}

/// The problems of site number `index` as they were solved, one per head; `None` for several groups of channels.
fn problems(
    model: &Prepared,
    plan: &Plan,
    index: usize,
    record: SiteRecord,
    scales: &SiteScales,
    options: &Options,
) -> Result<Option<Vec<Problem>>> {
    let (site, graph) = (&plan.sites[index], model.graph());
    Ok(Some(match (&site.b, site.windows()) {
        (_, Some(windows)) if windows.groups() > 1 => return Ok(None),
        (_, Some(windows)) => vec![convolution::problem(graph, site, windows, &record)?],
        (RhsOperand::Weight { .. }, None) => {
            let mut problem = linear::problem(graph, site, record, options)?;
            if let Some(fold) = &scales.fold {
                fold.apply(&mut problem);
            }
            outliers::remove(&mut problem, &scales.outliers);
            vec![problem]
        }
        (RhsOperand::Activation { .. }, None) => {
            let mut problems = attention(site, &record, lhs_kind(site, options, record.a[0].ndim()))?;
            if let Some(fold) = &scales.fold {
                heads::apply(plan, index, fold, &mut problems);
            }
            problems
        }
    }))
}

/// Leaves [`ROWS`] rows at most, evenly over the images.
fn thin(problem: &mut Problem) {
    let rows: usize = problem.a.iter().map(Matrix::nrows).sum();
    let stride = rows.div_ceil(ROWS).max(1);
    for matrix in problem.a.iter_mut().chain(&mut problem.curvature) {
        let kept: Vec<usize> = (0..matrix.nrows()).step_by(stride).collect();
        *matrix = matrix.select(Axis(0), &kept).into_shared();
    }
}

/// The curves of a site without a name.
fn of_site(problems: &[Problem], scales: &SiteScales, settings: &Settings) -> Result<SiteCurves> {
    let sides: Vec<Side> =
        problems.iter().enumerate().map(|(head, problem)| Side::new(problem, scales, head)).collect();
    let settings = &reaching(&problems[0], scales.a[0], settings)?;
    let points = swept(problems, &sides, settings)?;
    let values = problems[0].a.iter().flatten().copied();
    let plain = |problem: &Problem| Problem { a_kind: LhsKind::Uniform, ..problem.clone() };
    let mut uniform = None;
    if problems[0].a_kind != LhsKind::Uniform {
        let plain: Vec<Problem> = problems.iter().map(plain).collect();
        let points = swept(&plain, &sides, settings)?;
        let best = points.iter().min_by(|a, b| a.losses[0].total_cmp(&b.losses[0]));
        uniform = best.map(|point| point.quantizers[0]);
    }
    Ok(SiteCurves {
        name: String::new(),
        kind: "",
        heads: problems.len(),
        values: Histogram::of(values, problems[0].a_kind),
        found: point(
            problems,
            &sides,
            (0..problems.len()).map(|head| scales.a[head.min(scales.a.len() - 1)]),
        ),
        uniform,
        points,
    })
}

/// Settings whose candidates reach the scale that was found, perhaps on other images with larger values.
fn reaching(problem: &Problem, found: Quantizer, settings: &Settings) -> Result<Settings> {
    const BEYOND: f64 = 1.1;
    let largest = lhs_candidates(problem, settings)?.last().map_or(0.0, |last| f64::from(shown_scale(*last)));
    let wanted = BEYOND * f64::from(shown_scale(found)) / largest;
    let is_softmax = matches!(problem.a_kind, LhsKind::TwinSoftmax);
    let further = if is_softmax || !wanted.is_finite() { 1.0 } else { wanted.max(1.0) };
    Ok(Settings { beta: settings.beta * further, ..*settings })
}

/// What the lhs of a problem is multiplied by, and the float products.
struct Side {
    /// Quantized, one matrix or one per image.
    b: Vec<Array2<f32>>,
    products: Vec<Array2<f32>>,
}

impl Side {
    fn new(problem: &Problem, scales: &SiteScales, head: usize) -> Self {
        let matrices = problem.b.matrices();
        let product = |(image, a): (usize, &Matrix)| a.dot(&matrices[image.min(matrices.len() - 1)]);
        let products = problem.a.iter().enumerate().map(product).collect();
        let b = match &problem.b {
            Rhs::Weight(_) => vec![linear::dequantized(scales, problem)],
            Rhs::Activation(matrices) => {
                let scale = scales.b[head.min(scales.b.len() - 1)];
                let quantizer = Quantizer::Uniform { scale, bits: scales.b_bits };
                matrices.iter().map(|b| b.mapv(|x| quantizer.fake_quant(x))).collect()
            }
        };
        Self { b, products }
    }
}

/// The losses of all candidates for the lhs.
fn swept(problems: &[Problem], sides: &[Side], settings: &Settings) -> Result<Vec<CurvePoint>> {
    let by_head: Vec<Vec<Quantizer>> =
        problems.iter().map(|problem| lhs_candidates(problem, settings)).collect::<Result<_>>()?;
    let of_candidate =
        |candidate: usize| point(problems, sides, by_head.iter().map(|candidates| candidates[candidate]));
    Ok((0..by_head[0].len()).into_par_iter().map(of_candidate).collect())
}

/// The losses of one quantizer per head.
fn point(problems: &[Problem], sides: &[Side], quantizers: impl Iterator<Item = Quantizer>) -> CurvePoint {
    let quantizers: Vec<Quantizer> = quantizers.collect();
    let mut losses = [0.0; 4];
    for ((problem, side), quantizer) in problems.iter().zip(sides).zip(&quantizers) {
        for (sum, loss) in losses.iter_mut().zip(losses_of(problem, side, *quantizer)) {
            *sum += loss;
        }
    }
    CurvePoint { quantizers, losses }
}

/// By [`Metric::ALL`].
fn losses_of(problem: &Problem, side: &Side, quantizer: Quantizer) -> [f64; 4] {
    let mut losses = [0.0; 4];
    for (image, (a, product)) in problem.a.iter().zip(&side.products).enumerate() {
        let found = a.mapv(|x| quantizer.fake_quant(x)).dot(&side.b[image.min(side.b.len() - 1)]);
        let ones = Matrix::ones(product.dim());
        let curvature = problem.curvature.get(image).unwrap_or(&ones);
        for row in 0..found.nrows() {
            let [acc, reference] = [&found, product].map(|of| of.row(row).to_vec());
            for (metric, sum) in Metric::ALL.into_iter().zip(&mut losses) {
                let curvature = match metric {
                    Metric::Hessian => curvature.row(row).to_vec(),
                    _ => vec![1.0; acc.len()],
                };
                let row = Row { acc: &acc, reference: &reference, curvature: &curvature };
                *sum += metric.loss(&row, 0..acc.len(), 1.0);
            }
        }
    }
    losses
}

/// The scale of a quantizer as a curve shows it: of a post-GELU twin that of its positive range.
pub fn shown_scale(quantizer: Quantizer) -> f32 {
    match quantizer {
        Quantizer::TwinGelu { scale, .. } => scale.coarse(),
        _ => quantizer.scale(),
    }
}

/// The values that `quantizer` can give, in ascending order.
pub fn values_of(quantizer: Quantizer) -> Vec<f32> {
    let (half, scale) = (quantizer.bits().half(), Scale::get);
    let times = |codes: std::ops::Range<i32>, delta: f32| codes.map(move |code| code as f32 * delta);
    match quantizer {
        Quantizer::Uniform { scale: delta, .. } => times(-half..half, scale(delta)).collect(),
        Quantizer::TwinSoftmax { scale: twin, .. } => {
            let edge = half as f32 * scale(twin.fine);
            let fine = times(0..half, scale(twin.fine));
            fine.chain(times(0..half, twin.coarse()).filter(|x| *x >= edge)).collect()
        }
        Quantizer::TwinGelu { scale: twin, .. } => {
            times(1 - half..0, scale(twin.fine)).chain(times(0..half, twin.coarse())).collect()
        }
    }
}
