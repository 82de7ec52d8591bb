//! Float matrix products of views, on one thread: callers divide their work themselves.

pub(super) use faer::Accum;
use faer::Par;
use faer::linalg::matmul::matmul;
use faer_ext::IntoFaer as _;
use ndarray::{Array2, ArrayBase, ArrayViewMut2, Data, Ix2};

type Matrix<S> = ArrayBase<S, Ix2>;

/// `c = a[M, K] · b[K, N]`, or `c += …`.
///
/// # Panics
/// If the sizes disagree.
pub(super) fn multiply<A, B>(a: &Matrix<A>, b: &Matrix<B>, c: ArrayViewMut2<f32>, accum: Accum)
where
    A: Data<Elem = f32>,
    B: Data<Elem = f32>,
{
    matmul(c.into_faer(), accum, a.view().into_faer(), b.view().into_faer(), 1.0, Par::Seq);
}

/// `a[M, K] · b[K, N]`.
///
/// # Panics
/// If the sizes disagree.
pub(crate) fn product<A, B>(a: &Matrix<A>, b: &Matrix<B>) -> Array2<f32>
where
    A: Data<Elem = f32>,
    B: Data<Elem = f32>,
{
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    multiply(a, b, c.view_mut(), Accum::Replace);
    c
}
