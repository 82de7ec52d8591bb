//! The rows of a problem in the order in which they are evaluated: those first that weigh most.
//!
//! In a vision transformer a twentieth of the tokens carries most of the loss. Where they come first, a bad candidate
//! is known by its partial loss after a few rows.

use std::cmp::Reverse;
use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::*;

use super::{Problem, Rhs};
use crate::kernel::PackedTarget;

/// Rows that are evaluated at a time…
const STRETCH: usize = 48;
/// …and of the first stretches of an operand, the heaviest, after which most candidates are known to be bad.
const FIRST: [usize; 3] = [12, 12, 24];

/// All rows of `A`, `O` and the curvature, as they come.
pub(super) struct Rows {
    k: usize,
    n: usize,
    /// `[rows, K]`.
    a: Vec<f32>,
    /// `O`, `[rows, N]`.
    reference: Vec<f32>,
    /// `[rows, N]`; empty for weights of 1.
    curvature: Vec<f32>,
    /// The rows of each rhs.
    operands: Vec<Range<usize>>,
}

/// Some rows that share a rhs, ready for the kernels.
pub(super) struct Stretch {
    /// Which rhs.
    pub(super) operand: usize,
    /// Rows.
    pub(super) len: usize,
    /// `[len, K]`.
    pub(super) a: Vec<f32>,
    /// By unit of columns, `O` and the curvature.
    pub(super) targets: Vec<PackedTarget>,
}

/// Which rows make a stretch.
pub(super) struct Pick {
    operand: usize,
    rows: Vec<usize>,
}

impl Rows {
    /// The rows of `problem`, with their float products; leaves `problem` without rows.
    pub(super) fn new(problem: &mut Problem) -> Self {
        let (k, n) = problem.b.matrices()[0].dim();
        let products = problem.a.par_iter().enumerate().map(|(p, a)| a.dot(problem.b.of_image(p)));
        let reference = flat(products.collect());
        let mut operands = Vec::new();
        for a in &problem.a {
            let start = operands.last().map_or(0, |rows: &Range<usize>| rows.end);
            operands.push(start..start + a.nrows());
        }
        let rows = operands.last().map_or(0, |rows| rows.end);
        if matches!(problem.b, Rhs::Weight(_)) {
            operands = std::iter::once(0..rows).collect();
        }
        let a = flat(std::mem::take(&mut problem.a));
        let mut curvature = flat(std::mem::take(&mut problem.curvature));
        if curvature.iter().all(|&g2| g2 == 0.0) {
            curvature.clear(); // The loss is blind to this site: all that is left is the error itself.
        }
        Self { k, n, a, reference, curvature, operands }
    }

    /// The rows in their own order.
    pub(super) fn natural(&self) -> Vec<Pick> {
        let cut = |(operand, rows): (usize, &Range<usize>)| pick(&rows.clone().collect::<Vec<_>>(), operand);
        self.operands.iter().enumerate().flat_map(cut).collect()
    }

    /// The rows of one stretch, with the columns of each unit.
    pub(super) fn stretch(&self, pick: &Pick, units: &[Range<usize>]) -> Stretch {
        let Pick { operand, rows } = pick;
        let mut a = Vec::with_capacity(rows.len() * self.k);
        for &row in rows {
            a.extend_from_slice(&self.a[row * self.k..][..self.k]);
        }
        let target = |columns: &Range<usize>| {
            PackedTarget::pack(rows.len(), columns.len(), |i| {
                let at = rows[i] * self.n + columns.start..rows[i] * self.n + columns.end;
                (&self.reference[at.clone()], self.curvature.get(at))
            })
        };
        Stretch { operand: *operand, len: rows.len(), a, targets: units.iter().map(target).collect() }
    }

    /// The rows of the largest `mass` first, those of each operand apart, without those that have no curvature: their
    /// loss is exactly zero, whatever the quantizers.
    pub(super) fn heaviest_first(self, mass: &[f64], units: &[Range<usize>]) -> Vec<Stretch> {
        let mut picks = Vec::new();
        for (operand, rows) in self.operands.iter().enumerate() {
            let counts = |&row: &usize| {
                self.curvature.is_empty()
                    || self.curvature[row * self.n..][..self.n].iter().any(|&g2| g2 != 0.0)
            };
            let mut rows: Vec<usize> = rows.clone().filter(counts).collect();
            rows.sort_by(|&i, &j| mass[j].total_cmp(&mass[i]));
            picks.extend(pick(&rows, operand));
        }
        // Losses are not negative, and so their bits sort as they do.
        let density = |rows: &[usize]| rows.iter().map(|&row| mass[row]).sum::<f64>() / rows.len() as f64;
        picks.sort_by_cached_key(|pick| Reverse(density(&pick.rows).to_bits()));
        picks.par_iter().map(|pick| self.stretch(pick, units)).collect()
    }
}

fn pick(mut rows: &[usize], operand: usize) -> Vec<Pick> {
    let mut picks = Vec::new();
    for len in FIRST.into_iter().chain(std::iter::repeat(STRETCH)) {
        if rows.is_empty() {
            break;
        }
        // A rest of a few rows costs nearly as much as a stretch of its own.
        let len = if rows.len() < len + FIRST[0] { rows.len() } else { len };
        let (first, rest) = rows.split_at(len);
        picks.push(Pick { operand, rows: first.to_vec() });
        rows = rest;
    }
    picks
}

/// The elements of all matrices, row by row; each matrix is freed once it is copied.
fn flat(matrices: Vec<Array2<f32>>) -> Vec<f32> {
    let mut all = Vec::with_capacity(matrices.iter().map(Array2::len).sum());
    for matrix in matrices {
        all.extend_from_slice(matrix.as_slice().expect("problems hold standard layout"));
    }
    all
}
