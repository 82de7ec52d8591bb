//! The choices of one calibration.

use serde::{Deserialize, Serialize};

use super::search::Settings;
use super::{Gradient, Metric};
use crate::quant::Bits;
use crate::{Error, Result};

/// Which of the paper's two methods sets the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Algorithm 1: Hessian-guided metric, twin uniform quantization, α = 0, 3 rounds; outlier channels stay float.
    Ptq4vit,
    /// §3.1: cosine distance, uniform quantization, α = 0.5, 1 round.
    Base,
}

/// n: how many scales are tried for each operand.
pub(super) const CANDIDATES: usize = 100;

/// How many scales a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightScales {
    /// One; in a fused projection, one for each of Q, K and V.
    PerTensor,
    /// One per output channel.
    PerChannel,
}

/// The choices of one calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Sets α and the number of rounds.
    pub method: Method,
    /// k of weights.
    pub weight_bits: Bits,
    /// k of activations.
    pub activation_bits: Bits,
    /// The distance to minimise.
    pub metric: Metric,
    /// Where the curvature of [`Metric::Hessian`] comes from.
    pub gradient: Gradient,
    /// Whether the values after Softmax get twin uniform quantization.
    pub softmax_twin: bool,
    /// Whether the values after GELU get twin uniform quantization.
    pub gelu_twin: bool,
    /// Whether the outlier channels of linear layers stay in float.
    pub outliers: bool,
    /// How many scales a weight has.
    pub weights: WeightScales,
    /// Seed of the random probes.
    pub seed: u64,
}

impl Options {
    /// The method's own choices, at 8 bits.
    pub fn new(method: Method) -> Self {
        let eight = Bits::new(8).expect("8 bits are in range");
        let twins = method == Method::Ptq4vit;
        Self {
            method,
            weight_bits: eight,
            activation_bits: eight,
            metric: if twins { Metric::Hessian } else { Metric::Cosine },
            gradient: Gradient::Fisher(4),
            softmax_twin: twins,
            gelu_twin: twins,
            outliers: twins,
            weights: WeightScales::PerTensor,
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.weights == WeightScales::PerChannel && self.metric.is_rowwise() {
            return Err(Error::usage(
                "cosine and pearson compare whole tokens and cannot tell channels apart; with per-channel weights use the hessian or mse metric",
            ));
        }
        Ok(())
    }

    /// Algorithm 1 for operands of these widths.
    pub(super) fn settings(&self, a_bits: Bits, b_bits: Bits) -> Settings {
        let (alpha, rounds) = match self.method {
            Method::Ptq4vit => (0.0, 3),
            Method::Base => (0.5, 1),
        };
        Settings { metric: self.metric, a_bits, b_bits, alpha, beta: 1.2, candidates: CANDIDATES, rounds }
    }
}
