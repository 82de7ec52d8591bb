//! What the errors of a linear layer have in common is taken out of its bias.

use ndarray::{Array2, Zip};
use rayon::prelude::*;

use super::search::Problem;
use crate::quant::Quantizer;

/// What is added to a bias, and the weighted squared error that is left.
pub(super) struct Correction {
    pub(super) bias: Vec<f32>,
    pub(super) loss: f64,
}

/// `Σ g² (O − Ô) / Σ g²` for each output: the mean error, where each row counts as much as the loss depends on it. (By the
/// plain mean, the last layers of a classifier would get the bias of tokens that no one reads.)
pub(super) fn correction(
    problem: &Problem,
    a: Quantizer,
    weight: &Array2<f32>,
    quantized: &Array2<f32>,
) -> Correction {
    let of_image = |(image, float): (usize, &Array2<f32>)| {
        let error = float.dot(weight) - float.mapv(|x| a.fake_quant(x)).dot(quantized);
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
