//! The table of vector-Jacobian products: one op, one rule, one formula.
//!
//! A rule maps `dy` to the gradient of each needed input, in the shape to which that input was broadcast; the
//! driver sums back over the broadcast axes. Both have one axis before those of the values: S seeds at once.

use std::f32::consts::{FRAC_2_SQRT_PI, PI};

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Pad, TypedConcat};
use tract_core::ops::change_axes::AxisOp;
use tract_core::ops::cnn::conv::Conv;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::{Softmax, SoftmaxKind};
use tract_ndarray::{ArrayD, ArrayViewD, Axis, Slice, Zip};

use super::{conv, einsum};

/// What the forward pass kept of one node.
pub(super) struct Saved<'a> {
    pub(super) op: &'a dyn TypedOp,
    pub(super) shapes: TVec<&'a [usize]>,
    /// The inputs that the rule's [`Keep`] names, and perhaps others.
    pub(super) inputs: TVec<Option<TValue>>,
    /// The output, where the rule's [`Keep`] names it.
    pub(super) output: Option<TValue>,
    /// By input: is its gradient wanted?
    pub(super) needed: &'a [bool],
}

/// Which values of the forward pass a rule reads: all others may be dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Keep {
    /// None: shapes are enough.
    Nothing,
    Output,
    Inputs,
    /// Of a product, what multiplies an input that depends on the model's: the other one.
    Others,
    /// The first: a condition.
    First,
    /// All but the first: indices and sizes.
    Rest,
}

impl Keep {
    /// Whether input `index` is read, where `varies` says which inputs depend on the model's.
    pub(super) fn needs_input(self, index: usize, varies: &[bool]) -> bool {
        match self {
            Self::Nothing | Self::Output => false,
            Self::Inputs => true,
            Self::Others => varies.iter().enumerate().any(|(i, &varies)| varies && i != index),
            Self::First => index == 0,
            Self::Rest => index > 0,
        }
    }
}

impl Saved<'_> {
    /// An input that is kept.
    fn input(&self, index: usize) -> TractResult<&TValue> {
        self.inputs[index].as_ref().with_context(|| format!("input {index} was not kept"))
    }

    fn input_array(&self, index: usize) -> TractResult<ArrayViewD<'_, f32>> {
        self.input(index)?.to_plain_array_view()
    }

    fn output_array(&self) -> TractResult<ArrayViewD<'_, f32>> {
        self.output.as_ref().context("the output was not kept")?.to_plain_array_view()
    }

    /// The shape of the first input's gradients, one for each seed of `dy`.
    fn with_seeds(&self, dy: &ArrayD<f32>) -> Vec<usize> {
        [&dy.shape()[..1], self.shapes[0]].concat()
    }
}

type Grads = TractResult<Vec<Option<ArrayD<f32>>>>;
/// Makes the gradients in place of `dy` where it can.
pub(super) type Rule = fn(ArrayD<f32>, &Saved) -> Grads;

