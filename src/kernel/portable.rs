//! Plain Rust in a shape that LLVM vectorizes: it serves every CPU without a kernel of its own.

use super::packed::{PANEL, RowPair};
use super::{Kernel, PackedB, check_lengths};

/// Columns of B that are read against one row of A.
const COLUMNS: usize = 4;

/// Dot products of contiguous i16, which every vector unit has a multiply-add for (`pmaddwd`, `smlal`).
pub struct Portable;

impl Kernel for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]) {
        check_lengths(a, m, b, c);
        let (k, n) = (b.k(), b.n());
        if k == 0 || n == 0 {
            c.fill(0);
            return;
        }
        for (first_of_panel, panel) in b.panels() {
            for offset in (0..PANEL.min(n - first_of_panel)).step_by(COLUMNS) {
                let columns: [Vec<i16>; COLUMNS] = std::array::from_fn(|j| column_of(panel, offset + j));
                let first = first_of_panel + offset;
                let width = COLUMNS.min(n - first);
                for (a_row, c_row) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
                    c_row[first..first + width].copy_from_slice(&dots(a_row, &columns)[..width]);
                }
            }
        }
    }
}

fn column_of(panel: &[RowPair], column: usize) -> Vec<i16> {
    panel.iter().flat_map(|RowPair(columns)| columns[column]).collect()
}

fn dots(a: &[i16], columns: &[Vec<i16>; COLUMNS]) -> [i32; COLUMNS] {
    let [b0, b1, b2, b3] = columns.each_ref().map(|column| &column[..a.len()]);
    let mut sums = [0i32; COLUMNS];
    for i in 0..a.len() {
        let products = [b0[i], b1[i], b2[i], b3[i]].map(|b| i32::from(a[i]) * i32::from(b));
        sums[0] = sums[0].wrapping_add(products[0]);
        sums[1] = sums[1].wrapping_add(products[1]);
        sums[2] = sums[2].wrapping_add(products[2]);
        sums[3] = sums[3].wrapping_add(products[3]);
    }
    sums
}
