//! The row blocks of a problem, in the order in which they are evaluated: those with the largest loss first.
//!
//! In a vision transformer a twentieth of the tokens carries most of the loss. Where they come first, a bad candidate
//! is known by its partial loss after a few rows.

use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use super::columns::ColumnBlock;
use super::{Matrix, Problem, Rhs};
use crate::kernel::PackedTarget;
use crate::runtime::matmul;

/// The rows of a block: of whole tiles of AMX…
const ROWS: usize = 64;
/// …and of the first blocks of each rhs, after which most candidates are known to be bad.
const FIRST_ROWS: [usize; 3] = [16, 16, 32];

/// All rows of `A`, `O` and the curvature, in their own order.
pub(super) struct Rows {
    a: Stack,
    /// `O`.
    reference: Stack,
    /// Empty for weights of 1.
    curvature: Stack,
    /// Of [`Problem::units`].
    units: Vec<f32>,
    /// The rows that each rhs matrix multiplies.
    by_rhs: Vec<Range<usize>>,
}

/// Matrices of one width, one below the other.
struct Stack {
    matrices: Vec<Matrix>,
    /// The first row of each, and the end of the last.
    starts: Vec<usize>,
}

impl Stack {
    fn new(matrices: Vec<Matrix>) -> Self {
        let mut starts = vec![0];
        starts.extend(matrices.iter().scan(0, |end, matrix| {
            *end += matrix.nrows();
            Some(*end)
        }));
        Self { matrices, starts }
    }

    fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    fn row(&self, row: usize) -> &[f32] {
        let matrix = self.starts.partition_point(|&start| start <= row) - 1;
        let (row, matrix) = (row - self.starts[matrix], &self.matrices[matrix]);
        let values = matrix.as_slice().expect("problems hold standard layout");
        &values[row * matrix.ncols()..][..matrix.ncols()]
    }
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
        let b = &problem.b;
        let product = |(image, a): (usize, &Matrix)| matmul::product(a, b.of_image(image)).into_shared();
        let reference: Vec<Matrix> = problem.a.par_iter().enumerate().map(product).collect();
        let a = Stack::new(std::mem::take(&mut problem.a));
        let mut by_rhs: Vec<Range<usize>> = a.starts.windows(2).map(|at| at[0]..at[1]).collect();
        if matches!(problem.b, Rhs::Weight(_)) {
            by_rhs = std::iter::once(0..*a.starts.last().expect("an end")).collect();
        }
        let mut curvature = std::mem::take(&mut problem.curvature);
        if curvature.par_iter().all(|curvature| curvature.iter().all(|&g2| g2 == 0.0)) {
            curvature.clear(); // The loss is blind to this site: all that is left is the error itself.
        }
        let units = std::mem::take(&mut problem.units);
        Self { a, reference: Stack::new(reference), curvature: Stack::new(curvature), units, by_rhs }
    }

    /// All rows, cut into blocks in their own order.
    pub(super) fn in_order(&self) -> Vec<BlockIndices> {
        let cut = |(rhs, rows): (usize, &Range<usize>)| cut(&rows.clone().collect::<Vec<_>>(), rhs);
        self.by_rhs.iter().enumerate().flat_map(cut).collect()
    }

    /// The rows of one block.
    pub(super) fn block(&self, indices: &BlockIndices, column_blocks: &[ColumnBlock]) -> RowBlock {
        let BlockIndices { rhs, rows } = indices;
        let mut a = Vec::with_capacity(rows.first().map_or(0, |&row| rows.len() * self.a.row(row).len()));
        for &row in rows {
            a.extend_from_slice(self.a.row(row));
        }
        let target = |ColumnBlock { columns, .. }: &ColumnBlock| {
            let mut target = PackedTarget::pack(rows.len(), columns.len(), |i| {
                let curvature =
                    (!self.curvature.is_empty()).then(|| &self.curvature.row(rows[i])[columns.clone()]);
                (&self.reference.row(rows[i])[columns.clone()], curvature)
            });
            if !self.units.is_empty() {
                target.weigh_columns(&self.units_of(*rhs)[columns.clone()]);
            }
            target
        };
        RowBlock { rhs: *rhs, len: rows.len(), a, targets: column_blocks.iter().map(target).collect() }
    }

    /// The units of the columns of a rhs matrix.
    fn units_of(&self, rhs: usize) -> &[f32] {
        let n = self.units.len() / self.by_rhs.len();
        &self.units[rhs * n..][..n]
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
                    && (self.curvature.is_empty() || self.curvature.row(row).iter().any(|&g2| g2 != 0.0))
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
