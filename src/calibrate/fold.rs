//! Channels of unlike range: what a normalization gives them is divided by factors that the next weights multiply by, and
//! shifted by what their biases take back. The product is the same, and one scale serves all channels better.
//!
//! The reparametrization of RepQ-ViT (Li et al., arXiv 2212.08254), with a strength that each site chooses by its loss.

use ndarray::{ArrayBase, Axis, DataMut, Ix2, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::search::{Matrix, Problem, Rhs, Search, Settings};
use super::{outliers, shares};
use crate::Result;
use crate::plan::Norm;
use crate::quant::{Bits, Quantizer, Scale};

/// The powers of its range by which a channel may be divided.
const STRENGTHS: [f64; 4] = [0.0, 0.5, 0.75, 1.0];

/// The share of the rows by which strengths are judged: those of the largest curvature.
const JUDGED: f64 = 0.15;

/// The shares of its values that a range may leave out on either side.
const LEFT_OUT: [f64; 6] = [0.0, 0.0003, 0.001, 0.003, 0.01, 0.03];

/// Another range for each channel: `x' = (x − shift) / scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// One for each channel; empty if the channels stay where they are.
    pub shift: Vec<f32>,
    /// One for each channel, positive.
    pub scale: Vec<f32>,
}

/// The range of one channel.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) centre: f32,
    /// From the centre to either end.
    pub(super) reach: f32,
}

