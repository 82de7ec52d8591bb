//! Activation functions whose output is quantized by the post-GELU twin, in every exporter's spelling.

use std::f64::consts::FRAC_1_SQRT_2;

use crate::onnx::Graph;
use crate::pattern::{Pattern, op, var};

/// A function with a short negative and a long positive range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// `x·σ(x)`.
    Silu,
    /// `x·σ(1.702x)`.
    QuickGelu,
}

impl Activation {
    /// The largest magnitude of the negative range: minus the function's minimum.
    pub fn reach(self) -> f32 {
        match self {
            Self::Gelu => 0.169_971,
            Self::GeluTanh => 0.170_041,
            Self::Silu => 0.278_465,
            Self::QuickGelu => 0.163_611, // SiLU's, over 1.702
        }
    }

    /// The function's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "GELU",
            Self::GeluTanh => "GELU (tanh)",
            Self::Silu => "SiLU",
            Self::QuickGelu => "QuickGELU",
        }
    }
}

/// The function that makes `value`, and the name of its argument.
pub(super) fn find(graph: &Graph, value: &str) -> Option<(Activation, String)> {
    [
        (gelu_erf(), Activation::Gelu),
        (gelu_tanh(), Activation::GeluTanh),
        (silu(), Activation::Silu),
        (quick_gelu(), Activation::QuickGelu),
        (gelu_op(), gelu_op_kind(graph, value)),
    ]
    .into_iter()
    .find_map(|(pattern, kind)| Some((kind, pattern.matches(graph, value)?.remove("x")?)))
}

fn x() -> Pattern {
    var("x")
}

/// `x · ½(1 + erf(x/√2))`: exact GELU as exporters below opset 20 spell it.
fn gelu_erf() -> Pattern {
    x() * (op("Erf", [x() * FRAC_1_SQRT_2]) + 1.0) * 0.5
}

/// `x · ½(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn gelu_tanh() -> Pattern {
    let inner = (x() + x() * x() * x() * 0.044_715) * 0.797_884_560_8;
    x() * (op("Tanh", [inner]) + 1.0) * 0.5
}

/// `Gelu`, opset 20; which of the two functions it is, its attribute says.
fn gelu_op() -> Pattern {
    op("Gelu", [x()])
}

fn gelu_op_kind(graph: &Graph, value: &str) -> Activation {
    let node = graph.producer(graph.resolve(value)).map(|id| graph.node(id));
    match node.and_then(|n| n.attr_str("approximate")) {
        Some("tanh") => Activation::GeluTanh,
        _ => Activation::Gelu,
    }
}

/// `x · σ(x)`.
fn silu() -> Pattern {
    x() * op("Sigmoid", [x()])
}

/// `x · σ(1.702·x)`.
fn quick_gelu() -> Pattern {
    x() * op("Sigmoid", [x() * 1.702])
}
