//! `LayerNormalization`, `Softmax` and GELU, which tract computes in several passes or by the element.

use std::f64::consts::FRAC_1_SQRT_2;

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::math::PowConst;
use tract_core::ops::nn::gelu_exact::GeluExact;
use tract_core::ops::nn::{GeluApproximate, Reduce, RmsNorm, Softmax, SoftmaxKind};

use super::{Replacement, columns, dims, replace, replacement};
use crate::integer::math::Activation;
use crate::integer::ops::{RowOp, SOFTMAX};
use crate::pattern::{Pattern, constant, op, var};

/// Puts our row operators in the place of tract's.
pub(in crate::integer) fn rows(model: &mut TypedModel) -> TractResult<()> {
    let (norm, masked) = (normalized(), masked_softmax());
    let layer_norm = |model: &TypedModel, node: &TypedNode| layer_norm(&norm, model, node);
    let softmax_or_zero = |model: &TypedModel, node: &TypedNode| softmax_or_zero(&masked, model, node);
    let activations = activations();
    let spelled = |model: &TypedModel, node: &TypedNode| spelled_activation(&activations, model, node);
    replace(model, &[&layer_norm, &softmax, &softmax_or_zero, &activation, &spelled])
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

/// The activation functions that tract leaves in pieces.
fn activations() -> Vec<(Pattern, Activation)> {
    let x = || var("x");
    // Apart, as a product matches in any order only where it is one.
    let cubes = [op("PowConst", [x()]), op("Square", [x()]) * x(), x() * x() * x()];
    let tanh_gelu = |cube| {
        let inner = (x() + cube * 0.044_715) * 0.797_884_560_8;
        (x() * (op("Tanh", [inner]) + 1.0) * 0.5, Activation::TanhGelu)
    };
    let others = [
        (x() * (op("Erf", [x() * FRAC_1_SQRT_2]) + 1.0) * 0.5, Activation::Gelu),
        (x() * op("Sigmoid", [x() * 1.702]), Activation::QuickGelu),
        (x() * op("Sigmoid", [x()]), Activation::Silu),
        (op("Silu", [x()]), Activation::Silu),
    ];
    cubes.map(tanh_gelu).into_iter().chain(others).collect()
}

fn layer_norm(pattern: &Pattern, model: &TypedModel, node: &TypedNode) -> Option<Replacement> {
    let shape = dims(model, node.id.into())?;
    let (last, n) = (shape.len().checked_sub(1)?, *shape.last()?);
    let found = pattern.matches(model, node.id)?;
    let rms = model.node(found.node("norm")).op_as::<RmsNorm>()?;
    let sum = model.node(found.node("sum")).op_as::<Reduce>()?;
    let is_mean = found.floats("1/n") == [(n as f32).recip()];
    let epsilon = *rms.eps.cast_to_scalar::<f32>().ok().as_ref()?;
    let [gamma, beta] = ["gamma", "beta"].map(|name| columns(found.constant(name), n).map(<[f32]>::to_vec));
    let op = RowOp::LayerNorm { gamma: gamma?, beta: beta?, epsilon };
    (is_mean && rms.axis == last && sum.axes[..] == [last]).then(|| replacement(&[*found.value("x")], op))
}

fn softmax(model: &TypedModel, node: &TypedNode) -> Option<Replacement> {
    let op = node.op_as::<Softmax>()?;
    let last = is_float(model, node)?.checked_sub(1)?;
    let plain = op.kind == SoftmaxKind::Softmax && op.quant_output_dt.is_none() && op.axes[..] == [last];
    plain.then(|| replacement(&node.inputs, RowOp::Softmax { or_zero: false }))
}

fn softmax_or_zero(pattern: &Pattern, model: &TypedModel, node: &TypedNode) -> Option<Replacement> {
    let found = pattern.matches(model, node.id)?;
    let softmax = model.node(found.node("softmax"));
    let matches = found.floats("zero") == [0.0]
        && softmax.op_as::<RowOp>() == Some(&RowOp::Softmax { or_zero: false })
        && dims(model, softmax.id.into()) == dims(model, node.id.into());
    matches.then(|| replacement(&softmax.inputs, RowOp::Softmax { or_zero: true }))
}

fn activation(model: &TypedModel, node: &TypedNode) -> Option<Replacement> {
    let op = node.op_as::<ElementWiseOp>()?;
    let activation = match op.0.downcast_ref::<GeluApproximate>() {
        Some(op) if !op.fast_impl => Activation::TanhGelu,
        None if op.0.is::<GeluExact>() => Activation::Gelu,
        _ => return None,
    };
    is_float(model, node).map(|_| replacement(&node.inputs, RowOp::Activation(activation)))
}

fn spelled_activation(
    patterns: &[(Pattern, Activation)],
    model: &TypedModel,
    node: &TypedNode,
) -> Option<Replacement> {
    is_float(model, node)?;
    let (found, activation) =
        patterns.iter().find_map(|(pattern, kind)| Some((pattern.matches(model, node.id)?, *kind)))?;
    let is_cube = found
        .nodes
        .iter()
        .filter_map(|&id| model.node(id).op_as::<ElementWiseOp>())
        .all(|op| op.0.downcast_ref::<PowConst>().is_none_or(|power| power.exponent == 3.0));
    let x = *found.value("x");
    let same_shape = dims(model, x)? == dims(model, node.id.into())?;
    (is_cube && same_shape).then(|| replacement(&[x], RowOp::Activation(activation)))
}

/// The number of axes of what `node` makes, if it is of f32.
fn is_float(model: &TypedModel, node: &TypedNode) -> Option<usize> {
    let fact = model.outlet_fact(node.id.into()).ok()?;
    (fact.datum_type == f32::datum_type()).then(|| fact.rank())
}