/// By tract's name of the op (for binary and elementwise ops, of the wrapped one).
#[rustfmt::skip]
pub(super) const RULES: &[(&str, Keep, Rule)] = &[
    ("EinSum",  Keep::Others, |dy, s| einsum::vjp(op_as::<EinSum>(s)?, &dy, &s.inputs, s.needed)),
    ("Conv",    Keep::Rest, |dy, s| conv::vjp(op_as::<Conv>(s)?, &dy, s.shapes[0], s.input(1)?, s.needed)),
    ("Add",     Keep::Nothing, |dy, s| Ok(sum(dy, s, |dy| dy))),
    ("Sub",     Keep::Nothing, |dy, s| Ok(sum(dy, s, |dy| -dy))),
    ("Mul",     Keep::Others, |dy, s| binary(dy, s, |dy, _, b| dy * b, |dy, a, _| dy * a)),
    ("Div",     Keep::Inputs, |dy, s| binary(dy, s, |dy, _, b| dy / b, |dy, a, b| -dy * a / (b * b))),
    ("Pow",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| dy * b * a.powf(b - 1.0), |dy, a, b| dy * a.powf(b) * a.ln())),
    ("Min",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| if a <= b { dy } else { 0.0 }, |dy, a, b| if a <= b { 0.0 } else { dy })),
    ("Max",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| if a >= b { dy } else { 0.0 }, |dy, a, b| if a >= b { 0.0 } else { dy })),
    ("Neg",     Keep::Nothing, |dy, _| Ok(vec![Some(-dy)])),
    ("Abs",     Keep::Inputs, |dy, s| unary(dy, s, f32::signum)),
    ("Exp",     Keep::Output, |dy, s| unary(dy, s, |y| y)),
    ("Ln",      Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / x)),
    ("Square",  Keep::Inputs, |dy, s| unary(dy, s, |x| 2.0 * x)),
    ("Sqrt",    Keep::Output, |dy, s| unary(dy, s, |y| 0.5 / y)),
    ("Rsqrt",   Keep::Output, |dy, s| unary(dy, s, |y| -0.5 * y * y * y)),
    ("Recip",   Keep::Output, |dy, s| unary(dy, s, |y| -y * y)),
    ("Erf",     Keep::Inputs, |dy, s| unary(dy, s, |x| FRAC_2_SQRT_PI * (-x * x).exp())),
    ("GeluApproximate", Keep::Inputs, |dy, s| unary(dy, s, gelu_tanh_slope)),
    ("Tanh",    Keep::Output, |dy, s| unary(dy, s, |y| 1.0 - y * y)),
    ("Sigmoid", Keep::Output, |dy, s| unary(dy, s, |y| y * (1.0 - y))),
    ("Cast",    Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
    ("Iff",     Keep::First, |dy, s| select(&dy, s)),
    ("Softmax", Keep::Output, softmax),
    ("Reduce<Sum>", Keep::Nothing, |dy, s| Ok(vec![Some(dy.broadcast(s.with_seeds(&dy)).context("shape of the sum")?.to_owned())])),
    ("Reshape", Keep::Nothing, same_elements),
    ("AddAxis", Keep::Nothing, same_elements),
    ("RmAxis",  Keep::Nothing, same_elements),
    ("MoveAxis", Keep::Nothing, move_axis),
    ("Concat",  Keep::Nothing, |dy, s| concat(&dy, s)),
    ("Pad",     Keep::Nothing, |dy, s| pad(&dy, s)),
    ("Slice",   Keep::Nothing, |dy, s| slice(&dy, s)),
    ("Gather",  Keep::Rest, |dy, s| gather(&dy, s)),
    ("StridedSlice", Keep::Rest, |dy, s| moved_elements(&dy, s)),
    // What was broadcast is summed by the driver.
    ("MultiBroadcastTo", Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
];

pub(super) fn find(op_name: &str) -> Option<(Keep, Rule)> {
    RULES.iter().find(|(name, ..)| *name == op_name).map(|(_, keep, rule)| (*keep, *rule))
}

fn op_as<'a, O: TypedOp>(saved: &Saved<'a>) -> TractResult<&'a O> {
    saved.op.downcast_ref::<O>().context("an op of another kind bears the name of the rule's")
}

/// `dx = dy ⊙ f(kept)`, where the rule keeps x or y, and not both.
fn unary(mut dy: ArrayD<f32>, saved: &Saved, slope: impl Fn(f32) -> f32) -> Grads {
    let kept = if saved.output.is_some() { saved.output_array()? } else { saved.input_array(0)? };
    let slopes = kept.mapv(slope);
    for mut dy in dy.outer_iter_mut() {
        dy *= &slopes;
    }
    Ok(vec![Some(dy)])
}

/// The derivative of `x·½(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn gelu_tanh_slope(x: f32) -> f32 {
    let c = (2.0 / PI).sqrt();
    let t = (c * (x + 0.044_715 * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044_715 * x * x)
}

/// `da = dy` and `db = f(dy)`.
fn sum(dy: ArrayD<f32>, saved: &Saved, f: impl Fn(f32) -> f32) -> Vec<Option<ArrayD<f32>>> {
    match saved.needed {
        [_, false] => vec![Some(dy), None],
        [false, _] => vec![None, Some(dy.mapv_into(f))],
        _ => vec![Some(dy.clone()), Some(dy.mapv_into(f))],
    }
}

/// `da = f(dy, a, b)` and `db = g(dy, a, b)`, elementwise over the broadcast operands.
fn binary(
    dy: ArrayD<f32>,
    saved: &Saved,
    f: impl Fn(f32, f32, f32) -> f32,
    g: impl Fn(f32, f32, f32) -> f32,
) -> Grads {
    // What is not kept is not read: any number will do.
    let unread = ArrayD::zeros(vec![]);
    let array = |index: usize| match saved.inputs[index] {
        Some(_) => saved.input_array(index),
        None => Ok(unread.view()),
    };
    let (a, b) = (array(0)?, array(1)?);
    let a = a.broadcast(&dy.shape()[1..]).context("broadcast")?;
    let b = b.broadcast(&dy.shape()[1..]).context("broadcast")?;
    let da = |dy| Some(by_seed(dy, &a, &b, &f));
    let db = |dy| Some(by_seed(dy, &a, &b, &g));
    Ok(match saved.needed {
        [_, false] => vec![da(dy), None],
        [false, _] => vec![None, db(dy)],
        _ => vec![da(dy.clone()), db(dy)],
    })
}

/// `f(dy, a, b)` element by element, the same a and b for every seed.
fn by_seed(
    mut dy: ArrayD<f32>,
    a: &ArrayViewD<f32>,
    b: &ArrayViewD<f32>,
    f: impl Fn(f32, f32, f32) -> f32,
) -> ArrayD<f32> {
    for dy in dy.outer_iter_mut() {
        Zip::from(dy).and(a).and(b).for_each(|dy, &a, &b| *dy = f(*dy, a, b));
    }
    dy
}

