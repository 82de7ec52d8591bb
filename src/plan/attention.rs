//! Attention by what it computes: which products are its scores, which weigh its values, and what makes probabilities.

use std::collections::{BTreeMap, HashSet};

use super::SiteKind;
use super::axes::{Axes, Step, axis_of};
use super::range::is_probability;
use super::roles::Roles;
use crate::onnx::{Graph, NodeId, NodeProto, Use};
use crate::pattern::{Pattern, any, any_constant, any_op, either, it, op, through, var};

/// Operators that move elements without changing them.
pub(super) const LAYOUT: &[&str] = &[
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

/// Operators that standardize values over an axis: what comes before is another layer.
const NORMS: &[&str] =
    &["LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"];

/// The products of two values that depend on the image.
pub(super) struct Products {
    /// What each is in attention.
    pub(super) kinds: BTreeMap<NodeId, SiteKind>,
    /// What their operands are.
    pub(super) roles: Roles,
}

/// Finds the products of two of the `varying` values and tells what they are in attention:
///
/// - `P·V`, the values, if the axis that it sums over is one along which a Softmax ran; P may be either operand;
/// - `Q·Kᵀ`, the scores, if a Softmax runs along its columns, the keys, whatever is done to the scores before, such as a
///   mask or a linear layer across heads;
/// - `Q·(Kᵀ·V)`, linear attention, if the one that sums over tokens makes the rows that the other sums over.
pub(super) fn products(graph: &Graph, axes: &Axes, varying: &HashSet<&str>) -> Products {
    let computed = |value: &String| varying.contains(value.as_str());
    let is_product = |node: &NodeProto| node.is_op("MatMul") && node.input.iter().all(computed);
    let products = graph.nodes().filter(|(_, node)| node.input.len() == 2 && is_product(node));
    let mut found =
        Products { kinds: products.map(|(id, _)| (id, SiteKind::Product)).collect(), roles: Roles::new() };
    found.name_values(graph, axes);
    found.name_scores(graph, axes);
    found.name_linear_attention(graph, axes);
    found
}

impl Products {
    /// Whether an axis is followed beyond a node: it is made by products, and what is before a norm is another layer.
    fn passes(&self, step: &Step) -> bool {
        let made = self.kinds.contains_key(&step.id) && step.axis + 2 >= step.rank;
        !made && !NORMS.iter().any(|op| step.node.is_op(op))
    }

    fn name_values(&mut self, graph: &Graph, axes: &Axes) {
        let sums_probabilities = |products: &Self, value: &str, from_end: usize| {
            let mut found = is_probability(graph, value);
            axes.follow(value, from_end, |step| {
                let softmax = step.node.is_op("Softmax");
                found |= softmax && axis_of(step.node, step.rank) == Some(step.axis);
                !softmax && products.passes(&step)
            });
            found
        };
        for id in self.kinds.keys().copied().collect::<Vec<_>>() {
            let [a, b] = &graph.node(id).input[..] else { continue };
            let input = match () {
                () if sums_probabilities(self, a, 1) => 1,
                () if sums_probabilities(self, b, 2) => 0,
                () => continue,
            };
            self.kinds.insert(id, SiteKind::Values);
            self.roles.insert(Use { node: id, input }, SiteKind::V);
        }
    }

    fn name_scores(&mut self, graph: &Graph, axes: &Axes) {
        for (_, softmax) in graph.nodes().filter(|(_, node)| node.is_op("Softmax")) {
            let Some(scores) = softmax.operand(0) else { continue };
            let rank = axes.dims(scores).map_or(0, |dims| dims.len());
            let Some(axis) = axis_of(softmax, rank) else { continue };
            let mut found = Vec::new();
            axes.follow(scores, rank - axis, |step| {
                let columns = step.axis + 1 == step.rank;
                if columns && self.kinds.get(&step.id) == Some(&SiteKind::Product) {
                    found.push(step.id);
                }
                self.passes(&step)
            });
            for node in found {
                self.kinds.insert(node, SiteKind::Scores);
                self.roles.insert(Use { node, input: 0 }, SiteKind::Q);
                self.roles.insert(Use { node, input: 1 }, SiteKind::K);
            }
        }
    }

    /// Names the operands of `Q·(Kᵀ·V)` and of `(V·Kᵀ)·Q`: the inner product sums over tokens, not over channels, and the
    /// outer one over the channels of K.
    fn name_linear_attention(&mut self, graph: &Graph, axes: &Axes) {
        let mut roles = Roles::new();
        for (&node, _) in self.kinds.iter().filter(|(_, kind)| **kind == SiteKind::Product) {
            let mut inner = Vec::new();
            for (input, value) in graph.node(node).input.iter().enumerate() {
                axes.follow(value, input + 1, |step| {
                    let made = self.kinds.contains_key(&step.id) && step.axis + 2 >= step.rank;
                    inner.extend(made.then_some((input, step.id, step.rank - step.axis)));
                    self.passes(&step)
                });
            }
            let [(input, of_keys, from_end)] = inner[..] else { continue };
            let lhs = graph.node(of_keys).input[0].as_str();
            let last = axes.dims(lhs).and_then(|dims| dims.len().checked_sub(1));
            if last.is_some_and(|last| !axes.is_of_channels(lhs, last)) {
                let keys = usize::from(from_end == 1);
                roles.insert(Use { node, input: 1 - input }, SiteKind::Q);
                roles.insert(Use { node: of_keys, input: keys }, SiteKind::K);
                roles.insert(Use { node: of_keys, input: 1 - keys }, SiteKind::V);
            }
        }
        self.roles.extend(roles);
    }
}
