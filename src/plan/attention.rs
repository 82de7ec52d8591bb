//! The ways through attention: from scores to Softmax, from operands back to the projections they come from.

use crate::onnx::{Graph, NodeId, NodeProto};

/// How many nodes lie between two matmuls of one attention at most.
const LONGEST_WAY: usize = 24;

/// Ops that move elements without changing them.
const LAYOUT: &[&str] = &[
    "Reshape",
    "Transpose",
    "Split",
    "Slice",
    "Gather",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Cast",
];

/// Ops between the scores and their Softmax: scale and masks.
const SCORE_OPS: &[&str] = &["Mul", "Div", "Add", "Where", "Cast", "Identity", "Reshape"];

/// Is `value` the output of a Softmax along the last axis (through dropout, casts and copies)?
pub(super) fn softmax_behind<'g>(graph: &'g Graph, value: &str) -> Option<&'g NodeProto> {
    let mut value = value.to_string();
    for _ in 0..LONGEST_WAY {
        let node = graph.node(graph.producer(graph.resolve(&value))?);
        match node.op_type() {
            "Softmax" => return Some(node),
            "Dropout" | "Cast" | "Identity" => value.clone_from(&node.input[0]),
            // `Where(IsNaN(p), 0, p)`: a row that is masked whole.
            "Where" => value = varying(graph, &node.input[1..])?,
            _ => return None,
        }
    }
    None
}

/// The Softmax to which `value` flows through scale and mask.
pub(super) fn softmax_ahead<'g>(graph: &'g Graph, value: &str) -> Option<&'g NodeProto> {
    let mut value = value.to_string();
    for _ in 0..LONGEST_WAY {
        let mut next = None;
        for consumer in graph.consumers(&value) {
            let node = graph.node(consumer.node);
            if node.op_type() == "Softmax" {
                return Some(node);
            }
            if SCORE_OPS.contains(&node.op_type()) {
                next = next.or(Some(node.output[0].clone()));
            }
        }
        value = next?;
    }
    None
}

/// The `MatMul`, Gemm or Conv that makes `value` through layout, scale and bias.
pub(super) fn product_behind(graph: &Graph, value: &str) -> Option<NodeId> {
    way_back(graph, value).last().copied().filter(|&id| is_product(graph.node(id)))
}

/// The nodes behind `value`, nearest first, up to the one that is not layout, scale or bias.
pub(super) fn way_back(graph: &Graph, value: &str) -> Vec<NodeId> {
    let mut way = Vec::new();
    let mut value = value.to_string();
    while way.len() < LONGEST_WAY {
        let Some(id) = graph.producer(graph.resolve(&value)) else { break };
        way.push(id);
        let node = graph.node(id);
        match node.op_type() {
            op if LAYOUT.contains(&op) => value.clone_from(&node.input[0]),
            "Add" | "Mul" | "Div" => match varying_input(graph, node) {
                Some(input) => value = input,
                None => break,
            },
            _ => break,
        }
    }
    way
}

pub(super) fn is_product(node: &NodeProto) -> bool {
    ["MatMul", "Gemm", "Conv"].iter().any(|op| node.is_op(op))
}

/// The operand of a scale or bias node that is no constant; `None` if both vary.
fn varying_input(graph: &Graph, node: &NodeProto) -> Option<String> {
    varying(graph, node.input.get(..2)?)
}

/// Of two values the one that is no constant; `None` if both vary.
fn varying(graph: &Graph, values: &[String]) -> Option<String> {
    let [a, b] = values else { return None };
    match (is_fixed(graph, a), is_fixed(graph, b)) {
        (false, true) => Some(a.clone()),
        (true, false) => Some(b.clone()),
        _ => None,
    }
}

/// A constant, or the `√(1/√d)` that some exporters compute from the shape at run time.
fn is_fixed(graph: &Graph, value: &str) -> bool {
    let computed = || graph.producer(graph.resolve(value)).is_some_and(|id| graph.node(id).is_op("Sqrt"));
    graph.constant(value).is_some() || computed()
}

/// Do the thirds of a projection's columns make Q, K and V? So if its output is reshaped and the axis of three is
/// moved to the front (`[N, T, 3, H, D]` → `[3, N, H, T, D]`), or if it is split along the last axis.
pub(super) fn splits_in_thirds(graph: &Graph, way: &[NodeId]) -> bool {
    // Nearest to the projection first.
    let layout = way.iter().rev().map(|&id| graph.node(id));
    for node in layout {
        match node.op_type() {
            "Transpose" => return node.attr_ints("perm").is_some_and(|p| p.len() == 5 && p[0] == 2),
            "Split" => return matches!(node.attr_int("axis"), Some(-1 | 2)),
            "Slice" | "Gather" => return false,
            _ => {}
        }
    }
    false
}
