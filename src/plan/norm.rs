//! The gains and biases of normalization, which can take over scales and shifts of the channels of a lhs.

use super::{RhsOperand, Site, WeightLayout};
use crate::onnx::{Graph, NodeId, tensor};

/// A value `x · gain + bias` that linear sites alone take: another gain and bias, and other weights, make the same products.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The value.
    pub value: String,
    /// What each channel is multiplied by.
    pub gain: RowConstant,
    /// What is added to each channel.
    pub bias: Option<RowConstant>,
}

/// A constant with one number for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct RowConstant {
    /// The node that takes it.
    pub node: NodeId,
    /// Which input of the node it is.
    pub input: usize,
    /// One for each channel.
    pub values: Vec<f32>,
}

impl Norm {
    /// What makes the lhs of `site`, one of `sites`, if it is such a value.
    pub fn of(graph: &Graph, sites: &[Site], site: &Site) -> Option<Self> {
        let channels = depth(graph, site)?;
        let consumers = graph.consumers(&site.a);
        let takes_it = |node: NodeId| {
            let of_node = sites.iter().find(|site| site.node == node);
            of_node.is_some_and(|other| other.a == site.a && depth(graph, other) == Some(channels))
        };
        if graph.is_output(&site.a) || !consumers.iter().all(|user| user.input == 0 && takes_it(user.node)) {
            return None;
        }
        let (id, value) = (graph.producer(&site.a)?, site.a.clone());
        let node = graph.node(id);
        match node.op_type() {
            "LayerNormalization" | "RMSNormalization" if node.attr_int("axis").unwrap_or(-1) == -1 => {
                let gain = row(graph, id, 1, channels)?;
                let bias = row(graph, id, 2, channels);
                (bias.is_some() || node.operand(2).is_none()).then_some(Self { value, gain, bias })
            }
            "Add" => {
                let input = usize::from(graph.constant(node.operand(1)?).is_some());
                let bias = row(graph, id, input, channels)?;
                let scaled = node.operand(1 - input)?;
                if graph.consumers(scaled).len() != 1 || graph.is_output(scaled) {
                    return None;
                }
                Some(Self { value, gain: multiplied(graph, scaled, channels)?, bias: Some(bias) })
            }
            "Mul" => Some(Self { gain: multiplied(graph, &value, channels)?, value, bias: None }),
            _ => None,
        }
    }
}

/// The constant by which the Mul that makes `value` multiplies each channel.
fn multiplied(graph: &Graph, value: &str, channels: usize) -> Option<RowConstant> {
    let id = graph.producer(value)?;
    let node = graph.node(id);
    let input = usize::from(node.is_op("Mul") && graph.constant(node.operand(1)?).is_some());
    if node.is_op("Mul") { row(graph, id, input, channels) } else { None }
}

/// Rows of the weight of a linear site whose bias can be changed, or that can have one.
fn depth(graph: &Graph, site: &Site) -> Option<usize> {
    let RhsOperand::Weight { value, layout, .. } = &site.b else { return None };
    match (layout, &graph.constant(value)?.dims[..]) {
        (WeightLayout::Kn, &[k, _]) | (WeightLayout::Nk, &[_, k]) => usize::try_from(k).ok(),
        _ => None,
    }
}

fn row(graph: &Graph, node: NodeId, input: usize, channels: usize) -> Option<RowConstant> {
    let constant = graph.constant(graph.node(node).operand(input)?)?;
    let flat = constant.dims.iter().rev().skip(1).all(|&dim| dim == 1);
    let values = tensor::f32s(constant).ok()?;
    (flat && values.len() == channels).then_some(RowConstant { node, input, values })
}
