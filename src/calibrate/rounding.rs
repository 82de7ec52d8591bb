//! Weights of few bits: each is rounded with what the roundings before it left over.
//!
//! GPTQ (Frantar et al., arXiv 2210.17323) in the form of Babai's nearest plane: with `H = L·Lᵀ`, the error of a column
//! `e = w − ŵ` is `‖Lᵀe‖² = Σ_i (L_ii e_i + Σ_{j>i} L_ji e_j)²`, and from the last row on each code makes its term the least.

use faer::Mat;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::gram::{Rows, factor, ridge_target};
use super::search::Matrix;
use crate::Result;
use crate::quant::{Bits, Scale};

/// The scales tried for each channel, as shares of the one that the search found.
const SHARES: [f32; 8] = [0.7, 0.78, 0.86, 0.93, 1.0, 1.08, 1.17, 1.27];

/// ρ of the ridge target.
const RHO: f64 = 0.1;

/// Pairs of a column and a scale that are rounded at once.
const LANES: usize = 16;

/// A weight as codes.
pub(super) struct Rounded {
    /// `[K, N]`.
    pub(super) codes: Array2<i8>,
    /// One for each column.
    pub(super) scales: Vec<Scale>,
}

/// Rounds `weight` `[K, N]`, whose columns have `scales`; with `each` the scale of each column is chosen anew. `None` if
/// the values say too little.
pub(super) fn round(
    rows: &Rows,
    weight: &Matrix,
    scales: &[Scale],
    bits: Bits,
    each: bool,
) -> Result<Option<Rounded>> {
    let gram = rows.gram();
    let Some(target) = ridge_target(&gram, &rows.cross(), weight, RHO) else { return Ok(None) };
    // The rows of the largest values are rounded first: what they leave over, many others can take.
    let mut order: Vec<usize> = (0..gram.nrows()).collect();
    order.sort_by(|&i, &j| gram[(i, i)].total_cmp(&gram[(j, j)]).then(j.cmp(&i)));
    let Some(lower) = factor(&gram, &order) else { return Ok(None) };
    let plane = Plane::new(&lower, order);
    let shares: &[f32] = if each { &SHARES } else { &[1.0] };
    let tried: Vec<(usize, f32)> = scales
        .iter()
        .enumerate()
        .flat_map(|(column, scale)| {
            shares.iter().map(move |share| (column, (scale.get() * share).max(f32::MIN_POSITIVE)))
        })
        .collect();
    let found: Vec<Lane> =
        tried.par_chunks(LANES).flat_map_iter(|lanes| plane.round(&target.view(), lanes, bits)).collect();
    let mut codes = Array2::zeros(weight.dim());
    let mut chosen = Vec::with_capacity(scales.len());
    for (column, (of_column, tried)) in found.chunks(shares.len()).zip(tried.chunks(shares.len())).enumerate()
    {
        let best = (0..of_column.len()).min_by(|&i, &j| of_column[i].error.total_cmp(&of_column[j].error));
        let best = best.expect("there are shares");
        for (row, &code) in of_column[best].codes.iter().enumerate() {
            codes[[row, column]] = code;
        }
        chosen.push(Scale::new(tried[best].1)?);
    }
    Ok(Some(Rounded { codes, scales: chosen }))
}

/// The factor of the Gram matrix as the rounding reads it.
struct Plane {
    /// Row of the weight that belongs to each row of the factor.
    order: Vec<usize>,
    /// `L_ji / L_ii` for i < j, row after row of j.
    below: Vec<f32>,
    diagonal: Vec<f32>,
}

/// The codes of one column with one scale, and their error.
struct Lane {
    codes: Vec<i8>,
    error: f32,
}

impl Plane {
    fn new(lower: &Mat<f64>, order: Vec<usize>) -> Self {
        let k = order.len();
        let below =
            (0..k).flat_map(|j| (0..j).map(move |i| (lower[(j, i)] / lower[(i, i)]) as f32)).collect();
        Self { order, below, diagonal: (0..k).map(|i| lower[(i, i)] as f32).collect() }
    }

