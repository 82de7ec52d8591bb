//! The definition of the product, against which the other kernels are tested and measured.

use super::packed::{PANEL, Quad};
use super::{Kernel, PackedB, Rows, check_panel};

/// The naive triple loop.
pub(super) struct Reference;

impl Kernel for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
        check_panel(a, b, panel, c);
        let quads = b.panel(panel);
        let code = |row: usize, column: usize| {
            let Quad(quad) = quads[row / 4];
            i32::from(quad[column][row % 4])
        };
        for (row, c) in c.iter_mut().enumerate() {
            for (column, c) in c.iter_mut().enumerate() {
                let products = (0..b.k()).map(|i| i32::from(a.row(row)[i]) * code(i, column));
                *c = products.fold(0, i32::wrapping_add);
            }
        }
    }
}
