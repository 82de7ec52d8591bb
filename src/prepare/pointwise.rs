//! A Conv of one pixel is a linear layer over the channels: as `MatMul` it needs no rounded result to be integer in ONNX
//! Runtime, and what follows an activation function gets its twin.

use super::expansion::{Budget, Expansion, float_constant};
use crate::onnx::{Edits, Graph, NodeProto, tensor};
use crate::windows::Windows;

/// Below so many channels moving them to the last axis takes longer than the product.
const LEAST_CHANNELS: usize = 32;

/// The edits that make a `MatMul` and an Add of every Conv of one pixel; `None` if there is none.
pub(super) fn as_products(graph: &Graph) -> Option<Edits> {
    let convs = || graph.nodes().filter(|(_, node)| node.is_op("Conv"));
    convs().next()?;
    let (mut edits, mut budget) = (Edits::new(graph.model()), Budget::of(graph));
    let mut changed = false;
    for (id, conv) in convs() {
        if let Some(nodes) = as_product(graph, conv, &mut edits, &mut budget) {
            edits.replace_node(id, nodes);
            changed = true;
        }
    }
    changed.then_some(edits)
}

/// `Transpose → MatMul → Add → Transpose`.
fn as_product(
    graph: &Graph,
    conv: &NodeProto,
    edits: &mut Edits,
    budget: &mut Budget,
) -> Option<Vec<NodeProto>> {
    let output = conv.output.first().filter(|output| !output.is_empty())?;
    let (x, weight) = (conv.operand(0)?, float_constant(graph, conv.operand(1)?)?);
    let shape = tensor::shape(weight);
    let &[m, channels, 1, 1] = &shape[..] else { return None };
    let bias = match conv.operand(2) {
        Some(bias) => Some(float_constant(graph, bias).filter(|bias| bias.dims == [m as i64])?),
        None => None,
    };
    if !Windows::of(conv, &shape).ok()?.are_pixels()
        || channels < LEAST_CHANNELS
        || !budget.take(tensor::len(weight))
        || !budget.take(m)
    {
        return None;
    }
    let values = tensor::f32s(weight).ok()?;
    let transposed: Vec<f32> = (0..m * channels).map(|at| values[at % m * channels + at / m]).collect();
    let bias = bias.map(tensor::f32s).transpose().ok()?;
    let mut nodes = Expansion::of(conv, edits);
    let x = nodes.transposed(x, &[0, 2, 3, 1], "channels_last");
    let weight = nodes.constant("weight", |name| tensor::from_f32(name, &[channels, m], &transposed));
    let mut y = nodes.heir("MatMul", &[&x, &weight]);
    if let Some(bias) = bias {
        let bias = nodes.constant("bias", |name| tensor::from_f32(name, &[m], &bias));
        y = nodes.node("Add", &[&y, &bias], "sum");
    }
    nodes.transposed(&y, &[0, 3, 1, 2], "channels_first");
    Some(nodes.into_nodes(output))
}
