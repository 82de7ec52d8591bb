//! Operators of ONNX Runtime (`com.microsoft`), which its optimizer fused, as the standard ones that they stand for.
//!
//! The formulas are those of ONNX Runtime's `ContribOperators.md`. What is not understood stays, and is refused later.

mod attention;

use std::f32::consts::{FRAC_2_PI, SQRT_2};

use super::expansion::{Budget, Expansion, is_used};
use super::gemm;
use super::shapes::Ranks;
use crate::onnx::{AttributeProto, Edits, Graph, NodeProto};

const DOMAIN: &str = "com.microsoft";

/// The edits that write out the operators of ONNX Runtime; `None` if there are none, or none is understood.
pub(super) fn expand(graph: &Graph) -> Option<Edits> {
    let found = || graph.nodes().filter(|(_, node)| is_contrib(node));
    if graph.opset() < 13 || found().next().is_none() {
        return None;
    }
    let (mut edits, mut budget) = (Edits::new(graph.model()), Budget::of(graph));
    let ranks = Ranks::of(graph);
    let mut changed = false;
    for (id, node) in found() {
        let Some(output) = node.output.first().filter(|output| !output.is_empty()) else { continue };
        let mut nodes = Expansion::of(node, &mut edits);
        if write_out(graph, &ranks, node, &mut nodes, &mut budget).is_some() {
            let nodes = nodes.into_nodes(output);
            edits.replace_node(id, nodes);
            changed = true;
        }
    }
    changed.then_some(edits)
}

/// ONNX Runtime registers some of its operators in the standard domain.
fn is_contrib(node: &NodeProto) -> bool {
    node.domain() == DOMAIN || node.is_op("SimplifiedLayerNormalization")
}

/// Adds the nodes, of which the last one makes the first output.
fn write_out(
    graph: &Graph,
    ranks: &Ranks,
    node: &NodeProto,
    nodes: &mut Expansion,
    budget: &mut Budget,
) -> Option<()> {
    let x = node.operand(0)?;
    match node.op_type() {
        "Gelu" => gelu(nodes, x),
        "BiasGelu" => {
            let x = nodes.node("Add", &[x, node.operand(1)?], "biased");
            gelu(nodes, &x);
        }
        "FastGelu" => {
            let x = match node.operand(1) {
                Some(bias) => nodes.node("Add", &[x, bias], "biased"),
                None => x.to_string(),
            };
            fast_gelu(nodes, &x);
        }
        "QuickGelu" => {
            let alpha = nodes.scalar("alpha", node.attr_float("alpha").unwrap_or(1.702));
            let scaled = nodes.node("Mul", &[x, &alpha], "scaled");
            let gate = nodes.node("Sigmoid", &[&scaled], "gate");
            nodes.node("Mul", &[x, &gate], "gated");
        }
        "SimplifiedLayerNormalization" => {
            let last = node.attr_int("axis").unwrap_or(-1);
            let is_last = last == -1 || ranks.get(x).is_some_and(|rank| last == rank as i64 - 1);
            (is_last && !is_used(graph, node, 1)).then_some(())?;
            rms_norm(graph, nodes, x, node.operand(1)?, node.attr_float("epsilon").unwrap_or(1e-5));
        }
        "SkipLayerNormalization" => skip_norm(graph, node, nodes, true)?,
        "SkipSimplifiedLayerNormalization" => skip_norm(graph, node, nodes, false)?,
        "FusedMatMul" => fused_matmul(graph, ranks, node, nodes, budget)?,
        "FusedConv" => fused_conv(node, nodes)?,
        "Attention" => attention::fused(graph, node, nodes)?,
        "MultiHeadAttention" => attention::separate(graph, ranks, node, nodes)?,
        _ => return None,
    }
    Some(())
}

/// `x · ½(1 + erf(x/√2))`.
fn gelu(nodes: &mut Expansion, x: &str) {
    let root = nodes.scalar("root", SQRT_2);
    let scaled = nodes.node("Div", &[x, &root], "scaled");
    let bent = nodes.node("Erf", &[&scaled], "erf");
    half_of_one_plus(nodes, x, &bent);
}

/// `x · ½(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn fast_gelu(nodes: &mut Expansion, x: &str) {
    let square = nodes.node("Mul", &[x, x], "square");
    let cube = nodes.node("Mul", &[&square, x], "cube");
    let factor = nodes.scalar("factor", 0.044_715);
    let small = nodes.node("Mul", &[&cube, &factor], "small");
    let sum = nodes.node("Add", &[x, &small], "sum");
    let root = nodes.scalar("root", FRAC_2_PI.sqrt());
    let inner = nodes.node("Mul", &[&sum, &root], "inner");
    let bent = nodes.node("Tanh", &[&inner], "tanh");
    half_of_one_plus(nodes, x, &bent);
}

/// `x · ½(1 + bent)`.
fn half_of_one_plus(nodes: &mut Expansion, x: &str, bent: &str) {
    let (one, half) = (nodes.scalar("one", 1.0), nodes.scalar("half", 0.5));
    let sum = nodes.node("Add", &[bent, &one], "above_zero");
    let whole = nodes.node("Mul", &[x, &sum], "whole");
    nodes.node("Mul", &[&whole, &half], "gelu");
}