/// `dt = c ? dy : 0`, `df = c ? 0 : dy`.
fn select(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let c: ArrayViewD<bool> = saved.input(0)?.to_plain_array_view()?;
    let c = c.broadcast(dy.raw_dim()).context("broadcast")?;
    let keep = |when: bool| Zip::from(dy).and(&c).map_collect(|&dy, &c| if c == when { dy } else { 0.0 });
    Ok(vec![None, saved.needed[1].then(|| keep(true)), saved.needed[2].then(|| keep(false))])
}

/// `dx = y ⊙ (dy − ⟨dy, y⟩)` along the softmax axes.
fn softmax(mut dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Softmax>(saved)?;
    ensure!(matches!(op.kind, SoftmaxKind::Softmax), "LogSoftmax");
    let y = saved.output_array()?;
    for mut dy in dy.outer_iter_mut() {
        let mut inner = &dy * &y;
        for &axis in &op.axes {
            inner = inner.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
        dy -= &inner;
        dy *= &y;
    }
    Ok(vec![Some(dy)])
}

/// The same elements in the same order: `dx = dy` in the input's shape.
fn same_elements(dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let shape = saved.with_seeds(&dy);
    let dx = if dy.is_standard_layout() { dy } else { dy.as_standard_layout().into_owned() };
    Ok(vec![Some(dx.into_shape_with_order(shape)?)])
}

/// The inverse permutation.
fn move_axis(dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let AxisOp::Move(from, to) = op_as::<AxisOp>(saved)? else { bail!("MoveAxis expected") };
    let mut order: Vec<usize> = (0..dy.ndim()).collect();
    let axis = order.remove(1 + to);
    order.insert(1 + from, axis);
    Ok(vec![Some(dy.permuted_axes(order).as_standard_layout().into_owned())])
}

/// Each input gets its own stretch of `dy`.
fn concat(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axis = op_as::<TypedConcat>(saved)?.axis;
    let mut start = 0;
    let mut grads = Vec::new();
    for shape in &saved.shapes {
        let end = start + shape[axis];
        grads.push(Some(dy.slice_axis(Axis(1 + axis), Slice::from(start..end)).to_owned()));
        start = end;
    }
    Ok(grads)
}

/// `dy` without the margins.
fn pad(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Pad>(saved)?;
    ensure!(matches!(op.mode, tract_core::ops::array::PadMode::Constant(_)), "Pad mode {:?}", op.mode);
    let mut dx = dy.view();
    for (axis, (&(before, _), &dim)) in op.pads.iter().zip(saved.shapes[0]).enumerate() {
        dx.slice_axis_inplace(Axis(1 + axis), Slice::from(before..before + dim));
    }
    Ok(vec![Some(dx.to_owned())])
}

/// `dx[start + i] = dy[i]` along the axis.
fn slice(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<tract_core::ops::array::Slice>(saved)?;
    let mut dx = ArrayD::zeros(saved.with_seeds(dy));
    let start = op.start.to_usize()?;
    let range = Slice::from(start..start + dy.shape()[1 + op.axis]);
    dx.slice_axis_mut(Axis(1 + op.axis), range).assign(dy);
    Ok(vec![Some(dx)])
}

/// `dx[index of i] += dy[i]` along the axis, which in `dy` is as many axes as the indices have.
fn gather(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axis = 1 + op_as::<Gather>(saved)?.axis;
    let indices = saved.input(1)?.cast_to::<i64>()?;
    let indices = indices.to_plain_array_view::<i64>()?;
    let mut dx = ArrayD::zeros(saved.with_seeds(dy));
    let len = dx.shape()[axis] as i64;
    let by_index = [&dx.shape()[..axis], &[indices.len()], &dx.shape()[axis + 1..]].concat();
    let dy = dy.to_shape(by_index)?;
    for (&index, dy) in indices.iter().zip(dy.axis_iter(Axis(axis))) {
        let index = if index < 0 { index + len } else { index } as usize;
        let mut dx = dx.index_axis_mut(Axis(axis), index);
        dx += &dy;
    }
    Ok(vec![Some(dx), None])
}

/// An op that only moves elements of its first input: run on the numbers of the elements, it says where each
/// output came from, so `dx[source of i] += dy[i]`.
fn moved_elements(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let shape = saved.shapes[0];
    let numbers: Vec<i64> = (0..shape.iter().product::<usize>() as i64).collect();
    let mut inputs = tvec!(tensor1(&numbers).into_shape(shape)?.into_tvalue());
    for index in 1..saved.inputs.len() {
        inputs.push(saved.input(index)?.clone());
    }
    let sources = saved.op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
    let sources = sources.to_plain_array_view::<i64>()?;
    let mut dx = ArrayD::zeros(saved.with_seeds(dy));
    for (mut dx, dy) in dx.outer_iter_mut().zip(dy.outer_iter()) {
        let flat = dx.as_slice_mut().context("zeros are in standard layout")?;
        for (&source, &dy) in sources.iter().zip(dy) {
            flat[source as usize] += dy;
        }
    }
    let mut grads = vec![None; saved.inputs.len()];
    grads[0] = Some(dx);
    Ok(grads)
}
