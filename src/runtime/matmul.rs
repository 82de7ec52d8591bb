//! Float matrix products of views, on one thread: callers divide their work themselves.

use faer::linalg::matmul::matmul;
use faer::{Accum, Par};
use faer_ext::IntoFaer as _;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

/// `c += a[M, K] · b[K, N]`.
///
/// # Panics
/// If the sizes disagree.
pub(super) fn add(a: ArrayView2<f32>, b: ArrayView2<f32>, c: ArrayViewMut2<f32>) {
    matmul(c.into_faer(), Accum::Add, a.into_faer(), b.into_faer(), 1.0, Par::Seq);
}

/// `a[M, K] · b[K, N]`.
///
/// # Panics
/// If the sizes disagree.
pub(crate) fn product(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    matmul(c.view_mut().into_faer(), Accum::Replace, a.into_faer(), b.into_faer(), 1.0, Par::Seq);
    c
}
