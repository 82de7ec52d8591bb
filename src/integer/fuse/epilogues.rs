//! What follows a linear layer goes into it: the bias, then an activation, then a residual, or a second linear layer.

use tract_core::internal::*;

use super::{Replacement, columns, dims, replace, replacement};
use crate::integer::ops::{RowOp, SITE, SiteOp};
use crate::pattern::{Graph as _, Match, any_constant, constant, op, var};

/// Puts biases, activations and residuals into the linear layers before them.
pub(in crate::integer) fn epilogues(model: &mut TypedModel) -> TractResult<()> {
    let layer = || op(SITE, []).node("layer").sole();
    let bias = op("Add", [layer(), constant("bias")]);
    let residual = op("Add", [layer(), var("residual")]);
    replace(
        model,
        &[
            &|model, node| with_bias(model, node, &bias.matches(model, node.id)?),
            &with_activation,
            &|model, node| residual.all(model, node.id).iter().find_map(|found| with_residual(model, found)),
        ],
    )
}

fn with_bias(model: &TypedModel, sum: &TypedNode, found: &Match<TypedModel>) -> Option<Replacement> {
    let layer = model.node(found.node("layer"));
    let shape = dims(model, layer.id.into())?;
    let bias = columns(found.constant("bias"), *shape.last()?)?;
    let op = layer.op_as::<SiteOp>()?.then_bias(bias)?;
    (dims(model, sum.id.into())? == shape).then(|| replacement(&layer.inputs, op))
}

fn with_activation(model: &TypedModel, node: &TypedNode) -> Option<Replacement> {
    let RowOp::Activation(activation) = node.op_as::<RowOp>()? else { return None };
    let before = node.inputs[0];
    let layer = model.node(before.node);
    let op = layer.op_as::<SiteOp>()?.then_activation(*activation)?;
    model.is_sole(&before).then(|| replacement(&layer.inputs, op))
}

fn with_residual(model: &TypedModel, found: &Match<TypedModel>) -> Option<Replacement> {
    let layer = model.node(found.node("layer"));
    let residual = *found.value("residual");
    let op = layer.op_as::<SiteOp>()?.then_residual()?;
    let inputs: Vec<OutletId> = layer.inputs.iter().copied().chain([residual]).collect();
    let same_shape = dims(model, layer.id.into())? == dims(model, residual)?;
    (same_shape && any_constant().matches(model, residual).is_none()).then(|| replacement(&inputs, op))
}

/// Makes one node of two linear layers of which the second takes the result of the first, after an activation.
pub(in crate::integer) fn mlps(model: &mut TypedModel) -> TractResult<()> {
    replace(
        model,
        &[&|model, second| {
            let op = second.op_as::<SiteOp>()?;
            let (x, residual) = second.inputs.split_first()?;
            let first = model.node(x.node);
            let op = first.op_as::<SiteOp>()?.then_linear(op).filter(|_| model.is_sole(x))?;
            let inputs = [&first.inputs[..], residual].concat();
            (!residual.contains(x)).then(|| replacement(&inputs, op))
        }],
    )
}
