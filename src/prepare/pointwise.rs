//! A Conv of one pixel is a linear layer over the channels: as `MatMul` it needs no rounded result to be integer in ONNX
//! Runtime, and what follows an activation function gets its twin. A `ConvTranspose` that makes a patch of every pixel is
//! such a layer, too.

use super::expansion::{Budget, Expansion, float_constant};
use crate::onnx::{AttributeProto, Edits, Graph, NodeProto, tensor};
use crate::windows::Windows;

/// Below so many channels moving them to the last axis takes longer than the product.
const LEAST_CHANNELS: usize = 32;

/// The edits that make a `MatMul` and an Add of every Conv of one pixel, and of every `ConvTranspose` from pixels to
/// patches; `None` if there is none.
pub(super) fn as_products(graph: &Graph) -> Option<Edits> {
    let mut edits = Edits::new(graph.model());
    let mut budget = Budget::of(graph);
    let mut changed = false;
    for (id, node) in graph.nodes() {
        let nodes = match Layer::of(graph, node, &mut budget) {
            Some(layer) => layer.nodes(node, &mut edits),
            None => continue,
        };
        edits.replace_node(id, nodes);
        changed = true;
    }
    changed.then_some(edits)
}

/// A linear layer over the channels of an image.
struct Layer {
    /// `[C, N]`.
    weight: Vec<f32>,
    channels: usize,
    /// One per output channel.
    bias: Option<Vec<f32>>,
    /// The number of axes of its input.
    rank: usize,
    /// The side of the patch that it makes of a pixel.
    patch: usize,
}

impl Layer {
    fn of(graph: &Graph, node: &NodeProto, budget: &mut Budget) -> Option<Self> {
        let is_transposed = node.is_op("ConvTranspose");
        if !is_transposed && !node.is_op("Conv") {
            return None;
        }
        node.output.first().filter(|output| !output.is_empty())?;
        let weight = float_constant(graph, node.operand(1)?)?;
        let shape = tensor::shape(weight);
        let &[first, second, ref kernel @ ..] = &shape[..] else { return None };
        let [channels, m] = if is_transposed { [first, second] } else { [second, first] };
        let patch = *kernel.first()?;
        let suits = if is_transposed {
            kernel == [patch, patch] && patch > 1 && makes_patches(node, patch)
        } else {
            patch == 1 && is_pointwise(node, &shape)
        };
        let bias = match node.operand(2) {
            Some(bias) => Some(float_constant(graph, bias).filter(|bias| bias.dims == [m as i64])?),
            None => None,
        };
        let fits = suits && channels >= LEAST_CHANNELS && budget.take(tensor::len(weight)) && budget.take(m);
        if !fits {
            return None;
        }
        let values = tensor::f32s(weight).ok()?;
        // The channels of a patch are in the order of `DepthToSpace`: that of the weight of a `ConvTranspose`.
        let weight = match is_transposed {
            true => values,
            false => (0..m * channels).map(|at| values[at % m * channels + at / m]).collect(),
        };
        let bias = bias.map(tensor::f32s).transpose().ok()?;
        Some(Self { weight, channels, bias, rank: shape.len(), patch })
    }

    /// `Transpose → MatMul → [Add] → Transpose`, of patches `[DepthToSpace]` and then the Add.
    fn nodes(self, origin: &NodeProto, edits: &mut Edits) -> Vec<NodeProto> {
        let Self { weight, channels, bias, rank, patch } = self;
        let rank = rank as i64;
        let last: Vec<i64> = [0].into_iter().chain(2..rank).chain([1]).collect();
        let first: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        let columns = weight.len() / channels;

        let mut nodes = Expansion::of(origin, edits);
        let mut y = nodes.transposed(&origin.input[0], &last, "channels_last");
        let weight = nodes.constant("weight", |name| tensor::from_f32(name, &[channels, columns], &weight));
        y = nodes.heir("MatMul", &[&y, &weight]);
        let add = |nodes: &mut Expansion, y: &str, dims: &[usize]| {
            let Some(bias) = &bias else { return y.to_string() };
            let bias = nodes.constant("bias", |name| tensor::from_f32(name, dims, bias));
            nodes.node("Add", &[y, &bias], "sum")
        };
        let m = columns / (patch * patch);
        if patch == 1 {
            y = add(&mut nodes, &y, &[m]);
        }
        y = nodes.transposed(&y, &first, "channels_first");
        if patch > 1 {
            y = nodes.node("DepthToSpace", &[&y], "patches");
            nodes.with(AttributeProto::int("blocksize", patch as i64));
            nodes.with(AttributeProto::string("mode", "CRD"));
            add(&mut nodes, &y, &[m, 1, 1]);
        }
        nodes.into_nodes(&origin.output[0])
    }
}

/// Whether a Conv of this weight sees one pixel at a time, and all of its channels.
fn is_pointwise(conv: &NodeProto, weight: &[usize]) -> bool {
    match weight {
        [_, _, 1] => has(conv, "strides", 1) && has(conv, "pads", 0) && has_no_groups(conv),
        [_, _, _, _] => Windows::of(conv, weight).is_ok_and(|windows| windows.are_pixels()),
        _ => false,
    }
}

/// Whether a `ConvTranspose` of a square kernel makes patches that lie side by side.
fn makes_patches(node: &NodeProto, patch: usize) -> bool {
    let same = [("dilations", 1), ("pads", 0), ("output_padding", 0)];
    node.attr_ints("strides") == Some(&[patch as i64; 2])
        && same.into_iter().all(|(name, value)| has(node, name, value))
        && node.attr_ints("output_shape").is_none_or(<[i64]>::is_empty)
        && has_no_groups(node)
}

/// Whether all ints of an attribute, if it is there, are `value`.
fn has(node: &NodeProto, name: &str, value: i64) -> bool {
    node.attr_ints(name).is_none_or(|ints| ints.iter().all(|&x| x == value))
}

fn has_no_groups(node: &NodeProto) -> bool {
    node.attr_int("group").unwrap_or(1) == 1
        && matches!(node.attr_str("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID")
}
