//! Which nodes tract has no operator for.

use prost::Message as _;
use tract_onnx::Onnx;
use tract_onnx::pb::ModelProto;

use super::spelling::Constants;
use super::{attributes, reader};
use crate::error::guarded;
use crate::onnx::{self, GraphProto as Graph, Model, NodeProto};

/// The nodes of the main graph, by position, that tract cannot compute whatever their operands are, and why.
///
/// Only standard operators are looked at: what other domains mean is for the caller to know.
pub(crate) fn uncomputable(model: &Model) -> Vec<(usize, String)> {
    let reader = reader();
    let constants = Constants::of(model.graph());
    let nodes = model.graph().node.iter().enumerate().filter(|(_, node)| constants.fold(node).is_none());
    nodes.filter_map(|(at, node)| Some((at, why_not(&reader, model, node)?))).collect()
}

fn why_not(reader: &Onnx, model: &Model, node: &NodeProto) -> Option<String> {
    // A constant may be large, and tract has them all.
    if !node.is_standard() || node.is_op("Constant") {
        return None;
    }
    if node.subgraphs().next().is_some() {
        return Some("it has a graph inside".into());
    }
    if !reader.op_register.0.contains_key(node.op_type()) {
        return Some("tract has no such operator".into());
    }
    // What is malformed is an error, not a limit of tract.
    if attributes::check_node(node).is_err() {
        return None;
    }
    let alone = onnx::ModelProto {
        graph: Some(Graph { node: vec![node.clone()], ..Default::default() }),
        opset_import: model.proto.opset_import.clone(),
        ..Default::default()
    };
    let alone = ModelProto::decode(&*alone.encode_to_vec()).ok()?;
    match guarded(|| reader.parse(&alone, None)) {
        Ok(Err(error)) => Some(format!("tract: {}", error.root_cause())),
        _ => None,
    }
}
