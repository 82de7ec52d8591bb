//! Plain Rust that LLVM vectorizes, for CPUs without a kernel of their own.

use super::packed::{PANEL, Quad};
use super::{Kernel, PackedB, Rows, check_panel};

/// Columns of B that are multiplied with a row of A in one pass.
const COLUMNS: usize = 4;

/// Dot products of contiguous i16, for which every vector unit has a multiply-add (`pmaddwd`, `smlal`).
pub(super) struct Portable;

impl Kernel for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
        check_panel(a, b, panel, c);
        for first in (0..PANEL).step_by(COLUMNS) {
            let columns: [Vec<i16>; COLUMNS] = std::array::from_fn(|j| column_of(b.panel(panel), first + j));
            for (row, c) in c.iter_mut().enumerate() {
                c[first..][..COLUMNS].copy_from_slice(&dots(&a.row(row)[..b.k()], &columns));
            }
        }
    }
}

fn column_of(panel: &[Quad], column: usize) -> Vec<i16> {
    panel.iter().flat_map(|Quad(columns)| columns[column].map(i16::from)).collect()
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