/// Normalizes `input + skip + bias`, which is the fourth output.
fn skip_norm(graph: &Graph, node: &NodeProto, nodes: &mut Expansion, centred: bool) -> Option<()> {
    if is_used(graph, node, 1) || is_used(graph, node, 2) {
        return None;
    }
    let (x, skip, gamma) = (node.operand(0)?, node.operand(1)?, node.operand(2)?);
    let (beta, bias) = if centred { (node.operand(3), node.operand(4)) } else { (None, node.operand(3)) };
    let epsilon = node.attr_float("epsilon").unwrap_or(1e-12);
    let mut sum = nodes.node("Add", &[x, skip], "skipped");
    if let Some(bias) = bias {
        sum = nodes.node("Add", &[&sum, bias], "biased");
    }
    if let Some(output) = node.output.get(3).filter(|output| !output.is_empty()) {
        nodes.outputs_of_last(std::slice::from_ref(output));
        sum.clone_from(output);
    }
    if centred {
        layer_norm(graph, nodes, &sum, gamma, beta, epsilon);
    } else {
        rms_norm(graph, nodes, &sum, gamma, epsilon);
    }
    Some(())
}

/// Over the last axis: `(x − E[x])/√(Var[x] + ε)·γ + β`.
fn layer_norm(graph: &Graph, nodes: &mut Expansion, x: &str, gamma: &str, beta: Option<&str>, epsilon: f32) {
    if graph.opset() >= 17 {
        let inputs: Vec<&str> = [x, gamma].into_iter().chain(beta).collect();
        nodes.node("LayerNormalization", &inputs, "norm");
        nodes.with(AttributeProto::int("axis", -1));
        nodes.with(AttributeProto::float("epsilon", epsilon));
        return;
    }
    let mean = nodes.mean(graph.opset(), x, &[-1], "mean");
    let centred = nodes.node("Sub", &[x, &mean], "centred");
    let scaled = rms_norm(graph, nodes, &centred, gamma, epsilon);
    if let Some(beta) = beta {
        nodes.node("Add", &[&scaled, beta], "shifted");
    }
}

/// Over the last axis: `x/√(E[x²] + ε)·γ`.
fn rms_norm(graph: &Graph, nodes: &mut Expansion, x: &str, gamma: &str, epsilon: f32) -> String {
    let square = nodes.node("Mul", &[x, x], "square");
    let mean = nodes.mean(graph.opset(), &square, &[-1], "mean_square");
    let epsilon = nodes.scalar("epsilon", epsilon);
    let sum = nodes.node("Add", &[&mean, &epsilon], "positive");
    let root = nodes.node("Sqrt", &[&sum], "deviation");
    let normal = nodes.node("Div", &[x, &root], "normal");
    nodes.node("Mul", &[&normal, gamma], "scaled")
}

/// `α·A'·B'`, where either may be transposed in its last two axes.
fn fused_matmul(
    graph: &Graph,
    ranks: &Ranks,
    node: &NodeProto,
    nodes: &mut Expansion,
    budget: &mut Budget,
) -> Option<()> {
    let is_set = |flag| node.attr_int(flag).unwrap_or(0) != 0;
    if is_set("transBatchA") || is_set("transBatchB") {
        return None;
    }
    let (a, b) = (node.operand(0)?, node.operand(1)?);
    let alpha = node.attr_float("alpha").unwrap_or(1.0);
    // A vector has nothing to transpose.
    let swapped = |value| -> Option<Vec<i64>> {
        let rank = ranks.get(value).filter(|rank| (1..=64).contains(rank))? as i64;
        let axes: Vec<i64> = (0..rank).collect();
        Some(if rank == 1 { axes } else { [&axes[..axes.len() - 2], &[rank - 1, rank - 2]].concat() })
    };
    let perms = (
        if is_set("transA") { Some(swapped(a)?) } else { None },
        if is_set("transB") { Some(swapped(b)?) } else { None },
    );
    let a = perms.0.map_or_else(|| a.to_string(), |perm| nodes.transposed(a, &perm, "a_transposed"));
    let (b, scaled) = match perms.1 {
        Some(perm) if perm.len() != 2 => (nodes.transposed(b, &perm, "b_transposed"), alpha == 1.0),
        perm => gemm::rhs(graph, b, perm.is_some(), alpha, nodes, budget)?,
    };
    let product = nodes.heir("MatMul", &[&a, &b]);
    if !scaled {
        let alpha = nodes.scalar("alpha", alpha);
        nodes.node("Mul", &[&product, &alpha], "scaled");
    }
    Some(())
}

/// A Conv, what is added to it, and an activation.
fn fused_conv(node: &NodeProto, nodes: &mut Expansion) -> Option<()> {
    let activation = node.attr_str("activation").unwrap_or("");
    let params = node.attr_floats("activation_params").unwrap_or(&[]);
    let attributes: &[&str] = match (activation, params.len()) {
        ("" | "Relu" | "Tanh" | "Sigmoid", _) | ("Clip", 2) => &[],
        ("LeakyRelu", 1) => &["alpha"],
        ("HardSigmoid", 2) => &["alpha", "beta"],
        _ => return None,
    };
    let operands: Vec<&str> = node.input.iter().take(3).map(String::as_str).collect();
    let mut y = nodes.heir("Conv", &operands);
    let of_conv = |a: &&AttributeProto| !["activation", "activation_params"].contains(&a.name());
    node.attribute.iter().filter(of_conv).for_each(|attribute| nodes.with(attribute.clone()));
    if let Some(z) = node.operand(3) {
        y = nodes.node("Add", &[&y, z], "residual");
    }
    if activation == "Clip" {
        let (low, high) = (nodes.scalar("low", params[0]), nodes.scalar("high", params[1]));
        nodes.node("Clip", &[&y, &low, &high], "activation");
    } else if !activation.is_empty() {
        nodes.node(activation, &[&y], "activation");
        attributes
            .iter()
            .zip(params)
            .for_each(|(name, value)| nodes.with(AttributeProto::float(name, *value)));
    }
    Some(())
}

#[cfg(test)]
mod tests;
