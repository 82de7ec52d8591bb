//! The search problem of a Conv: its windows are rows, each group of its channels is a product of its own.

use std::ops::Range;

use ndarray::{Array2, Array3, ArrayD, ArrayViewD, Axis, Ix2, Ix4, s};
use rayon::prelude::*;

use super::calibration::SiteScales;
use super::options::SiteBits;
use super::problems::{ensure_finite, place};
use super::record::SiteRecord;
use super::search::{LhsKind, Matrix, Problem, Rhs, Search};
use super::{Options, WeightScales, linear, shares};
use crate::onnx::{Graph, tensor};
use crate::plan::{Site, SiteKind};
use crate::quant::{Bits, Quantizer, Scale};
use crate::runtime::matmul;
use crate::windows::Windows;
use crate::{Error, Result};

/// How many windows of an image are recorded at most: neighbours are much alike.
const MOST_POSITIONS: usize = 256;

/// The scales tried for the output, in percent of `max|O|/127`.
const OUTPUT_PERCENTS: Range<usize> = 40..101;

/// The recorded windows of `x[N, C, H, W]`, as `[groups, rows, C/groups·kh·kw]`; `first` is the number of the first image.
pub(super) fn windows(windows: &Windows, x: &ArrayViewD<f32>, first: usize) -> Result<ArrayD<f32>> {
    let wrong = || Error::model("a quantized Conv", format!("its input is {:?}", x.shape()));
    let groups = windows.groups();
    let &[images, channels, height, width] = x.shape() else { return Err(wrong()) };
    if channels == 0 || !channels.is_multiple_of(groups) {
        return Err(wrong());
    }
    let size = [height, width];
    let counts = windows.counts(size).ok_or_else(wrong)?;
    let (of_group, taps, depth) = (channels / groups, windows.depth(groups), windows.depth(channels));
    let positions = |image: usize| positions(counts, first + image);
    let rows: usize = (0..images).map(|image| positions(image).count()).sum();
    let mut recorded = Array3::zeros((groups, rows, depth));
    let x = x.as_standard_layout();
    let all = x.as_slice().expect("it is in standard layout");
    let mut row = 0;
    for (image, x) in all.chunks_exact((channels * height * width).max(1)).enumerate() {
        for position in positions(image) {
            for (channel, plane) in x.chunks_exact(height * width).enumerate() {
                let mut target = recorded.slice_mut(s![channel / of_group, row, ..]);
                let target = target.as_slice_mut().expect("a row is contiguous");
                let target = &mut target[channel % of_group * taps..][..taps];
                windows.runs(size, position, |at, source, len| {
                    target[at..][..len].copy_from_slice(&plane[source..][..len]);
                });
            }
            row += 1;
        }
    }
    Ok(recorded.into_dyn())
}

/// The outputs `[N, M, h, w]` of the recorded windows, as `[rows, M]`.
pub(super) fn outputs(y: ArrayD<f32>, first: usize) -> Result<ArrayD<f32>> {
    let shape = y.shape().to_vec();
    let y = y.into_dimensionality::<Ix4>();
    let y = y.map_err(|_| Error::model("a quantized Conv", format!("its output is {shape:?}")))?;
    let (images, m, h, w) = y.dim();
    let at: Vec<[usize; 3]> = (0..images)
        .flat_map(|image| positions([h, w], first + image).map(move |[row, column]| [image, row, column]))
        .collect();
    Ok(Array2::from_shape_fn((at.len(), m), |(row, channel)| {
        let [image, y_at, x_at] = at[row];
        y[[image, channel, y_at, x_at]]
    })
    .into_dyn())
}

/// How many windows of one image are recorded, of `counts` along both axes.
pub(super) fn recorded(counts: [usize; 2]) -> usize {
    positions(counts, 0).count()
}

/// The windows that are recorded: a grid, shifted from one image to the next.
fn positions(counts: [usize; 2], image: usize) -> impl Iterator<Item = [usize; 2]> {
    let mut steps = [1, 1];
    let along = |axis: usize, steps: [usize; 2]| counts[axis].div_ceil(steps[axis]);
    while along(0, steps) * along(1, steps) > MOST_POSITIONS {
        let longer = usize::from(along(1, steps) > along(0, steps));
        steps[longer] += 1;
    }
    let start = [image % steps[0], image / steps[0] % steps[1]];
    (start[0]..counts[0])
        .step_by(steps[0])
        .flat_map(move |row| (start[1]..counts[1]).step_by(steps[1]).map(move |column| [row, column]))
}

