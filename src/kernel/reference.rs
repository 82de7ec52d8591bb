//! The definition of the product, for the tests of the others.

use super::{Kernel, PackedB, check_lengths};

/// The naive triple loop.
pub struct Reference;

impl Kernel for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]) {
        check_lengths(a, m, b, c);
        for row in 0..m {
            for column in 0..b.n() {
                c[row * b.n() + column] = (0..b.k()).fold(0i32, |sum, i| {
                    sum.wrapping_add(i32::from(a[row * b.k() + i]) * i32::from(b.code(i, column)))
                });
            }
        }
    }
}
