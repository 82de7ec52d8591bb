//! The table of vector-Jacobian products: one op, one rule, one formula.
//!
//! A rule maps `dy` to the gradient of each needed input, in the shape to which that input was broadcast; the
//! driver sums back over the broadcast axes. Both have one axis before those of the values: S seeds at once.

mod elementwise;
mod layout;
mod reduce;
mod scatter;

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::nn::GridSample;
use tract_ndarray::{ArrayD, ArrayViewD};

use self::elementwise::{
    binary, erf_slope, gelu_tanh_slope, hard_swish_slope, leaky_relu_slope, select, silu_slope, sum, unary,
};
use self::layout::{concat, gather, move_axis, moved_elements, pad, same_elements, slice, top_k};
use self::reduce::{cumulative_sum, extreme, mean_of_squares, product, softmax, summed};
use self::scatter::{scatter_elements, scatter_nd};
use super::{einsum, grid_sample, resize, windows};

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
    pub(super) fn input(&self, index: usize) -> TractResult<&TValue> {
        self.inputs[index].as_ref().with_context(|| format!("input {index} was not kept"))
    }

    pub(super) fn input_array(&self, index: usize) -> TractResult<ArrayViewD<'_, f32>> {
        self.input(index)?.to_plain_array_view()
    }

    fn output_array(&self) -> TractResult<ArrayViewD<'_, f32>> {
        self.output.as_ref().context("the output was not kept")?.to_plain_array_view()
    }

    /// The shape of the first input's gradients, one for each seed of `dy`.
    pub(super) fn with_seeds(&self, dy: &ArrayD<f32>) -> Vec<usize> {
        [&dy.shape()[..1], self.shapes[0]].concat()
    }
}

pub(super) type Grads = TractResult<Vec<Option<ArrayD<f32>>>>;
/// Makes the gradients in place of `dy` where it can.
pub(super) type Rule = fn(ArrayD<f32>, &Saved) -> Grads;