    /// Rounds `lanes`: columns of `target`, each with its scale.
    fn round(&self, target: &ArrayView2<f32>, lanes: &[(usize, f32)], bits: Bits) -> Vec<Lane> {
        let k = self.order.len();
        let half = bits.half() as f32;
        let mut pending = vec![[0f32; LANES]; k];
        let mut found: Vec<Lane> = lanes.iter().map(|_| Lane { codes: vec![0; k], error: 0.0 }).collect();
        for j in (0..k).rev() {
            let row = self.order[j];
            let mut left = [0f32; LANES];
            for (lane, &(column, scale)) in lanes.iter().enumerate() {
                let w = target[[row, column]];
                let centre = w + pending[j][lane];
                let code = (centre / scale).clamp(-half, half - 1.0).round_ties_even();
                let term = (centre - code * scale) * self.diagonal[j];
                found[lane].error += term * term;
                found[lane].codes[row] = code as i8;
                left[lane] = w - code * scale;
            }
            let below = &self.below[j * j.saturating_sub(1) / 2..][..j];
            for (pending, &share) in pending.iter_mut().zip(below) {
                pending.iter_mut().zip(left).for_each(|(x, left)| *x += share * left);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::super::gram::mean_diagonal;
    use super::super::search::{LhsKind, Problem, Rhs};
    use super::*;
    use crate::quant::Quantizer;

    fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Matrix::from_shape_fn((rows, columns), |_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
    }

    /// Channels that go together: there rounding in turn has something to gain.
    fn problem() -> (Problem, Quantizer) {
        let a = (0..3).map(|image| random(40, 4, image).dot(&random(4, 12, 9)).into_shared()).collect();
        let curvature = (0..3).map(|image| random(40, 5, 20 + image).mapv(|x| x * x).into_shared()).collect();
        let weight = random(12, 5, 7);
        let problem = Problem {
            a,
            a_kind: LhsKind::Uniform,
            b: Rhs::Weight(weight),
            groups: std::iter::once(0..5).collect(),
            curvature,
            units: vec![],
        };
        (problem, Quantizer::Uniform { scale: Scale::new(0.01).unwrap(), bits: Bits::MAX })
    }

    /// The textbook: after each row, what it leaves over is spread by the inverse of the Gram matrix of those left.
    fn textbook(gram: &Array2<f64>, order: &[usize], target: &[f32], scale: f64, half: f64) -> Vec<i8> {
        let mut w: Vec<f64> = target.iter().map(|&w| w.into()).collect();
        let mut codes = vec![0; w.len()];
        for (at, &row) in order.iter().enumerate().rev() {
            codes[row] = (w[row] / scale).clamp(-half, half - 1.0).round_ties_even() as i8;
            let error = w[row] - f64::from(codes[row]) * scale;
            // Of the rows left, the change d that makes up best for the error: H d = −h·error.
            let left = &order[..at];
            let mut system: Vec<Vec<f64>> = left
                .iter()
                .map(|&i| left.iter().map(|&j| gram[[i, j]]).chain([gram[[i, row]] * error]).collect())
                .collect();
            for (&i, change) in left.iter().zip(solve(&mut system)) {
                w[i] += change;
            }
        }
        codes
    }

    /// Gaussian elimination.
    fn solve(system: &mut [Vec<f64>]) -> Vec<f64> {
        let n = system.len();
        for i in 0..n {
            let pivot = system[i].clone();
            for (j, row) in system.iter_mut().enumerate().filter(|(j, _)| *j != i) {
                let factor = row[i] / pivot[i];
                assert!(factor.is_finite(), "row {j}");
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            }
        }
        (0..n).map(|i| system[i][n] / system[i][i]).collect()
    }

    #[test]
    fn the_nearest_plane_is_the_textbook() {
        let (problem, a) = problem();
        let rows = Rows::new(&problem, a);
        let gram = rows.gram();
        let k = gram.nrows();
        let damping = 0.01 * mean_diagonal(&gram);
        let damped =
            Array2::from_shape_fn((k, k), |(i, j)| gram[(i, j)] + if i == j { damping } else { 0.0 });
        let order: Vec<usize> = (0..k).map(|i| (i * 5) % k).collect();
        let target = random(k, 3, 3);
        let plane = Plane::new(&factor(&gram, &order).unwrap(), order.clone());
        let bits = Bits::new(4).unwrap();
        let lanes = [(0, 0.05f32), (1, 0.08), (2, 0.11)];
        for (found, (column, scale)) in plane.round(&target.view(), &lanes, bits).iter().zip(lanes) {
            let column = target.column(column).to_vec();
            assert_eq!(found.codes, textbook(&damped, &order, &column, scale.into(), 8.0));
            let left: Array1<f64> =
                column.iter().zip(&found.codes).map(|(&w, &q)| f64::from(w - f32::from(q) * scale)).collect();
            let error = left.dot(&damped.dot(&left));
            assert!((f64::from(found.error) / error - 1.0).abs() < 1e-3, "{} is {error}", found.error);
        }
    }

    #[test]
    fn errors_of_outputs_are_less_than_of_nearest_codes() {
        let (problem, a) = problem();
        let Rhs::Weight(weight) = &problem.b else { unreachable!() };
        let (bits, scales) = (Bits::new(3).unwrap(), vec![Scale::new(0.12).unwrap(); 5]);
        let rounded = round(&Rows::new(&problem, a), weight, &scales, bits, true).unwrap().unwrap();
        let error = |quantized: Array2<f32>| -> f64 {
            let of_image = |(x, g): (&Matrix, &Matrix)| {
                let errors = x.dot(weight) - x.mapv(|x| a.fake_quant(x)).dot(&quantized);
                errors.iter().zip(g).map(|(e, g)| f64::from(e * e * g)).sum::<f64>()
            };
            problem.a.iter().zip(&problem.curvature).map(of_image).sum()
        };
        let nearest = weight.mapv(|w| Quantizer::Uniform { scale: scales[0], bits }.fake_quant(w));
        let in_turn = Array2::from_shape_fn(weight.dim(), |at| {
            f32::from(rounded.codes[at]) * rounded.scales[at.1].get()
        });
        let (nearest, in_turn) = (error(nearest), error(in_turn));
        assert!(in_turn < 0.5 * nearest, "{in_turn} against {nearest}");
    }

    #[test]
    fn values_of_zero_say_nothing_and_change_nothing() {
        let (mut problem, a) = problem();
        problem.a.iter_mut().for_each(|a| a.fill(0.0));
        let Rhs::Weight(weight) = &problem.b else { unreachable!() };
        let scales = vec![Scale::new(0.12).unwrap(); 5];
        let found = round(&Rows::new(&problem, a), weight, &scales, Bits::new(4).unwrap(), true).unwrap();
        assert!(found.is_none());
        let target =
            ridge_target(&Mat::identity(1, 1), &Mat::identity(1, 1), &ndarray::rcarr2(&[[2.0]]), 0.1);
        assert_eq!(target, Some(array![[2.0]]), "nothing to gain");
    }
}
