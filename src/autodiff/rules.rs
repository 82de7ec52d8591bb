//! The table of vector-Jacobian products: one op, one rule, one formula.
//!
//! A rule maps `dy` to the gradient of each needed input, in the shape to which that input was broadcast; the
//! driver sums back over the broadcast axes.

use std::cell::OnceCell;
use std::f32::consts::FRAC_2_SQRT_PI;

use tract_core::internal::*;
use tract_core::ops::array::{Pad, TypedConcat};
use tract_core::ops::change_axes::AxisOp;
use tract_core::ops::cnn::conv::Conv;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_ndarray::{ArrayD, ArrayViewD, Axis, Slice, Zip};

use super::{conv, einsum};

/// What the forward pass kept of one node.
pub(super) struct Saved<'a> {
    pub(super) op: &'a dyn TypedOp,
    pub(super) inputs: &'a [TValue],
    pub(super) output: &'a Tensor,
    /// By input: is its gradient wanted?
    pub(super) needed: &'a [bool],
    /// Of [`moved_elements`], the same for every `dy`.
    pub(super) sources: OnceCell<Vec<usize>>,
}

type Grads = TractResult<Vec<Option<ArrayD<f32>>>>;
pub(super) type Rule = fn(&ArrayD<f32>, &Saved) -> Grads;

/// By tract's name of the op (for binary and elementwise ops, of the wrapped one).
#[rustfmt::skip]
pub(super) const RULES: &[(&str, Rule)] = &[
    ("EinSum",  |dy, s| einsum::vjp(op_as::<EinSum>(s)?, dy, s.inputs, s.needed)),
    ("Conv",    |dy, s| conv::vjp(op_as::<Conv>(s)?, dy, s.inputs, s.needed)),
    ("Add",     |dy, s| binary(dy, s, |dy, _, _| dy, |dy, _, _| dy)),
    ("Sub",     |dy, s| binary(dy, s, |dy, _, _| dy, |dy, _, _| -dy)),
    ("Mul",     |dy, s| binary(dy, s, |dy, _, b| dy * b, |dy, a, _| dy * a)),
    ("Div",     |dy, s| binary(dy, s, |dy, _, b| dy / b, |dy, a, b| -dy * a / (b * b))),
    ("Pow",     |dy, s| binary(dy, s, |dy, a, b| dy * b * a.powf(b - 1.0), |dy, a, b| dy * a.powf(b) * a.ln())),
    ("Min",     |dy, s| binary(dy, s, |dy, a, b| if a <= b { dy } else { 0.0 }, |dy, a, b| if a <= b { 0.0 } else { dy })),
    ("Max",     |dy, s| binary(dy, s, |dy, a, b| if a >= b { dy } else { 0.0 }, |dy, a, b| if a >= b { 0.0 } else { dy })),
    ("Neg",     |dy, s| unary(dy, s, |_, _| -1.0)),
    ("Abs",     |dy, s| unary(dy, s, |x, _| x.signum())),
    ("Exp",     |dy, s| unary(dy, s, |_, y| y)),
    ("Ln",      |dy, s| unary(dy, s, |x, _| 1.0 / x)),
    ("Square",  |dy, s| unary(dy, s, |x, _| 2.0 * x)),
    ("Sqrt",    |dy, s| unary(dy, s, |_, y| 0.5 / y)),
    ("Rsqrt",   |dy, s| unary(dy, s, |_, y| -0.5 * y * y * y)),
    ("Recip",   |dy, s| unary(dy, s, |_, y| -y * y)),
    ("Erf",     |dy, s| unary(dy, s, |x, _| FRAC_2_SQRT_PI * (-x * x).exp())),
    ("Tanh",    |dy, s| unary(dy, s, |_, y| 1.0 - y * y)),
    ("Sigmoid", |dy, s| unary(dy, s, |_, y| y * (1.0 - y))),
    ("Cast",    |dy, _| Ok(vec![Some(dy.clone())])),
    ("Iff",     select),
    ("Softmax", softmax),
    ("Reduce<Sum>", |dy, s| Ok(vec![Some(dy.broadcast(s.inputs[0].shape()).context("shape of the sum")?.to_owned())])),
    ("Reshape", same_elements),
    ("AddAxis", same_elements),
    ("RmAxis",  same_elements),
    ("MoveAxis", move_axis),
    ("Concat",  concat),
    ("Pad",     pad),
    ("Slice",   moved_elements),
    ("StridedSlice", moved_elements),
    ("Gather",  moved_elements),
    ("MultiBroadcastTo", moved_elements),
];

pub(super) fn find(op_name: &str) -> Option<Rule> {
    RULES.iter().find(|(name, _)| *name == op_name).map(|(_, rule)| *rule)
}

fn op_as<'a, O: TypedOp>(saved: &Saved<'a>) -> TractResult<&'a O> {
    saved.op.downcast_ref::<O>().context("an op of another kind bears the name of the rule's")
}

