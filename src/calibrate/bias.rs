//! What the errors of a linear layer have in common is taken out of its bias.

use ndarray::{Array2, Zip};
use rayon::prelude::*;

use super::search::{Matrix, Problem};
use crate::quant::Quantizer;
use crate::runtime::matmul;

/// What is added to a bias, and the weighted squared error that is left.
pub(super) struct Correction {
    pub(super) bias: Vec<f32>,
    pub(super) loss: f64,
}

/// `Σ g² (O − Ô) / Σ g²` for each output: the mean error, where each row counts as much as the loss depends on it. (By the
/// plain mean, the last layers of a classifier would get the bias of tokens that no one reads.)
pub(super) fn correction(problem: &Problem, a: Quantizer, quantized: &Array2<f32>) -> Correction {
    let weight = &problem.b.matrices()[0];
    let of_image = |(image, float): (usize, &Matrix)| {
        let values = float.as_slice().expect("problems hold standard layout");
        let rounded = Array2::from_shape_vec(float.dim(), a.fake_quants(values)).expect("as many");
        let error = matmul::product(float, weight) - matmul::product(&rounded, quantized);
        let mut sums = vec![[0f64; 3]; error.ncols()];
        for (row, errors) in error.rows().into_iter().enumerate() {
            match problem.curvature.get(image) {
                Some(curvature) => Zip::from(&mut sums[..])
                    .and(errors)
                    .and(curvature.row(row))
                    .for_each(|s, &e, &g| add(s, e, g)),
                None => Zip::from(&mut sums[..]).and(errors).for_each(|s, &e| add(s, e, 1.0)),
            }
        }
        sums
    };
    let parts: Vec<Vec<[f64; 3]>> = problem.a.par_iter().enumerate().map(of_image).collect();
    let mut total = vec![[0f64; 3]; weight.ncols()];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    // Σ g² (e − Δb)² = Σ g² e² − (Σ g² e)² / Σ g².
    let mut correction = Correction { bias: vec![], loss: 0.0 };
    for [weight, sum, square] in total {
        let mean = (sum / weight) as f32;
        let is_sound = weight > 0.0 && mean.is_finite();
        correction.bias.push(if is_sound { mean } else { 0.0 });
        correction.loss += if is_sound { (square - sum * sum / weight).max(0.0) } else { square };
    }
    correction
}

fn add(sums: &mut [f64; 3], error: f32, weight: f32) {
    let (error, weight) = (f64::from(error), f64::from(weight));
    sums[0] += weight;
    sums[1] += weight * error;
    sums[2] += weight * error * error;
}

#[cfg(test)]
mod tests {
    use ndarray::{array, rcarr2};

    use super::super::search::{LhsKind, Rhs};
    use super::*;
    use crate::quant::{Bits, Scale};

    #[test]
    fn the_weighted_mean_error_goes_into_the_bias() {
        let weight = rcarr2(&[[1.0, 2.0], [0.5, -1.0]]);
        let problem = Problem {
            a: vec![rcarr2(&[[1.0, 0.4], [0.6, 1.2]]), rcarr2(&[[-0.3, 2.2]])],
            a_kind: LhsKind::Uniform,
            b: Rhs::Weight(weight),
            groups: std::iter::once(0..2).collect(),
            curvature: vec![rcarr2(&[[1.0, 0.0], [3.0, 0.0]]), rcarr2(&[[0.5, 0.0]])],
            units: vec![],
        };
        let a = Quantizer::Uniform { scale: Scale::new(1.0).unwrap(), bits: Bits::new(4).unwrap() };
        let quantized = array![[1.0, 2.0], [0.0, -1.0]];
        let found = correction(&problem, a, &quantized);
        // O = 1.2, 1.2, 0.8; Ô = 1, 1, 0.
        let mean = (1.0 * 0.2 + 3.0 * 0.2 + 0.5 * 0.8) / 4.5;
        assert!((found.bias[0] - mean as f32).abs() < 1e-6, "{:?}", found.bias);
        assert_eq!(found.bias[1], 0.0, "nothing depends on the second output");
        let loss: f64 =
            [(1.0, 0.2), (3.0, 0.2), (0.5, 0.8)].iter().map(|(g, e)| g * (e - mean) * (e - mean)).sum();
        assert!((found.loss - loss).abs() < 1e-6, "{} is {loss}", found.loss);
    }
}
