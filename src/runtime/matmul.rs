//! Float matrix products of views, on one thread: callers divide their work themselves.

pub(super) use faer::Accum;
use faer::Par;
use faer::linalg::matmul::matmul;
use faer_ext::IntoFaer as _;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

/// `c = a[M, K] · b[K, N]`, or `c += …`.
///
/// # Panics
/// If the sizes disagree.
pub(super) fn multiply(a: ArrayView2<f32>, b: ArrayView2<f32>, c: ArrayViewMut2<f32>, accum: Accum) {
    matmul(c.into_faer(), accum, a.into_faer(), b.into_faer(), 1.0, Par::Seq);
}

/// `a[M, K] · b[K, N]`.
///
/// # Panics
/// If the sizes disagree.
pub(crate) fn product(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    multiply(a, b, c.view_mut(), Accum::Replace);
    c
}