/// `dx = dy ⊙ f′(x, y)`.
fn unary(dy: &ArrayD<f32>, saved: &Saved, slope: impl Fn(f32, f32) -> f32) -> Grads {
    let x: ArrayViewD<f32> = saved.inputs[0].to_plain_array_view()?;
    let y: ArrayViewD<f32> = saved.output.to_plain_array_view()?;
    Ok(vec![Some(Zip::from(dy).and(&x).and(&y).map_collect(|dy, &x, &y| dy * slope(x, y)))])
}

/// `da = f(dy, a, b)` and `db = g(dy, a, b)`, elementwise over the broadcast operands.
fn binary(
    dy: &ArrayD<f32>,
    saved: &Saved,
    f: impl Fn(f32, f32, f32) -> f32,
    g: impl Fn(f32, f32, f32) -> f32,
) -> Grads {
    let a: ArrayViewD<f32> = saved.inputs[0].to_plain_array_view()?;
    let b: ArrayViewD<f32> = saved.inputs[1].to_plain_array_view()?;
    let a = a.broadcast(dy.raw_dim()).context("broadcast")?;
    let b = b.broadcast(dy.raw_dim()).context("broadcast")?;
    let both = Zip::from(dy).and(a).and(b);
    Ok(vec![
        saved.needed[0].then(|| both.clone().map_collect(|&dy, &a, &b| f(dy, a, b))),
        saved.needed[1].then(|| both.map_collect(|&dy, &a, &b| g(dy, a, b))),
    ])
}

/// `dt = c ? dy : 0`, `df = c ? 0 : dy`.
fn select(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let c: ArrayViewD<bool> = saved.inputs[0].to_plain_array_view()?;
    let c = c.broadcast(dy.raw_dim()).context("broadcast")?;
    let keep = |when: bool| Zip::from(dy).and(&c).map_collect(|&dy, &c| if c == when { dy } else { 0.0 });
    Ok(vec![None, saved.needed[1].then(|| keep(true)), saved.needed[2].then(|| keep(false))])
}

/// `dx = y ⊙ (dy − ⟨dy, y⟩)` along the softmax axes.
fn softmax(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Softmax>(saved)?;
    ensure!(matches!(op.kind, SoftmaxKind::Softmax), "LogSoftmax");
    let y: ArrayViewD<f32> = saved.output.to_plain_array_view()?;
    let mut inner = dy * &y;
    for &axis in &op.axes {
        inner = inner.sum_axis(Axis(axis)).insert_axis(Axis(axis));
    }
    Ok(vec![Some((dy - &inner) * y)])
}

/// The same elements in the same order: `dx = dy` in the input's shape.
fn same_elements(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let dx = dy.as_standard_layout().into_owned();
    Ok(vec![Some(dx.into_shape_with_order(saved.inputs[0].shape())?)])
}

/// The inverse permutation.
fn move_axis(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let AxisOp::Move(from, to) = op_as::<AxisOp>(saved)? else { bail!("MoveAxis expected") };
    let mut order: Vec<usize> = (0..dy.ndim()).collect();
    let axis = order.remove(*to);
    order.insert(*from, axis);
    Ok(vec![Some(dy.view().permuted_axes(order).as_standard_layout().into_owned())])
}

/// Each input gets its own stretch of `dy`.
fn concat(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axis = op_as::<TypedConcat>(saved)?.axis;
    let mut start = 0;
    let mut grads = Vec::new();
    for input in saved.inputs {
        let end = start + input.shape()[axis];
        grads.push(Some(dy.slice_axis(Axis(axis), Slice::from(start..end)).to_owned()));
        start = end;
    }
    Ok(grads)
}

/// `dy` without the margins.
fn pad(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Pad>(saved)?;
    ensure!(matches!(op.mode, tract_core::ops::array::PadMode::Constant(_)), "Pad mode {:?}", op.mode);
    let mut dx = dy.view();
    for (axis, (&(before, _), &dim)) in op.pads.iter().zip(saved.inputs[0].shape()).enumerate() {
        dx.slice_axis_inplace(Axis(axis), Slice::from(before..before + dim));
    }
    Ok(vec![Some(dx.to_owned())])
}

/// An op that only moves elements of its first input: run on the numbers of the elements, it says where each
/// output came from, so `dx[source of i] += dy[i]`.
fn moved_elements(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let shape = saved.inputs[0].shape();
    if saved.sources.get().is_none() {
        let numbers: Vec<i64> = (0..saved.inputs[0].len() as i64).collect();
        let mut inputs: TVec<TValue> = saved.inputs.into();
        inputs[0] = tensor1(&numbers).into_shape(shape)?.into_tvalue();
        let sources = saved.op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
        let sources = sources.to_plain_array_view::<i64>()?.iter().map(|&i| i as usize).collect();
        saved.sources.set(sources).expect("it is empty");
    }
    let mut dx = ArrayD::zeros(shape);
    let flat = dx.as_slice_mut().context("zeros are in standard layout")?;
    for (&source, &dy) in saved.sources.get().into_iter().flatten().zip(dy) {
        flat[source] += dy;
    }
    let mut grads = vec![None; saved.inputs.len()];
    grads[0] = Some(dx);
    Ok(grads)
}
