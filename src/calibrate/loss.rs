//! The losses whose gradients weigh the errors: what is back-propagated from the model's output.

use std::str::FromStr;

use ndarray::{ArrayD, ArrayViewD, Axis, Zip};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::prepare::Loss;
use crate::{Error, Result};

/// Where the curvature `(∂L/∂O)²` of Eq. (7) comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "String"))]
pub enum Gradient {
    /// Cross-entropy against the model's own prediction: the paper's text. One backward pass per image.
    PseudoLabel,
    /// Mean of this many random probes, each with `E[g²]` = the diagonal of the Gauss–Newton Hessian.
    Fisher(usize),
}

impl FromStr for Gradient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let probes = text.strip_prefix("fisher:").and_then(|n| n.parse().ok());
        match (text, probes) {
            ("pseudo-label", _) => Ok(Self::PseudoLabel),
            (_, Some(n @ 1..=1024)) => Ok(Self::Fisher(n)),
            _ => Err(Error::usage(format!(
                "gradient `{text}`: expected `pseudo-label` or `fisher:N`, N from 1 to 1024"
            ))),
        }
    }
}

impl TryFrom<String> for Gradient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Gradient> for String {
    fn from(gradient: Gradient) -> Self {
        match gradient {
            Gradient::PseudoLabel => "pseudo-label".into(),
            Gradient::Fisher(n) => format!("fisher:{n}"),
        }
    }
}

impl Gradient {
    /// The gradients to back-propagate from each of `outputs`, `[probes, its shape]`. `stream` numbers the batch, so that
    /// every batch has probes of its own, whatever the order in which batches are run.
    pub fn seeds(
        self,
        outputs: &[(ArrayViewD<f32>, Loss)],
        seed: u64,
        stream: u64,
    ) -> Result<Vec<ArrayD<f32>>> {
        match self {
            Self::PseudoLabel => match outputs {
                [(output, loss)] if let Some(axis) = classes(output, *loss) => {
                    Ok(vec![pseudo_label(output, axis).insert_axis(Axis(0))])
                }
                _ => Err(Error::unsupported(
                    "gradient `pseudo-label`",
                    "the loss is not taken at the logits of a classifier alone; use `fisher:4`",
                )),
            },
            Self::Fisher(probes) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stream);
                let mut sign = || if rng.next_u32() & 1 == 0 { 1.0 } else { -1.0 };
                let shape = |output: &ArrayViewD<f32>| [&[probes], output.shape()].concat();
                let mut seeds: Vec<_> = outputs.iter().map(|(o, _)| ArrayD::zeros(shape(o))).collect();
                for probe in 0..probes {
                    for ((output, loss), seeds) in outputs.iter().zip(&mut seeds) {
                        let signs = ArrayD::from_shape_simple_fn(output.raw_dim(), &mut sign);
                        let seed = match (loss, classes(output, *loss)) {
                            (_, Some(axis)) => fisher(output, &signs, axis),
                            (Loss::BinaryCrossEntropy, _) => binary_fisher(output, &signs),
                            (Loss::Relative, _) => signs / norm(output),
                            (Loss::CrossEntropy(_) | Loss::Squares, _) => signs,
                        };
                        seeds.index_axis_mut(Axis(0), probe).assign(&seed);
                    }
                }
                Ok(seeds)
            }
        }
    }
}

/// The axis of the classes of which the cross-entropy is taken.
fn classes(output: &ArrayViewD<f32>, loss: Loss) -> Option<Axis> {
    match loss {
        Loss::CrossEntropy(Some(axis)) if axis < output.ndim() => Some(Axis(axis)),
        Loss::CrossEntropy(None) if output.ndim() == 2 => Some(Axis(1)),
        _ => None,
    }
}

/// `∂CE/∂logits = p − onehot(argmax)`, for logits of classes along `axis`.
pub fn pseudo_label(logits: &ArrayViewD<f32>, axis: Axis) -> ArrayD<f32> {
    let mut gradient = softmax(logits, axis);
    for mut row in gradient.lanes_mut(axis) {
        let best = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
        row[best] -= 1.0;
    }
    gradient
}

