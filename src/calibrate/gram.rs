//! What the values of a linear layer say of its weight: their Gram matrix, each row weighted by what its errors cost.

use faer::Mat;
use faer::linalg::solvers::{Llt, Solve};
use ndarray::{Array2, s};
use rayon::prelude::*;

use super::search::{Matrix, Problem};
use crate::quant::Quantizer;
use crate::runtime::matmul;

/// How much of the Gram matrix counts all rows alike. The curvature alone forgets directions that few probes saw.
const PLAIN: f64 = 0.5;

/// What is added to the diagonal before a factorization, as a share of its mean.
const DAMPING: f64 = 0.01;

/// Columns of a Gram matrix that are computed at once.
const PANEL: usize = 64;

/// The rows of a linear problem, weighted.
pub(super) struct Rows {
    /// `Â`, each row times the root of its weight: `[rows, K]`.
    quantized: Array2<f32>,
    /// `A`, likewise.
    float: Array2<f32>,
}

impl Rows {
    /// The rows of `problem`, whose rhs is one weight, with `A` quantized by `a`.
    pub(super) fn new(problem: &Problem, a: Quantizer) -> Self {
        let count: usize = problem.a.iter().map(Matrix::nrows).sum();
        let depth = problem.a[0].ncols();
        let (mut quantized, mut float) = (Array2::zeros((count, depth)), Array2::zeros((count, depth)));
        let mut first = 0;
        for of_image in &problem.a {
            let range = first..first + of_image.nrows();
            float.slice_mut(s![range.clone(), ..]).assign(of_image);
            first = range.end;
        }
        let values = float.as_slice().expect("it is in standard layout");
        let codes = quantized.as_slice_mut().expect("it is in standard layout");
        let rows = codes.par_chunks_mut(depth.max(1)).zip(values.par_chunks(depth.max(1)));
        rows.for_each(|(codes, values)| {
            codes.copy_from_slice(&a.fake_quants(values));
        });

        let mut weights: Vec<f64> = problem.curvature.iter().flat_map(row_means).collect();
        let squares: Vec<f64> = quantized
            .rows()
            .into_iter()
            .map(|row| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
            .collect();
        let all: f64 = squares.iter().sum();
        let weighted: f64 = squares.iter().zip(&weights).map(|(square, weight)| square * weight).sum();
        if all > 0.0 && weighted > 0.0 && weighted.is_finite() {
            let each = PLAIN * weighted / all;
            // Of no unit: only what rows weigh beside each other counts, and f32 holds no squares of small gradients.
            for weight in &mut weights {
                *weight = ((1.0 - PLAIN) * *weight + each) * all / weighted;
            }
            for (row, weight) in weights.iter().enumerate() {
                let root = weight.sqrt() as f32;
                quantized.row_mut(row).mapv_inplace(|x| x * root);
                float.row_mut(row).mapv_inplace(|x| x * root);
            }
        }
        Self { quantized, float }
    }

    /// `H = Σ_t s_t x̂_t x̂_tᵀ`.
    pub(super) fn gram(&self) -> Mat<f64> {
        product(&self.quantized, &self.quantized)
    }

    /// `Σ_t s_t x̂_t x_tᵀ`.
    pub(super) fn cross(&self) -> Mat<f64> {
        product(&self.quantized, &self.float)
    }
}

/// The mean of each row.
fn row_means(matrix: &Matrix) -> impl Iterator<Item = f64> {
    matrix.rows().into_iter().map(|row| row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64)
}

/// `XᵀY`, a panel of columns at a time.
fn product(x: &Array2<f32>, y: &Array2<f32>) -> Mat<f64> {
    let (rows, columns) = (x.ncols(), y.ncols());
    let panel = |first: usize| matmul::product(&x.t(), &y.slice(s![.., first..columns.min(first + PANEL)]));
    let panels: Vec<Array2<f32>> =
        (0..columns.div_ceil(PANEL)).into_par_iter().map(|at| panel(at * PANEL)).collect();
    Mat::from_fn(rows, columns, |i, j| panels[j / PANEL][[i, j % PANEL]].into())
}

/// The mean of the diagonal.
pub(super) fn mean_diagonal(gram: &Mat<f64>) -> f64 {
    (0..gram.nrows()).map(|i| gram[(i, i)]).sum::<f64>() / gram.nrows().max(1) as f64
}

/// The Cholesky factor `L` of the Gram matrix, whose rows and columns are in `order`; `None` if it has none.
pub(super) fn factor(gram: &Mat<f64>, order: &[usize]) -> Option<Mat<f64>> {
    let damping = DAMPING * mean_diagonal(gram);
    let damped = Mat::from_fn(order.len(), order.len(), |i, j| {
        gram[(order[i], order[j])] + if i == j { damping } else { 0.0 }
    });
    Some(damped.llt(faer::Side::Lower).ok()?.L().to_owned())
}

/// The weight whose products with `Â` are nearest to `A·W`, with a penalty on what is changed:
/// `W + (H + ρ·mean(diag H)·I)⁻¹ (Σ s_t x̂_t x_tᵀ − H) W`.
pub(super) fn ridge_target(
    gram: &Mat<f64>,
    cross: &Mat<f64>,
    weight: &Matrix,
    rho: f64,
) -> Option<Array2<f32>> {
    let ridge = rho * mean_diagonal(gram);
    let regular =
        Mat::from_fn(gram.nrows(), gram.ncols(), |i, j| gram[(i, j)] + if i == j { ridge } else { 0.0 });
    let w = Mat::from_fn(weight.nrows(), weight.ncols(), |i, j| f64::from(weight[[i, j]]));
    let change = Llt::new(regular.as_ref(), faer::Side::Lower).ok()?.solve((cross - gram) * &w);
    let target = Array2::from_shape_fn(weight.dim(), |(i, j)| (w[(i, j)] + change[(i, j)]) as f32);
    target.iter().all(|x| x.is_finite()).then_some(target)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayView2, rcarr2};

