//! `LayerNormalization`, `Softmax` and GELU, which tract computes in several passes or by the element.

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::logic::Iff;
use tract_core::ops::math::{Add, Mul, Sub};
use tract_core::ops::nn::gelu_exact::GeluExact;
use tract_core::ops::nn::{GeluApproximate, Reduce, Reducer, RmsNorm, Softmax, SoftmaxKind};

use super::{binary, columns, dims, rewrite, scalar, sole};
use crate::integer::math::Activation;
use crate::integer::ops::RowOp;

/// Puts our row operators in the place of tract's.
pub(in crate::integer) fn rows(model: &mut TypedModel) -> TractResult<()> {
    rewrite(model, &[layer_norm, softmax, softmax_or_zero, activation])
}

/// `RmsNorm(x − Σx·(1/n))·γ + β`, as tract has `LayerNormalization`.
fn layer_norm(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((x, op)) = layer_norm_of(model, node) else { return Ok(None) };
    TypedModelPatch::replace_single_op(model, node, &[x], op).map(Some)
}

fn layer_norm_of(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, RowOp)> {
    let shape = dims(model, node.id.into())?;
    let (last, n) = (shape.len().checked_sub(1)?, *shape.last()?);
    let (scaled, beta) = with_columns::<Add>(model, node, n)?;
    let (norm, gamma) = with_columns::<Mul>(model, sole(model, scaled)?, n)?;
    let norm = sole(model, norm)?;
    let rms = norm.op_as::<RmsNorm>().filter(|rms| rms.axis == last)?;
    let centered = model.node(norm.inputs[0].node);
    let [[x, mean], _] = binary::<Sub>(centered)?;
    let [sum, factor] = binary::<Mul>(model.node(mean.node))?
        .into_iter()
        .find(|&[_, factor]| scalar(model, factor).is_some())?;
    let is_mean = scalar(model, factor) == Some((n as f32).recip());
    let reduce = model.node(sum.node).op_as::<Reduce>()?;
    let sums = reduce.reducer == Reducer::Sum && reduce.axes[..] == [last];
    let same = model.node(sum.node).inputs[0] == x;
    let epsilon = *rms.eps.cast_to_scalar::<f32>().ok().as_ref()?;
    (is_mean && sums && same).then_some((x, RowOp::LayerNorm { gamma, beta, epsilon }))
}

/// The other input of `op(·, constant columns)`.
fn with_columns<Op: tract_core::ops::binary::BinMiniOp>(
    model: &TypedModel,
    node: &TypedNode,
    n: usize,
) -> Option<(OutletId, Vec<f32>)> {
    binary::<Op>(node)?.into_iter().find_map(|[x, c]| Some((x, columns(model, c, n)?)))
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

/// `Where(IsNaN(Softmax(x)), 0, Softmax(x))`.
fn softmax_or_zero(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let (Some(_), [is_nan, zero, softmax]) = (node.op_as::<Iff>(), &node.inputs[..]) else { return Ok(None) };
    let of_nan = model.node(is_nan.node);
    let made_by = model.node(softmax.node);
    let matches = of_nan.op().name() == "IsNan"
        && of_nan.inputs[..] == [*softmax]
        && scalar(model, *zero) == Some(0.0)
        && made_by.op_as::<RowOp>() == Some(&RowOp::Softmax { or_zero: false })
        && dims(model, *softmax) == dims(model, node.id.into());
    if !matches {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &made_by.inputs, RowOp::Softmax { or_zero: true })
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
