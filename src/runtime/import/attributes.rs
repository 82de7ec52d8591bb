//! Attributes whose values no sound model has: tract would count up to them, or index by them.

use std::collections::HashMap;

use crate::onnx::{GraphProto, NodeProto};
use crate::{Error, Result};

/// Axes are counted from either end.
const AXES: &[&str] =
    &["axis", "axes", "perm", "batch_axis", "time_axis", "batch_dims", "scan_input_axes", "scan_output_axes"];
const MAX_RANK: i64 = 64;

/// Sizes in elements, and counts.
const SIZES: &[&str] = &[
    "kernel_shape",
    "strides",
    "dilations",
    "group",
    "num_outputs",
    "num_heads",
    "q_num_heads",
    "kv_num_heads",
    "blocksize",
    "split",
    "size",
    "hidden_size",
    "num_scan_inputs",
];
const MARGINS: &[&str] = &["pads", "output_padding", "output_shape", "shape"];
const MAX_SIZE: i64 = 1 << 24;

/// An error that names the first node with an attribute out of range, or with a graph inside, which no guard watches.
pub(super) fn check(graph: &GraphProto) -> Result<()> {
    graph.node.iter().try_for_each(check_node)?;
    match normalizes_too_much(graph) {
        Some(node) => Err(Error::model(node.label(), "its axis lies before the first one of its scale")),
        None => Ok(()),
    }
}

/// The first `LayerNormalization` that goes over more axes, counted from the last one, than its scale has: tract would count
/// from before the first one, without end.
fn normalizes_too_much(graph: &GraphProto) -> Option<&NodeProto> {
    let axes = |node: &NodeProto| node.attr_int("axis").map_or(1, |axis| -axis);
    let mut over_several =
        graph.node.iter().filter(|node| node.is_op("LayerNormalization") && axes(node) > 1).peekable();
    // Most models have none: the constants are not looked through for them.
    over_several.peek()?;
    let ranks: HashMap<&str, usize> =
        graph.initializer.iter().map(|tensor| (tensor.name(), tensor.dims.len())).collect();
    let rank = |node: &NodeProto| {
        node.operand(1).and_then(|scale| ranks.get(scale)).map_or(1, |rank| (*rank).max(1))
    };
    over_several.find(|node| axes(node) > rank(node) as i64)
}

/// Whether no attribute is out of range, in the graphs inside of nodes too.
pub(in crate::runtime) fn are_in_range(graph: &GraphProto) -> bool {
    normalizes_too_much(graph).is_none()
        && graph.node.iter().all(|node| {
            let mut inside = node.subgraphs().peekable();
            (inside.peek().is_some() || check_node(node).is_ok()) && inside.all(are_in_range)
        })
}

pub(super) fn check_node(node: &NodeProto) -> Result<()> {
    for attribute in &node.attribute {
        if attribute.subgraphs().next().is_some() {
            let why = "has a graph inside (If, Loop, Scan): vision transformers need none";
            return Err(Error::unsupported(node.label(), why));
        }
        // tract would move axes for ever to reach another order.
        if attribute.name() == "perm" && !is_permutation(&attribute.ints) {
            let why = format!("its attribute `perm` is {:?}, which is no order of axes", attribute.ints);
            return Err(Error::model(node.label(), why));
        }
        let values = attribute.i.iter().chain(&attribute.ints);
        let range = match attribute.name() {
            name if AXES.contains(&name) => -MAX_RANK..MAX_RANK,
            name if SIZES.contains(&name) => 1..MAX_SIZE,
            name if MARGINS.contains(&name) => -MAX_SIZE..MAX_SIZE,
            _ => continue,
        };
        if let Some(value) = values.into_iter().find(|value| !range.contains(value)) {
            return Err(Error::model(
                node.label(),
                format!("its attribute `{}` is {value}", attribute.name()),
            ));
        }
    }
    Ok(())
}

fn is_permutation(perm: &[i64]) -> bool {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    sorted.iter().enumerate().all(|(axis, &found)| found == axis as i64)
}