/// `u = √p∘v − p·(√p·v)` for logits of classes along `axis`: its covariance over random signs `v` is `diag(p) − p pᵀ`, the
/// Hessian of the cross-entropy with soft targets. (For features `u = v`, the Hessian of their squared error.)
pub fn fisher(logits: &ArrayViewD<f32>, signs: &ArrayD<f32>, axis: Axis) -> ArrayD<f32> {
    let p = softmax(logits, axis);
    let root = Zip::from(&p).and(signs).map_collect(|p, v| p.sqrt() * v);
    let inner = root.sum_axis(axis).insert_axis(axis);
    root - p * inner
}

/// `u = √(p(1 − p))∘v` for a logit per label: its covariance is the Hessian of the binary cross-entropy.
fn binary_fisher(logits: &ArrayViewD<f32>, signs: &ArrayD<f32>) -> ArrayD<f32> {
    Zip::from(logits).and(signs).map_collect(|&x, v| {
        let p = 1.0 / (1.0 + (-x).exp());
        (p * (1.0 - p)).sqrt() * v
    })
}

/// The root of the sum of squares; 1 of zeros, whose errors are relative to nothing.
fn norm(value: &ArrayViewD<f32>) -> f32 {
    let norm = value.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
    if norm > 0.0 { norm } else { 1.0 }
}

fn softmax(logits: &ArrayViewD<f32>, axis: Axis) -> ArrayD<f32> {
    let mut p = logits.to_owned();
    for mut row in p.lanes_mut(axis) {
        let max = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        row.mapv_inplace(|x| (x - max).exp());
        let sum = row.sum();
        row.mapv_inplace(|x| x / sum);
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The covariance of the probes over all sign vectors is exactly the Hessian at the logits.
    #[test]
    fn fisher_probes_have_the_covariance_of_the_hessian() {
        let logits = ArrayD::from_shape_vec(vec![1, 3], vec![0.3, -1.2, 0.9]).unwrap();
        let p = softmax(&logits.view(), Axis(1));
        let mut covariance = [[0f32; 3]; 3];
        for bits in 0..8 {
            let signs = (0..3).map(|i| if bits >> i & 1 == 0 { 1.0 } else { -1.0 }).collect();
            let u = fisher(&logits.view(), &ArrayD::from_shape_vec(vec![1, 3], signs).unwrap(), Axis(1));
            for (i, row) in covariance.iter_mut().enumerate() {
                for (j, c) in row.iter_mut().enumerate() {
                    *c += u[[0, i]] * u[[0, j]] / 8.0;
                }
            }
        }
        for (i, row) in covariance.iter().enumerate() {
            for (j, c) in row.iter().enumerate() {
                let hessian = if i == j { p[[0, i]] } else { 0.0 } - p[[0, i]] * p[[0, j]];
                assert!((c - hessian).abs() < 1e-6, "({i}, {j}): {c} against {hessian}");
            }
        }
    }

    /// Twice the value has a quarter of the curvature: the loss is a ratio.
    #[test]
    fn the_error_of_a_boundary_is_relative() {
        let value = ArrayD::from_shape_vec(vec![1, 2], vec![3.0, -4.0]).unwrap();
        let magnitudes = |value: ArrayD<f32>| {
            let seeds = Gradient::Fisher(1).seeds(&[(value.view(), Loss::Relative)], 0, 0).unwrap();
            seeds[0].iter().map(|x| x.abs()).collect::<Vec<_>>()
        };
        assert_eq!(magnitudes(value.clone()), [0.2; 2]);
        assert_eq!(magnitudes(value.clone() * 2.0), [0.1; 2]);
        assert_eq!(magnitudes(value * 0.0), [1.0; 2]);
    }

    #[test]
    fn gradients_are_named() {
        for (text, gradient) in [("pseudo-label", Gradient::PseudoLabel), ("fisher:4", Gradient::Fisher(4))] {
            assert_eq!(text.parse::<Gradient>().unwrap(), gradient);
            assert_eq!(String::from(gradient), text);
        }
        for text in ["fisher", "fisher:0", "fisher:-1", "hessian"] {
            text.parse::<Gradient>().unwrap_err();
        }
    }
}