/// Searches the scales of a Conv.
pub(super) fn solve(
    graph: &Graph,
    site: &Site,
    windows: &Windows,
    record: &SiteRecord,
    bits: SiteBits,
    options: &Options,
    search: Search,
) -> Result<SiteScales> {
    let problem = problem(graph, site, windows, record)?;
    // Rounding what the residual stream begins with costs more than it gains.
    let output = match site.kind {
        SiteKind::Patch => None,
        _ => Some(output_scale(&problem, bias(graph, site)?.as_deref())?),
    };
    let settings = options.settings(bits.a, bits.b);
    // The scale of a patch projection is the paper's: one for all channels.
    let solution = match site.kind == SiteKind::Patch && options.weights == WeightScales::PerTensor {
        true => search.run(problem.clone(), &settings),
        false => shares::run(problem.clone(), &settings, search),
    };
    let solution = solution.map_err(|error| Error::model(place(site), error))?;
    ensure_finite(site, solution.loss)?;
    let (a, b, loss) = (vec![solution.a], solution.b, solution.loss);
    let mut scales = SiteScales { a, b, output, loss, ..SiteScales::new(site, 4, bits.b) };
    linear::refine(&mut scales, &problem, options)?;
    Ok(scales)
}

/// The products of all groups as one problem.
pub(super) fn problem(graph: &Graph, site: &Site, windows: &Windows, record: &SiteRecord) -> Result<Problem> {
    let weight = site.weight(graph)?;
    let m = weight.shape()[0];
    let k = weight.len() / m;
    let weight = weight.into_shape_with_order((m, k)).expect("the same elements");
    let groups = windows.groups();
    if let Some(a) = record.a.iter().find(|a| a.ndim() != 3 || a.shape()[0] != groups || a.shape()[2] != k) {
        let why = format!("windows {:?} and a weight of {k} rows do not multiply", a.shape());
        return Err(Error::model(place(site), why));
    }
    let n = weight.nrows() / groups;
    let columns = |group: usize| group * n..(group + 1) * n;
    let mut b: Vec<Matrix> = (0..groups)
        .map(|group| {
            weight
                .slice(s![columns(group), ..])
                .reversed_axes()
                .as_standard_layout()
                .into_owned()
                .into_shared()
        })
        .collect();
    let stacked = |arrays: &[ArrayViewD<f32>]| {
        let all = ndarray::concatenate(Axis(0), arrays).expect("matrices of one width");
        all.into_dimensionality::<Ix2>().expect("they have rows and columns")
    };
    let of_group = |group: usize| {
        let arrays: Vec<_> = record.a.iter().map(|array| array.index_axis(Axis(0), group)).collect();
        stacked(&arrays).into_shared()
    };
    let a: Vec<Matrix> = (0..groups).map(of_group).collect();
    let mut curvature: Vec<Matrix> = Vec::new();
    if !record.curvature.is_empty() {
        let all = stacked(&record.curvature.iter().map(|x| x.view()).collect::<Vec<_>>());
        curvature = (0..groups).map(|group| all.slice(s![.., columns(group)]).to_shared()).collect();
    }
    let scaled = std::iter::once(0..n).collect();
    let b = if groups == 1 { Rhs::Weight(b.remove(0)) } else { Rhs::Activation(b) };
    Ok(Problem { a, a_kind: LhsKind::Uniform, b, groups: scaled, curvature, units: vec![] })
}

/// The scale of the 8-bit codes of the output: of some shares of its largest value, the one of the least error.
fn output_scale(problem: &Problem, bias: Option<&[f32]>) -> Result<Scale> {
    let bits = Bits::MAX;
    // Each output, and the weight of its squared error.
    let mut outputs: Vec<(f32, f32)> = Vec::new();
    for (group, (a, b)) in problem.a.iter().zip(problem.b.matrices()).enumerate() {
        for ((row, i), product) in matmul::product(a, b).indexed_iter() {
            let bias = bias.map_or(0.0, |bias| bias[group * b.ncols() + i]);
            let weight = problem.curvature.get(group).map_or(1.0, |curvature| curvature[[row, i]]);
            outputs.push((product + bias, weight));
        }
    }
    let max = outputs.iter().fold(0f32, |max, (output, _)| max.max(output.abs()));
    if max == 0.0 {
        return Scale::new(1.0);
    }
    let scale = |percent: usize| Scale::new((max * percent as f32 / 100.0 / 127.0).max(f32::MIN_POSITIVE));
    let error = |percent: usize| -> Result<(f64, usize)> {
        let quantizer = Quantizer::Uniform { scale: scale(percent)?, bits };
        let of_output = |&(x, weight): &(f32, f32)| {
            let error = f64::from(quantizer.fake_quant(x) - x);
            f64::from(weight) * error * error
        };
        Ok((outputs.iter().map(of_output).sum(), percent))
    };
    let errors: Vec<(f64, usize)> = OUTPUT_PERCENTS.into_par_iter().map(error).collect::<Result<_>>()?;
    let best = errors.iter().min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    scale(best.expect("there are candidates").1)
}

/// The bias of a Conv, which is a constant.
fn bias(graph: &Graph, site: &Site) -> Result<Option<Vec<f32>>> {
    let Some(constant) = graph.node(site.node).operand(2).and_then(|name| graph.constant(name)) else {
        return Ok(None);
    };
    tensor::f32s(constant).map(Some)
}
