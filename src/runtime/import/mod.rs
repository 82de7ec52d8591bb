//! The way into tract: from our model to tract's typed graph, without trusting the file.
//!
//! tract computes what it can while it reads, allocates whatever that takes, and panics on some malformed nodes. Here
//! every node is inferred behind a guard, which says no before that happens, and names the node.

mod attributes;
mod guard;
mod slices;
mod spelling;
mod support;
mod types;

use std::collections::HashMap;

use prost::Message as _;
use tract_onnx::Onnx;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{InferenceFact, OutletId};

use crate::error::guarded;
use crate::onnx::Model;
use crate::{Error, Result};

pub(super) use attributes::are_in_range;
pub(super) use spelling::respelled;
pub(crate) use support::uncomputable;

/// What is done to the graph between reading and inference: by name, the outlet of every value.
pub(crate) type Edit<'e> = dyn Fn(&mut InferenceModel, &HashMap<String, OutletId>) -> TractResult<()> + 'e;

/// tract's typed graph, not decluttered, of `model` for inputs of `shape`, after `edit`.
///
/// The error names the node that tract cannot read, that is malformed, or that makes a tensor beyond the model's
/// [limit](crate::onnx::Limits).
pub(crate) fn typed(model: &Model, shape: [usize; 4], edit: &Edit) -> Result<TypedModel> {
    attributes::check(model.graph())?;
    let proto = ModelProto::decode(&*respelled(model).encode_to_vec())
        .map_err(|e| Error::model("model", format!("tract cannot read it: {e}")))?;
    let typed = guarded(|| -> TractResult<TypedModel> {
        let parsed = reader().parse(&proto, None)?;
        let mut inference = parsed.model;
        edit(&mut inference, &parsed.outlets_by_name)?;
        enter(
            &mut inference,
            &parsed.outlets_by_name,
            InferenceFact::dt_shape(f32::datum_type(), shape),
            model,
        )?;
        let mut typed = inference.into_typed()?;
        slices::gather(&mut typed)?;
        Ok(typed)
    });
    match typed {
        Ok(Ok(typed)) => Ok(typed),
        Ok(Err(e)) => Err(match e.root_cause().downcast_ref::<guard::Refusal>() {
            Some(refusal) => refusal.error(),
            None => Error::unsupported("tract", format!("{e:#}")),
        }),
        Err(panic) => {
            let place = unreadable_node(&proto).unwrap_or_else(|| "graph".into());
            Err(Error::model(place, format!("is malformed: {panic}")))
        }
    }
}

/// Gives the graph read of `model` its input, and puts every node behind a guard.
pub(super) fn enter(
    inference: &mut InferenceModel,
    outlets: &HashMap<String, OutletId>,
    input: InferenceFact,
    model: &Model,
) -> TractResult<()> {
    // The batch of the file may be a symbol that its outputs mention.
    for outlet in inference.outputs.clone() {
        inference.set_outlet_fact(outlet, InferenceFact::default())?;
    }
    inference.set_input_fact(0, input)?;
    let norms = model.graph().node.iter().filter(|node| node.is_op("LayerNormalization"));
    let least_ranks = norms.filter_map(|node| {
        let axis = Some(node.attr_int("axis").unwrap_or(-1)).filter(|&axis| axis < 0)?;
        Some((outlets.get(node.output.first()?)?.node, -axis))
    });
    guard::wrap(inference, model.limits.tensor_bytes, &least_ranks.collect());
    Ok(())
}

/// Shapes come from the input alone.
pub(super) fn reader() -> Onnx {
    tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true)
}

/// The first node on whose attributes tract panics by itself.
fn unreadable_node(proto: &ModelProto) -> Option<String> {
    let graph = proto.graph.as_ref()?;
    let node = graph.node.iter().find(|node| {
        let alone = ModelProto {
            graph: Some(GraphProto {
                node: vec![(*node).clone()],
                initializer: graph.initializer.clone(),
                ..Default::default()
            }),
            ..proto.clone()
        };
        guarded(|| reader().parse(&alone, None).is_ok()).is_err()
    })?;
    let named = if node.name.is_empty() { node.output.first()? } else { &node.name };
    Some(format!("node `{named}` ({})", node.op_type))
}
