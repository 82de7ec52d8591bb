//! What follows a linear layer goes into it: the bias, then an activation, then a residual.

use tract_core::internal::*;
use tract_core::ops::math::Add;

use super::{binary, columns, constant, dims, rewrite, sole};
use crate::integer::ops::{RowOp, SiteOp};

/// Puts biases, activations and residuals into the linear layers before them.
pub(in crate::integer) fn epilogues(model: &mut TypedModel) -> TractResult<()> {
    rewrite(model, &[bias, activation, residual])
}

fn bias(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let fused = binary::<Add>(node).into_iter().flatten().find_map(|[site, bias]| {
        let shape = dims(model, site)?;
        let same_shape = dims(model, node.id.into())? == shape;
        let layer = sole(model, site)?;
        let op = layer.op_as::<SiteOp>()?.then_bias(&columns(model, bias, *shape.last()?)?)?;
        same_shape.then_some((layer.inputs.clone(), op))
    });
    let Some((inputs, op)) = fused else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
}

fn activation(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(RowOp::Activation(activation)) = node.op_as::<RowOp>() else { return Ok(None) };
    let Some(layer) = sole(model, node.inputs[0]) else { return Ok(None) };
    let Some(op) = layer.op_as::<SiteOp>().and_then(|op| op.then_activation(*activation)) else {
        return Ok(None);
    };
    TypedModelPatch::replace_single_op(model, node, &layer.inputs, op).map(Some)
}

fn residual(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let fused = binary::<Add>(node).into_iter().flatten().find_map(|[site, residual]| {
        let same_shape = dims(model, site)? == dims(model, residual)?;
        let layer = sole(model, site)?;
        let op = layer.op_as::<SiteOp>()?.then_residual()?;
        let inputs: TVec<OutletId> = layer.inputs.iter().copied().chain([residual]).collect();
        (same_shape && constant(model, residual).is_none()).then_some((inputs, op))
    });
    let Some((inputs, op)) = fused else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
}
