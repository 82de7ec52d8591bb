//! Plain Rust in a shape that LLVM vectorizes: it serves every CPU without a kernel of its own.

use super::packed::{PANEL, RowPair};
use super::{Kernel, PackedB, check_lengths};

/// One row of A times one panel of B at a time, the sixteen sums in registers.
pub struct Portable;

impl Kernel for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]) {
        check_lengths(a, m, b, c);
        if b.k() == 0 {
            c.fill(0);
            return;
        }
        for (first, panel) in b.panels() {
            let width = PANEL.min(b.n() - first);
            for (a_row, c_row) in a.chunks_exact(b.k()).zip(c.chunks_exact_mut(b.n())) {
                c_row[first..first + width].copy_from_slice(&row_times_panel(a_row, panel)[..width]);
            }
        }
    }
}

fn row_times_panel(a_row: &[i16], panel: &[RowPair]) -> [i32; PANEL] {
    let (a_pairs, a_last) = a_row.as_chunks::<2>();
    let mut sums = [0i32; PANEL];
    for (&pair, row_pair) in a_pairs.iter().zip(panel) {
        add_pair(&mut sums, pair, row_pair);
    }
    if let ([last], Some(row_pair)) = (a_last, panel.last()) {
        add_pair(&mut sums, [*last, 0], row_pair);
    }
    sums
}

/// `sums[j] += a0·b[j][0] + a1·b[j][1]`: products first, pairs of them after, the shape of a multiply-add of i16 pairs.
#[inline(always)]
fn add_pair(sums: &mut [i32; PANEL], pair: [i16; 2], RowPair(row_pair): &RowPair) {
    let b = row_pair.as_flattened();
    let products: [i32; 2 * PANEL] = std::array::from_fn(|i| i32::from(pair[i % 2]) * i32::from(b[i]));
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = sum.wrapping_add(products[2 * j] + products[2 * j + 1]);
    }
}