impl Span {
    /// The range of `values`, around zero unless it `can_shift`, whose codes have the least error.
    pub(super) fn of(values: &[f32], weights: &[f32], can_shift: bool, bits: Bits) -> Self {
        if values.is_empty() {
            return Self { centre: 0.0, reach: 0.0 };
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        let span = |left_out: f64| {
            let skipped = ((sorted.len() - 1) as f64 * left_out) as usize;
            let (low, high) = (sorted[skipped], sorted[sorted.len() - 1 - skipped]);
            match can_shift {
                true => Self { centre: f32::midpoint(low, high), reach: (high - low) / 2.0 },
                false => Self { centre: 0.0, reach: high.max(-low) },
            }
        };
        let error = |span: &Self| -> f64 {
            let Ok(scale) = Scale::new(span.reach / (bits.half() as f32 - 0.5)) else { return f64::INFINITY };
            let quantizer = Quantizer::Uniform { scale, bits };
            let of_value = |(x, weight): (&f32, &f32)| {
                let x = x - span.centre;
                let error = quantizer.fake_quant(x) - x;
                f64::from(weight * error * error)
            };
            values.iter().zip(weights).map(of_value).sum()
        };
        let spans = LEFT_OUT.map(span);
        let errors = spans.each_ref().map(error);
        let best = (0..spans.len()).min_by(|&i, &j| errors[i].total_cmp(&errors[j]));
        spans[best.expect("there are spans")]
    }
}

/// The range of each channel, each row weighted by its curvature.
fn spans(problem: &Problem, can_shift: bool, bits: Bits) -> Vec<Span> {
    let mut weights: Vec<f32> =
        problem.curvature.iter().flat_map(|c| c.rows()).map(|row| row.sum()).collect();
    if weights.iter().all(|&weight| weight == 0.0) {
        weights = vec![1.0; problem.a.iter().map(Matrix::nrows).sum()];
    }
    let of_channel = |channel: usize| {
        let values: Vec<f32> = problem.a.iter().flat_map(|a| a.column(channel)).copied().collect();
        Span::of(&values, &weights, can_shift, bits)
    };
    (0..problem.a[0].ncols()).into_par_iter().map(of_channel).collect()
}

/// `reach^strength` of each channel, with a geometric mean of 1; 1 for a channel without a range.
pub(super) fn powers(reaches: &[f32], strength: f64) -> Vec<f32> {
    let powers: Vec<f64> = reaches.iter().map(|&reach| f64::from(reach).powf(strength)).collect();
    let logs: Vec<f64> = powers.iter().filter(|&&x| x > 0.0).map(|x| x.ln()).collect();
    let mean = (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp();
    powers.iter().map(|&x| if x > 0.0 { (x / mean) as f32 } else { 1.0 }).collect()
}

impl Fold {
    /// The fold of `strength` for channels of these ranges.
    fn new(spans: &[Span], strength: f64, can_shift: bool) -> Option<Self> {
        let reaches: Vec<f32> = spans.iter().map(|span| span.reach).collect();
        let shift = if can_shift { spans.iter().map(|span| span.centre).collect() } else { Vec::new() };
        Some(Self { shift, scale: powers(&reaches, strength) }).filter(Self::is_sound)
    }

    /// Whether it can be undone.
    pub(super) fn is_sound(&self) -> bool {
        self.scale.iter().all(|x| x.is_normal() && *x > 0.0)
            && self.shift.iter().all(|x| x.is_finite())
            && (self.shift.is_empty() || self.shift.len() == self.scale.len())
    }

    /// `problem` with the other ranges.
    pub(super) fn apply(&self, problem: &mut Problem) {
        for a in &mut problem.a {
            for (channel, mut column) in a.axis_iter_mut(Axis(1)).enumerate() {
                let (shift, scale) = (self.shift.get(channel).copied().unwrap_or(0.0), self.scale[channel]);
                column.mapv_inplace(|x| (x - shift) / scale);
            }
        }
        if let Rhs::Weight(b) = &mut problem.b {
            self.scale_rows(b);
        }
    }

    /// The weight `[K, N]` that takes the values of the other ranges.
    pub(crate) fn scale_rows<S: DataMut<Elem = f32>>(&self, weight: &mut ArrayBase<S, Ix2>) {
        for (mut row, &scale) in weight.rows_mut().into_iter().zip(&self.scale) {
            row *= scale;
        }
    }

    /// What the products with `weight` `[K, N]`, as it was, lack of the former ones.
    pub(super) fn lost(&self, weight: &Matrix) -> Vec<f32> {
        let mut sums = vec![0f64; weight.ncols()];
        for (row, &shift) in weight.rows().into_iter().zip(&self.shift) {
            sums.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(shift) * f64::from(w));
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
}

/// The fold of the least loss; `None` if the channels are best as they are.
pub(super) fn choose(
    problem: &Problem,
    norm: &Norm,
    can_shift: bool,
    outliers: bool,
    settings: &Settings,
) -> Result<Option<Fold>> {
    let part = judged(problem);
    let loss = |mut part: Problem| {
        if outliers {
            outliers::take(&mut part);
        }
        let settings = Settings { rounds: 1, ..*settings };
        shares::run(part, &settings, Search::Pruned).map(|solution| solution.loss)
    };
    let can_shift = can_shift && norm.bias.is_some();
    let spans = spans(problem, can_shift, settings.a_bits);
    let mut best = (loss(part.clone())?, None);
    for strength in STRENGTHS {
        let Some(fold) = Fold::new(&spans, strength, can_shift) else { continue };
        if strength == 0.0 && !can_shift {
            continue;
        }
        let mut part = part.clone();
        fold.apply(&mut part);
        let loss = loss(part)?;
        if loss < best.0 {
            best = (loss, Some(fold));
        }
    }
    Ok(best.1)
}

/// The rows of `problem` that weigh most, of all images.
fn judged(problem: &Problem) -> Problem {
    let of_image = |(image, a): (usize, &Matrix)| {
        let weight = |row: usize| problem.curvature.get(image).map_or(1.0, |c| c.row(row).sum());
        (0..a.nrows()).map(|row| (weight(row), image, row)).collect::<Vec<_>>()
    };
    let mut rows: Vec<(f32, usize, usize)> = problem.a.iter().enumerate().flat_map(of_image).collect();
    rows.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    rows.truncate(((rows.len() as f64 * JUDGED).ceil() as usize).max(1));
    let take = |from: &[Matrix]| {
        let mut matrix = Matrix::zeros((rows.len(), from[0].ncols()));
        for (at, (_, image, row)) in rows.iter().enumerate() {
            matrix.slice_mut(s![at, ..]).assign(&from[*image].row(*row));
        }
        matrix
    };
    let curvature = if problem.curvature.is_empty() { vec![] } else { vec![take(&problem.curvature)] };
    Problem { a: vec![take(&problem.a)], curvature, ..problem.without_rows() }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Options, Preset};
    use super::super::search::LhsKind;
    use super::*;
    use crate::onnx::Graph;
    use crate::onnx::testing::{graph, model};
    use crate::plan::RowConstant;

    fn problem(a: Matrix) -> Problem {
        let weight = Matrix::from_shape_fn((a.ncols(), 3), |(i, j)| ((i * 3 + j) % 5) as f32 - 1.7);
        let groups = std::iter::once(0..3).collect();
        Problem {
            a: vec![a],
            a_kind: LhsKind::Uniform,
            b: Rhs::Weight(weight),
            groups,
            curvature: vec![],
            units: vec![],
        }
    }

    /// Channels of these ranges, around these centres.
    fn values(ranges: &[f32], centres: &[f32]) -> Matrix {
        Matrix::from_shape_fn((60, ranges.len()), |(row, channel)| {
            let phase = ((row * (2 * channel + 3)) % 59) as f32 / 29.0 - 1.0;
            centres[channel] + ranges[channel] * phase
        })
    }

    #[test]
    fn a_fold_changes_no_product() {
        let before = problem(values(&[1.0, 5.0, 0.1], &[0.0, 2.0, -1.0]));
        let fold = Fold { shift: vec![0.1, 2.0, -1.0], scale: vec![0.5, 2.0, 0.25] };
        let mut after = before.clone();
        fold.apply(&mut after);
        let product = |problem: &Problem| problem.a[0].dot(&problem.b.matrices()[0]);
        let lost = ndarray::Array1::from(fold.lost(&before.b.matrices()[0]));
        let error = (product(&after) + lost - product(&before)).mapv(f32::abs);
        assert!(error.iter().all(|&error| error < 1e-5), "{error}");
    }

    #[test]
    fn folds_are_chosen_where_channels_are_unlike() {
        let settings = Options::new(Preset::Paper).settings(Bits::new(4).unwrap(), Bits::MAX);
        let graph = Graph::new(model(
            graph("x", "y", vec![crate::onnx::node::node("Relu", "", ["x"], ["y"])], vec![]),
            17,
        ));
        let (node, _) = graph.as_ref().unwrap().nodes().next().unwrap();
        let constant = || RowConstant { node, input: 0, values: vec![] };
        let norm = Norm { value: "x".into(), gain: constant(), bias: Some(constant()) };
        let chosen = |a: Matrix| choose(&problem(a), &norm, true, false, &settings).unwrap();
        let fold = chosen(values(&[1.0, 30.0, 0.5, 1.0], &[0.0, 20.0, 0.0, 3.0])).unwrap();
        assert!(fold.scale[1] > 5.0 * fold.scale[0], "{:?}", fold.scale);
        assert!((fold.shift[3] - 3.0).abs() < 0.2, "{:?}", fold.shift);
        let plain = Norm { bias: None, ..norm.clone() };
        let fold =
            choose(&problem(values(&[1.0, 30.0], &[0.0, 20.0])), &plain, true, false, &settings).unwrap();
        assert!(fold.is_some_and(|fold| fold.shift.is_empty()));
    }

    #[test]
    fn strong_channels_are_divided_and_silent_ones_left() {
        let powers = powers(&[1.0, 4.0, 0.0], 0.5);
        assert!((powers[1] / powers[0] - 2.0).abs() < 1e-6 && powers[2] == 1.0, "{powers:?}");
        assert_eq!(super::powers(&[0.0], 1.0), [1.0]);
        let span = Span::of(&[-1.0, 3.0], &[1.0; 2], true, Bits::MAX);
        assert_eq!((span.centre, span.reach), (1.0, 2.0));
    }
}
