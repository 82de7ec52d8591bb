//! Algorithm 1 of PTQ4ViT for one problem: two operands, one output, all calibration images.
//!
//! Candidates are evaluated on integer codes. The pruned search drops one as soon as its partial loss exceeds the best
//! whole loss known; the exhaustive search evaluates them all, and finds the same scales.

mod best_first;
mod candidates;
mod columns;
mod evaluate;
mod exhaustive;
mod pruned;
mod rows;

use std::ops::Range;

use ndarray::ArcArray2;

pub(super) use candidates::{column_maxima, lhs as lhs_candidates};

use super::Metric;
use crate::Result;
use crate::quant::{Bits, Quantizer, Scale};

/// What the lhs is made of, and so which quantizers are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LhsKind {
    /// Eq. (2).
    Uniform,
    /// Eq. (4), post-softmax.
    TwinSoftmax,
    /// Eq. (4), post-GELU; `reach` is the largest magnitude of the activation's negative range.
    TwinGelu {
        /// In real units.
        reach: f32,
    },
}

/// How thoroughly a search looks; the result is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Hopeless candidates are dropped early, and rounds that change nothing are left out.
    Pruned,
    /// Every candidate is evaluated in every round, to the last row: the reference of the pruned search.
    Exhaustive,
}

impl Search {
    /// Finds the scales of one problem.
    pub fn run(self, problem: Problem, settings: &Settings) -> Result<Solution> {
        match self {
            Self::Pruned => pruned::search(problem, settings),
            Self::Exhaustive => exhaustive::search(problem, settings),
        }
    }
}

/// A matrix of floats that its clones share until one is changed.
pub type Matrix = ArcArray2<f32>;

/// The rhs.
#[derive(Clone)]
pub enum Rhs {
    /// A weight `[K, N]`.
    Weight(Matrix),
    /// An activation `[K, N]` of each image.
    Activation(Vec<Matrix>),
}

/// One matrix product `O = A·B` to quantize, for each image.
#[derive(Clone)]
pub struct Problem {
    /// `A`, `[M, K]` of each image.
    pub a: Vec<Matrix>,
    /// What `A` is.
    pub a_kind: LhsKind,
    /// `B`.
    pub b: Rhs,
    /// The ranges of columns of `B` that have one scale each; they cover `0..N` in order.
    pub groups: Vec<Range<usize>>,
    /// `(∂L/∂O)²`, `[M, N]` of each image; empty unless the metric is [`Metric::Hessian`].
    pub curvature: Vec<Matrix>,
    /// The factors, squared, of the columns of the curvature; those of a second matrix of `B` after those of the first.
    /// Empty for 1.
    pub units: Vec<f32>,
}

/// The parameters of Algorithm 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The distance to minimise.
    pub metric: Metric,
    /// Bit width k of `A`.
    pub a_bits: Bits,
    /// Bit width k of `B`.
    pub b_bits: Bits,
    /// Candidates are `(α + (β−α)·i/n)·max|x|/2^(k−1)` for `i = 1…n`.
    pub alpha: f64,
    /// β.
    pub beta: f64,
    /// n.
    pub candidates: usize,
    /// How often `A` and then `B` is searched.
    pub rounds: usize,
    /// The share of the loss at the initial scales whose rows are evaluated, those of the largest loss first; all rows
    /// for 1. What is left out was less than the rest of the loss there.
    pub share: f64,
}

/// The scales found, and their loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The quantizer of `A`.
    pub a: Quantizer,
    /// Δ of each column group of `B`.
    pub b: Vec<Scale>,
    /// The metric's sum over all images.
    pub loss: f64,
}

impl Rhs {
    fn of_image(&self, image: usize) -> &Matrix {
        match self {
            Self::Weight(b) => b,
            Self::Activation(b) => &b[image],
        }
    }

    /// The distinct matrices.
    pub(super) fn matrices(&self) -> &[Matrix] {
        match self {
            Self::Weight(b) => std::slice::from_ref(b),
            Self::Activation(b) => b,
        }
    }

    pub(super) fn matrices_mut(&mut self) -> &mut [Matrix] {
        match self {
            Self::Weight(b) => std::slice::from_mut(b),
            Self::Activation(b) => b,
        }
    }
}

impl Problem {
    /// The same problem of no image.
    pub(super) fn without_rows(&self) -> Self {
        Self {
            a: vec![],
            a_kind: self.a_kind,
            b: self.b.clone(),
            groups: self.groups.clone(),
            curvature: vec![],
            units: vec![],
        }
    }
}

#[cfg(test)]
mod tests;
