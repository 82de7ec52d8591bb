//! The choices of one calibration.

use serde::{Deserialize, Serialize};

use super::search::Settings;
use super::{Gradient, Metric};
use crate::onnx::Graph;
use crate::plan::{RhsOperand, Site};
use crate::quant::Bits;
use crate::{Error, Result};

/// What sets the defaults of all other choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The paper's method, and every step beyond it that helps at the bits asked for.
    Best,
    /// As `Best` with one round of the search, one probe, and the channels as they are.
    Fast,
    /// Algorithm 1 alone: Hessian-guided metric, twin uniform quantization, α = 0, 3 rounds.
    Paper,
    /// §3.1: cosine distance, uniform quantization, α = 0.5, 1 round.
    Base,
}

/// n: how many scales are tried for each operand.
pub(super) const CANDIDATES: usize = 100;

/// How many scales a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WeightScales {
    /// One; in a fused projection, one for each of Q, K and V.
    PerTensor,
    /// One per output channel.
    PerChannel,
}

/// The choices of one calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
pub struct Options {
    /// Sets α and the number of rounds.
    pub preset: Preset,
    /// k of weights.
    pub weight_bits: Bits,
    /// k of activations.
    pub activation_bits: Bits,
    /// Whether pixels, which come in 8 bits, keep them.
    pub pixels: bool,
    /// Whether the rhs of every product has 7 bits at most: no sum of two products then overflows 16 bits, which is how
    /// runtimes add on CPUs without VNNI.
    pub overflow_safe: bool,
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
    /// Whether the ranges of channels are made alike where a normalization can do it.
    pub fold: bool,
    /// Whether weights below 8 bits are rounded one after another.
    pub rounding: bool,
    /// Whether biases make up for the mean error.
    pub bias: bool,
    /// Seed of the random probes.
    pub seed: u64,
}

/// k of the operands of one site.
#[derive(Clone, Copy, Debug)]
pub(super) struct SiteBits {
    /// Of the lhs.
    pub(super) a: Bits,
    /// Of the rhs.
    pub(super) b: Bits,
}

impl Options {
    /// The preset's own choices, at 8 bits.
    pub fn new(preset: Preset) -> Self {
        let eight = Bits::MAX;
        let twins = preset != Preset::Base;
        let beyond = matches!(preset, Preset::Best | Preset::Fast);
        Self {
            preset,
            weight_bits: eight,
            activation_bits: eight,
            pixels: beyond,
            overflow_safe: false,
            metric: if twins { Metric::Hessian } else { Metric::Cosine },
            gradient: Gradient::Fisher(if preset == Preset::Fast { 1 } else { 4 }),
            softmax_twin: twins,
            gelu_twin: twins,
            outliers: beyond,
            weights: if beyond { WeightScales::PerChannel } else { WeightScales::PerTensor },
            fold: preset == Preset::Best,
            rounding: beyond,
            bias: beyond,
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

    /// k of the operands of `site`.
    pub(super) fn bits_of(&self, graph: &Graph, site: &Site) -> SiteBits {
        let a = if self.pixels && site.takes_pixels(graph) { Bits::MAX } else { self.activation_bits };
        let b = match site.b {
            RhsOperand::Weight { .. } => self.weight_bits,
            RhsOperand::Activation { .. } => self.activation_bits,
        };
        // Two products of UINT8 and INT7 fit 16 bits.
        SiteBits { a, b: if self.overflow_safe { b.min(Bits::SEVEN) } else { b } }
    }

    /// Whether weights of `bits` are rounded in turn.
    pub(super) fn rounds_in_turn(&self, bits: Bits) -> bool {
        self.rounding && bits < Bits::MAX
    }

    /// Algorithm 1 for operands of these widths.
    pub(super) fn settings(&self, a_bits: Bits, b_bits: Bits) -> Settings {
        let (alpha, rounds) = match self.preset {
            Preset::Best | Preset::Paper => (0.0, 3),
            Preset::Fast => (0.0, 1),
            Preset::Base => (0.5, 1),
        };
        // A fifth of the tokens or fewer.
        let share = if self.preset == Preset::Fast { 0.95 } else { 1.0 };
        let metric = self.metric;
        Settings { metric, a_bits, b_bits, alpha, beta: 1.2, candidates: CANDIDATES, rounds, share }
    }
}