/// By tract's name of the op (for binary and elementwise ops, of the wrapped one).
#[rustfmt::skip]
pub(super) const RULES: &[(&str, Keep, Rule)] = &[
    ("EinSum",  Keep::Others, |dy, s| einsum::vjp(op_as::<EinSum>(s)?, &dy, &s.shapes, &s.inputs, s.needed)),
    ("Conv",    Keep::Rest, |dy, s| windows::conv(&dy, s)),
    ("Deconv",  Keep::Rest, |dy, s| windows::deconv(&dy, s)),
    ("SumPool", Keep::Nothing, |dy, s| windows::sum_pool(&dy, s)),
    ("MaxPool", Keep::Inputs, |dy, s| windows::max_pool(&dy, s)),
    ("Resize",  Keep::Rest, resize::vjp),
    ("GridSample", Keep::Inputs, |dy, s| grid_sample::vjp(&dy, s)),
    ("Add",     Keep::Nothing, |dy, s| Ok(sum(dy, s, |dy| dy))),
    ("Sub",     Keep::Nothing, |dy, s| Ok(sum(dy, s, |dy| -dy))),
    ("Mul",     Keep::Others, |dy, s| binary(dy, s, |dy, _, b| dy * b, |dy, a, _| dy * a)),
    ("Div",     Keep::Inputs, |dy, s| binary(dy, s, |dy, _, b| dy / b, |dy, a, b| -dy * a / (b * b))),
    ("Rem",     Keep::Inputs, |dy, s| binary(dy, s, |dy, _, _| dy, |dy, a, b| -dy * (a / b).trunc())),
    ("Pow",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| dy * b * a.powf(b - 1.0), |dy, a, b| dy * a.powf(b) * a.ln())),
    ("Min",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| if a <= b { dy } else { 0.0 }, |dy, a, b| if a <= b { 0.0 } else { dy })),
    ("Max",     Keep::Inputs, |dy, s| binary(dy, s, |dy, a, b| if a >= b { dy } else { 0.0 }, |dy, a, b| if a >= b { 0.0 } else { dy })),
    ("Neg",     Keep::Nothing, |dy, _| Ok(vec![Some(-dy)])),
    ("Abs",     Keep::Inputs, |dy, s| unary(dy, s, f32::signum)),
    // Finite, because where Elu and Celu drop an overflow, dy is 0, and 0·∞ is no number.
    ("Exp",     Keep::Output, |dy, s| unary(dy, s, |y| y.min(f32::MAX))),
    ("Ln",      Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / x)),
    ("Square",  Keep::Inputs, |dy, s| unary(dy, s, |x| 2.0 * x)),
    ("Sqrt",    Keep::Output, |dy, s| unary(dy, s, |y| 0.5 / y)),
    ("Rsqrt",   Keep::Output, |dy, s| unary(dy, s, |y| -0.5 * y * y * y)),
    ("Recip",   Keep::Output, |dy, s| unary(dy, s, |y| -y * y)),
    ("Erf",     Keep::Inputs, |dy, s| unary(dy, s, erf_slope)),
    ("Sin",     Keep::Inputs, |dy, s| unary(dy, s, f32::cos)),
    ("Cos",     Keep::Inputs, |dy, s| unary(dy, s, |x| -x.sin())),
    ("Tan",     Keep::Output, |dy, s| unary(dy, s, |y| 1.0 + y * y)),
    ("Asin",    Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / (1.0 - x * x).sqrt())),
    ("Acos",    Keep::Inputs, |dy, s| unary(dy, s, |x| -1.0 / (1.0 - x * x).sqrt())),
    ("Atan",    Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / (1.0 + x * x))),
    ("Sinh",    Keep::Inputs, |dy, s| unary(dy, s, f32::cosh)),
    ("Cosh",    Keep::Inputs, |dy, s| unary(dy, s, f32::sinh)),
    ("Asinh",   Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / (x * x + 1.0).sqrt())),
    ("Acosh",   Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / (x * x - 1.0).sqrt())),
    ("Atanh",   Keep::Inputs, |dy, s| unary(dy, s, |x| 1.0 / (1.0 - x * x))),
    ("Tanh",    Keep::Output, |dy, s| unary(dy, s, |y| 1.0 - y * y)),
    ("Sigmoid", Keep::Output, |dy, s| unary(dy, s, |y| y * (1.0 - y))),
    ("Silu",    Keep::Inputs, |dy, s| unary(dy, s, silu_slope)),
    ("HardSwish", Keep::Inputs, |dy, s| unary(dy, s, hard_swish_slope)),
    ("LeakyRelu", Keep::Inputs, |dy, s| unary(dy, s, leaky_relu_slope(s)?)),
    ("GeluApproximate", Keep::Inputs, |dy, s| unary(dy, s, gelu_tanh_slope)),
    // Flat almost everywhere: no gradient.
    ("Floor",   Keep::Nothing, |_, _| Ok(vec![None])),
    ("Ceil",    Keep::Nothing, |_, _| Ok(vec![None])),
    ("Round",   Keep::Nothing, |_, _| Ok(vec![None])),
    ("RoundHalfToEven", Keep::Nothing, |_, _| Ok(vec![None])),
    ("Sign",    Keep::Nothing, |_, _| Ok(vec![None])),
    ("Identity", Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
    // tract refuses those of training.
    ("Dropout", Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
    ("Cast",    Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
    ("Iff",     Keep::First, |dy, s| select(&dy, s)),
    ("Softmax", Keep::Output, softmax),
    ("Reduce<Sum>", Keep::Nothing, |dy, s| Ok(vec![Some(summed(&dy, s)?.to_owned())])),
    ("Reduce<MeanOfSquares>", Keep::Inputs, |dy, s| mean_of_squares(&dy, s)),
    ("Reduce<Prod>", Keep::Inputs, |dy, s| product(&dy, s)),
    ("Reduce<Max>", Keep::Inputs, |dy, s| extreme(&dy, s)),
    ("Reduce<Min>", Keep::Inputs, |dy, s| extreme(&dy, s)),
    ("CumSum",  Keep::Nothing, cumulative_sum),
    ("Reshape", Keep::Nothing, same_elements),
    ("AddAxis", Keep::Nothing, same_elements),
    ("RmAxis",  Keep::Nothing, same_elements),
    ("MoveAxis", Keep::Nothing, move_axis),
    ("Concat",  Keep::Nothing, |dy, s| concat(&dy, s)),
    ("Pad",     Keep::Nothing, |dy, s| pad(&dy, s)),
    ("Slice",   Keep::Nothing, |dy, s| slice(&dy, s)),
    ("Gather",  Keep::Rest, |dy, s| gather(&dy, s)),
    ("StridedSlice", Keep::Rest, |dy, s| moved_elements(&dy, s, &[0])),
    ("Tile",    Keep::Nothing, |dy, s| moved_elements(&dy, s, &[0])),
    ("Trilu",   Keep::Rest, |dy, s| moved_elements(&dy, s, &[0])),
    ("GatherElements", Keep::Rest, |dy, s| moved_elements(&dy, s, &[0])),
    ("GatherNd", Keep::Rest, |dy, s| moved_elements(&dy, s, &[0])),
    ("ScatterElements", Keep::Inputs, |dy, s| scatter_elements(&dy, s)),
    ("ScatterNd", Keep::Inputs, |dy, s| scatter_nd(&dy, s)),
    ("Topk",    Keep::Inputs, |dy, s| top_k(&dy, s)),
    // What was broadcast is summed by the driver.
    ("MultiBroadcastTo", Keep::Nothing, |dy, _| Ok(vec![Some(dy)])),
];

/// The rule of `op`; `None` also for a form of it that the rule does not know.
pub(super) fn find(op: &dyn TypedOp) -> Option<(Keep, Rule)> {
    let op_name = op.name();
    let (_, keep, rule) = RULES.iter().find(|(name, ..)| *name == op_name)?;
    let known = op.downcast_ref::<EinSum>().is_none_or(einsum::is_differentiable)
        && op.downcast_ref::<GridSample>().is_none_or(grid_sample::is_differentiable);
    known.then_some((*keep, *rule))
}

/// The op itself.
pub(super) fn op_as<'a, O: TypedOp>(saved: &Saved<'a>) -> TractResult<&'a O> {
    saved.op.downcast_ref::<O>().context("an op of another kind bears the name of the rule's")
}
