//! Attention as formulas: `Softmax(Q·Kᵀ, scaled and masked)·V`, whose operands come from projections.

use std::collections::HashSet;

use crate::onnx::{Graph, NodeId};
use crate::pattern::{Match, Pattern, any, any_constant, any_op, either, it, op, through, var};

/// Operators that move elements without changing them.
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

/// The operators of matrix products.
pub(super) const PRODUCTS: &[&str] = &["MatMul", "Gemm", "Conv"];

/// A Softmax, also through dropout, casts, and `Where(IsNaN(p), 0, p)` for a row that is masked whole.
pub(super) fn softmax() -> Pattern {
    let steps = [
        any_op(&["Dropout", "Cast"], [it()]),
        op("Where", [any(), fixed(), it()]),
        op("Where", [any(), it(), fixed()]),
    ];
    through(steps, op("Softmax", [var("scores")]).node("softmax"))
}

/// `Q·Kᵀ` before its Softmax, through scale and masks.
fn scores() -> Pattern {
    let steps = [
        any_op(&["Mul", "Add"], [it(), any()]),
        any_op(&["Div", "Cast", "Reshape"], [it()]),
        op("Where", [any(), it(), any()]),
        op("Where", [any(), any(), it()]),
    ];
    through(steps, op("MatMul", [any(), any()]).node("product"))
}

/// The product that makes a value, through layout, scale and bias. The nodes of a match are those on the way.
pub(super) fn product() -> Pattern {
    on_the_way(any_op(PRODUCTS, []).node("product"))
}

/// Two values that are added, and what follows the sum before a value.
pub(super) fn sum() -> Pattern {
    on_the_way(op("Add", [var("a"), var("b")]))
}

fn on_the_way(end: Pattern) -> Pattern {
    let steps = [
        any_op(LAYOUT, [it()]),
        any_op(&["Add", "Mul"], [it(), fixed()]),
        op("Div", [it(), fixed()]),
        op("Div", [fixed(), it()]),
    ];
    through(steps, end)
}

/// A constant, or the `√(1/√d)` that some exporters compute from the shape at run time.
fn fixed() -> Pattern {
    either([any_constant(), op("Sqrt", [any()])])
}

/// The products whose result flows into a Softmax.
pub(super) fn all_scores(graph: &Graph) -> HashSet<NodeId> {
    let scores = scores();
    let softmaxes = graph.nodes().filter(|(_, node)| node.is_op("Softmax"));
    let inputs = softmaxes.filter_map(|(_, softmax)| softmax.input.first());
    scores.all_from(graph, inputs.cloned()).iter().map(|found| found.node("product")).collect()
}

/// Do the thirds of a projection's columns make Q, K and V? So if its output is reshaped and the axis of three is
/// moved to the front (`[N, T, 3, H, D]` → `[3, N, H, T, D]`), or if it is split along the last axis.
pub(super) fn splits_in_thirds(graph: &Graph, way: &Match<Graph>) -> bool {
    // Nearest to the projection first.
    let layout = way.nodes.iter().rev().map(|&id| graph.node(id));
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