    use super::super::search::{LhsKind, Rhs};
    use super::*;
    use crate::quant::{Bits, Scale};

    fn problem(curvature: Vec<Matrix>) -> Problem {
        let a = vec![rcarr2(&[[1.0, 2.0], [3.0, 4.0]]), rcarr2(&[[0.0, -1.0]])];
        let b = Rhs::Weight(rcarr2(&[[1.0], [1.0]]));
        Problem {
            a,
            a_kind: LhsKind::Uniform,
            b,
            groups: std::iter::once(0..1).collect(),
            curvature,
            units: vec![],
        }
    }

    fn exact() -> Quantizer {
        Quantizer::Uniform { scale: Scale::new(1.0).unwrap(), bits: Bits::MAX }
    }

    #[test]
    fn without_curvature_it_is_the_plain_gram_matrix() {
        let rows = Rows::new(&problem(vec![]), exact());
        let gram = rows.gram();
        assert_eq!([(0, 0), (0, 1), (1, 0), (1, 1)].map(|at| gram[at]), [10.0, 14.0, 14.0, 21.0]);
        assert_eq!(rows.cross()[(0, 1)], 14.0);
    }

    #[test]
    fn half_of_it_is_plain_whatever_the_unit_of_the_curvature() {
        for unit in [1.0, 1e-30] {
            // Only the first row counts for the loss.
            let curvature = vec![rcarr2(&[[unit], [0.0]]), rcarr2(&[[0.0]])];
            let gram = Rows::new(&problem(curvature), exact()).gram();
            // tr H = 31 either way; H_F = [1 2; 2 4] has trace 5.
            let expected = |plain: f64, fisher: f64| 0.5 * plain + 0.5 * fisher * 31.0 / 5.0;
            for (at, plain, fisher) in [((0, 0), 10.0, 1.0), ((0, 1), 14.0, 2.0), ((1, 1), 21.0, 4.0)] {
                let expected = expected(plain, fisher);
                assert!((gram[at] / expected - 1.0).abs() < 1e-5, "{at:?}: {} is {expected}", gram[at]);
            }
        }
    }

    #[test]
    fn the_ridge_target_is_where_its_gradient_is_zero() {
        let (a, weight) = (problem(vec![]), rcarr2(&[[0.3], [-0.7]]));
        let coarse = Quantizer::Uniform { scale: Scale::new(1.5).unwrap(), bits: Bits::MAX };
        let rows = Rows::new(&a, coarse);
        let (gram, cross) = (rows.gram(), rows.cross());
        let target = ridge_target(&gram, &cross, &weight, 0.1).unwrap();
        let ridge = 0.1 * mean_diagonal(&gram);
        for i in 0..2 {
            // H W* + ρ (W* − W) = G W.
            let of = |m: &Mat<f64>, w: ArrayView2<f32>| {
                (0..2).map(|j| m[(i, j)] * f64::from(w[[j, 0]])).sum::<f64>()
            };
            let change = ridge * f64::from(target[[i, 0]] - weight[[i, 0]]);
            let gradient = of(&gram, target.view()) + change - of(&cross, weight.view());
            assert!(gradient.abs() < 1e-5, "{gradient}");
        }
        assert!(target != weight);
    }
}
