//! Algorithm 1 as plain loops over fake-quantized floats: the independent reference of the tests.

use super::super::super::metric::Row;
use super::super::{Problem, Settings, Solution, candidates};
use crate::Result;
use crate::quant::{Quantizer, Scale};

/// Finds the scales of one problem, slowly.
pub(super) fn search(problem: &Problem, settings: &Settings) -> Result<Solution> {
    let lhs_candidates = candidates::lhs(problem, settings)?;
    let rhs_candidates = candidates::rhs(problem, settings)?;
    let mut b = candidates::initial_rhs(problem, settings)?;
    let mut a = lhs_candidates[0];
    let mut loss = f64::INFINITY;
    for _ in 0..settings.rounds {
        let losses: Vec<f64> =
            lhs_candidates.iter().map(|&a| losses(problem, settings, a, &b).iter().sum()).collect();
        a = lhs_candidates[first_minimum(&losses)];

        let losses: Vec<Vec<f64>> =
            rhs_candidates.iter().map(|b| self::losses(problem, settings, a, b)).collect();
        loss = 0.0;
        for (group, b) in b.iter_mut().enumerate() {
            let of_group: Vec<f64> = losses.iter().map(|l| l[group]).collect();
            let winner = first_minimum(&of_group);
            *b = rhs_candidates[winner][group];
            loss += of_group[winner];
        }
    }
    Ok(Solution { a, b, loss })
}

fn first_minimum(losses: &[f64]) -> usize {
    (0..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best })
}

/// The loss of each column group for `Ô = fake_quant(A)·fake_quant(B)`.
fn losses(problem: &Problem, settings: &Settings, a: Quantizer, b: &[Scale]) -> Vec<f64> {
    let mut sums = vec![0f64; problem.groups.len()];
    let references = problem.a.iter().enumerate().map(|(p, a)| a.dot(problem.b.of_image(p)));
    for (image, reference) in references.enumerate() {
        let a_quantized = problem.a[image].mapv(|x| a.fake_quant(x));
        let mut b_quantized = problem.b.of_image(image).clone();
        for (group, &scale) in problem.groups.iter().zip(b) {
            let quantizer = Quantizer::Uniform { scale, bits: settings.b_bits };
            for column in group.clone() {
                b_quantized.column_mut(column).mapv_inplace(|x| quantizer.fake_quant(x));
            }
        }
        let product = a_quantized.dot(&b_quantized);
        for (i, acc) in product.rows().into_iter().enumerate() {
            let curvature = problem.curvature.get(image).map_or(vec![1.0; acc.len()], |c| c.row(i).to_vec());
            let (acc, reference) = (acc.to_vec(), reference.row(i).to_vec());
            let row = Row { acc: &acc, reference: &reference, curvature: &curvature };
            for (group, sum) in problem.groups.iter().zip(&mut sums) {
                *sum += settings.metric.loss(&row, group.clone(), 1.0);
            }
        }
    }
    sums
}
