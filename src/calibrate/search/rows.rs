//! The row blocks of a problem, in the order in which they are evaluated: those with the largest loss first.
//!
//! In a vision transformer a twentieth of the tokens carries most of the loss. Where they come first, a bad candidate
//! is known by its partial loss after a few rows.

use std::cmp::Reverse;
use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::*;

use super::columns::ColumnBlock;
use super::{Problem, Rhs};
use crate::kernel::PackedTarget;
use crate::runtime::matmul;

/// The rows of a block: of whole tiles of AMX…
const ROWS: usize = 64;
/// …and of the first blocks of each rhs, after which most candidates are known to be bad.
const FIRST_ROWS: [usize; 3] = [16, 16, 32];

/// All rows of `A`, `O` and the curvature, in their own order.
pub(super) struct Rows {
    k: usize,
    n: usize,
    /// `[rows, K]`.
    a: Vec<f32>,
    /// `O`, `[rows, N]`.
    reference: Vec<f32>,
    /// `[rows, N]`; empty for weights of 1.
    curvature: Vec<f32>,
    /// The rows that each rhs matrix multiplies.
    by_rhs: Vec<Range<usize>>,
}

/// Some rows that share a rhs matrix, ready for the kernels.
pub(super) struct RowBlock {
    /// Index of the rhs matrix.
    pub(super) rhs: usize,
    /// The number of rows.
    pub(super) len: usize,
    /// `[len, K]`.
    pub(super) a: Vec<f32>,
    /// `O` and the curvature in each column block.
    pub(super) targets: Vec<PackedTarget>,
}

/// Which rows make a block.
pub(super) struct BlockIndices {
    rhs: usize,
    rows: Vec<usize>,
}

impl Rows {
    /// The rows of `problem`, with their float products; leaves `problem` without rows.
    pub(super) fn new(problem: &mut Problem) -> Self {
        let (k, n) = problem.b.matrices()[0].dim();
        let products = problem
            .a
            .par_iter()
            .enumerate()
            .map(|(image, a)| matmul::product(a.view(), problem.b.of_image(image).view()));
        let reference = flat(products.collect());
        let mut by_rhs = Vec::new();
        let mut rows = 0;
        for a in &problem.a {
            by_rhs.push(rows..rows + a.nrows());
            rows += a.nrows();
        }
        if matches!(problem.b, Rhs::Weight(_)) {
            by_rhs = std::iter::once(0..rows).collect();
        }
        let a = flat(std::mem::take(&mut problem.a));
        let mut curvature = flat(std::mem::take(&mut problem.curvature));
        if curvature.iter().all(|&g2| g2 == 0.0) {
            curvature.clear(); // The loss is blind to this site: all that is left is the error itself.
        }
        Self { k, n, a, reference, curvature, by_rhs }
    }

    /// All rows, cut into blocks in their own order.
    pub(super) fn in_order(&self) -> Vec<BlockIndices> {
        let cut = |(rhs, rows): (usize, &Range<usize>)| cut(&rows.clone().collect::<Vec<_>>(), rhs);
        self.by_rhs.iter().enumerate().flat_map(cut).collect()
    }

    /// The rows of one block.
    pub(super) fn block(&self, indices: &BlockIndices, column_blocks: &[ColumnBlock]) -> RowBlock {
        let BlockIndices { rhs, rows } = indices;
        let mut a = Vec::with_capacity(rows.len() * self.k);
        for &row in rows {
            a.extend_from_slice(&self.a[row * self.k..][..self.k]);
        }
        let target = |ColumnBlock { columns, .. }: &ColumnBlock| {
            PackedTarget::pack(rows.len(), columns.len(), |i| {
                let at = rows[i] * self.n + columns.start..rows[i] * self.n + columns.end;
                (&self.reference[at.clone()], self.curvature.get(at))
            })
        };
        RowBlock { rhs: *rhs, len: rows.len(), a, targets: column_blocks.iter().map(target).collect() }
    }

    /// Sorts the rows of each rhs by their `losses`, the largest first, and cuts them into blocks. Rows without curvature
    /// are left out: their loss is exactly zero, whatever the quantizers. So are those beyond the `share` of all losses.
    pub(super) fn largest_loss_first(
        self,
        losses: &[f64],
        share: f64,
        column_blocks: &[ColumnBlock],
    ) -> Vec<RowBlock> {
        let least = least_of_share(losses, share);
        let mut blocks = Vec::new();
        for (rhs, rows) in self.by_rhs.iter().enumerate() {
            let counts = |&row: &usize| {
                // A loss that is no number counts.
                let is_left_out = losses[row] < least;
                !is_left_out
                    && (self.curvature.is_empty()
                        || self.curvature[row * self.n..][..self.n].iter().any(|&g2| g2 != 0.0))
            };
            let mut rows: Vec<usize> = rows.clone().filter(counts).collect();
            rows.sort_by(|&i, &j| losses[j].total_cmp(&losses[i]));
            blocks.extend(cut(&rows, rhs));
        }
        // Losses are not negative, and so their bits sort as they do.
        let mean = |rows: &[usize]| rows.iter().map(|&row| losses[row]).sum::<f64>() / rows.len() as f64;
        blocks.sort_by_cached_key(|block| Reverse(mean(&block.rows).to_bits()));
        blocks.par_iter().map(|block| self.block(block, column_blocks)).collect()
    }
}

/// The least of the largest `losses` that together make `share` of their sum; 0 if that is all of them.
fn least_of_share(losses: &[f64], share: f64) -> f64 {
    if share >= 1.0 {
        return 0.0;
    }
    let mut sorted = losses.to_vec();
    sorted.sort_by(|i, j| j.total_cmp(i));
    // Not a number if a loss is infinite: then all of them count.
    let mut rest = share * sorted.iter().sum::<f64>();
    let reaches = |loss: &&f64| {
        rest -= **loss;
        rest <= 0.0
    };
    sorted.iter().find(reaches).copied().unwrap_or(0.0)
}

fn cut(mut rows: &[usize], rhs: usize) -> Vec<BlockIndices> {
    let mut blocks = Vec::new();
    for len in FIRST_ROWS.into_iter().chain(std::iter::repeat(ROWS)) {
        if rows.is_empty() {
            break;
        }
        // A rest of a few rows costs nearly as much as a block of its own.
        let len = if rows.len() < len + FIRST_ROWS[0] { rows.len() } else { len };
        let (first, rest) = rows.split_at(len);
        blocks.push(BlockIndices { rhs, rows: first.to_vec() });
        rows = rest;
    }
    blocks
}

/// The elements of all matrices, row by row; each matrix is freed once it is copied.
fn flat(matrices: Vec<Array2<f32>>) -> Vec<f32> {
    let mut all = Vec::with_capacity(matrices.iter().map(Array2::len).sum());
    for matrix in matrices {
        all.extend_from_slice(matrix.as_slice().expect("problems hold standard layout"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_largest_losses() {
        let losses = [1.0, 5.0, 0.0, 3.0, 1.0];
        for (share, least) in [(0.5, 5.0), (0.51, 3.0), (0.8, 3.0), (0.95, 1.0), (1.0, 0.0)] {
            assert_eq!(least_of_share(&losses, share), least, "{share}");
        }
        assert_eq!(least_of_share(&[], 0.95), 0.0);
        assert_eq!(least_of_share(&[0.0, 0.0], 0.95), 0.0);
        assert_eq!(least_of_share(&[1.0, f64::INFINITY], 0.95), 0.0);
    }
}
