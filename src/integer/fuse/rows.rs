//! `LayerNormalization`, `Softmax` and GELU, which tract computes in several passes or by the element.

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::nn::gelu_exact::GeluExact;
use tract_core::ops::nn::{GeluApproximate, Reduce, RmsNorm, Softmax, SoftmaxKind};

use super::{columns, dims, rewrite};
use crate::integer::math::Activation;
use crate::integer::ops::{RowOp, SOFTMAX};
use crate::pattern::{Pattern, constant, op, var};

/// Puts our row operators in the place of tract's.
pub(in crate::integer) fn rows(model: &mut TypedModel) -> TractResult<()> {
    let (norm, masked) = (normalized(), masked_softmax());
    rewrite(
        model,
        &[
            &|model: &TypedModel, node: &TypedNode| layer_norm(&norm, model, node),
            &softmax,
            &|model: &TypedModel, node: &TypedNode| softmax_or_zero(&masked, model, node),
            &activation,
        ],
    )
}

/// `RmsNorm(x − Σx·(1/n))·γ + β`, as tract has `LayerNormalization`.
fn normalized() -> Pattern {
    let mean = op("Mul", [op("Reduce<Sum>", [var("x")]).node("sum"), constant("1/n")]);
    let norm = op("RmsNorm", [op("Sub", [var("x"), mean])]).node("norm").sole();
    op("Add", [op("Mul", [norm, constant("gamma")]).sole(), constant("beta")])
}

/// `Where(IsNaN(p), 0, p)` for `p = Softmax(x)`.
fn masked_softmax() -> Pattern {
    let p = || op(SOFTMAX, [var("x")]).node("softmax");
    op("Iff", [op("IsNan", [p()]), constant("zero"), p()])
}

fn layer_norm(
    pattern: &Pattern,
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some((x, op)) = layer_norm_of(pattern, model, node) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &[x], op).map(Some)
}

fn layer_norm_of(pattern: &Pattern, model: &TypedModel, node: &TypedNode) -> Option<(OutletId, RowOp)> {
    let shape = dims(model, node.id.into())?;
    let (last, n) = (shape.len().checked_sub(1)?, *shape.last()?);
    let found = pattern.matches(model, node.id)?;
    let rms = model.node(found.node("norm")).op_as::<RmsNorm>()?;
    let sum = model.node(found.node("sum")).op_as::<Reduce>()?;
    let is_mean = found.floats("1/n") == [(n as f32).recip()];
    let epsilon = *rms.eps.cast_to_scalar::<f32>().ok().as_ref()?;
    let [gamma, beta] = ["gamma", "beta"].map(|name| columns(found.constant(name), n).map(<[f32]>::to_vec));
    let op = RowOp::LayerNorm { gamma: gamma?, beta: beta?, epsilon };
    (is_mean && rms.axis == last && sum.axes[..] == [last]).then_some((*found.value("x"), op))
}

fn softmax(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<Softmax>() else { return Ok(None) };
    let fact = model.outlet_fact(node.id.into())?;
    let last = fact.rank().checked_sub(1);
    let plain = op.kind == SoftmaxKind::Softmax && op.quant_output_dt.is_none();
    if !plain
        || fact.datum_type != f32::datum_type()
        || op.axes.first().copied() != last
        || op.axes.len() != 1
    {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &node.inputs, RowOp::Softmax { or_zero: false }).map(Some)
}

fn softmax_or_zero(
    pattern: &Pattern,
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(found) = pattern.matches(model, node.id) else { return Ok(None) };
    let softmax = model.node(found.node("softmax"));
    let matches = found.floats("zero") == [0.0]
        && softmax.op_as::<RowOp>() == Some(&RowOp::Softmax { or_zero: false })
        && dims(model, softmax.id.into()) == dims(model, node.id.into());
    if !matches {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &softmax.inputs, RowOp::Softmax { or_zero: true })
        .map(Some)
}

fn activation(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = node.op_as::<ElementWiseOp>() else { return Ok(None) };
    let activation = match op.0.downcast_ref::<GeluApproximate>() {
        Some(op) if !op.fast_impl => Activation::TanhGelu,
        None if op.0.is::<GeluExact>() => Activation::Gelu,
        _ => return Ok(None),
    };
    if model.outlet_fact(node.id.into())?.datum_type != f32::datum_type() {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &node.inputs, RowOp::Activation(activation)).map(Some)
}
