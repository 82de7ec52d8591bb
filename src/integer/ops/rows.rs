//! Float operators that work row by row, along the last axis.

use tract_core::internal::*;

use super::product::rows_of_task;
use super::written::{self, Unwritten};
use crate::integer::math::{self, Activation};

/// The name of [`RowOp::Softmax`].
pub(in crate::integer) const SOFTMAX: &str = "Ptq4vitSoftmax";

/// An operator whose result has the shape of its input.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::integer) enum RowOp {
    /// `LayerNormalization` over the last axis.
    LayerNorm { gamma: Vec<f32>, beta: Vec<f32>, epsilon: f32 },
    /// `Softmax` over the last axis. With `or_zero`, NaN becomes 0: some exporters do this for rows that are wholly
    /// masked.
    Softmax { or_zero: bool },
    /// Element by element.
    Activation(Activation),
}

impl Eq for RowOp {}

impl Op for RowOp {
    fn name(&self) -> StaticName {
        match self {
            Self::LayerNorm { .. } => "Ptq4vitLayerNorm",
            Self::Softmax { .. } => SOFTMAX,
            Self::Activation(_) => "Ptq4vitActivation",
        }
        .into()
    }

    op_as_typed_op!();
}

impl EvalOp for RowOp {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = args_1!(inputs);
        let shape: TVec<usize> = x.shape().into();
        let n = shape.last().copied().unwrap_or(1).max(1);
        let plain = x.try_as_plain_ram()?;
        let x = plain.as_slice::<f32>()?;
        let size = rows_of_task(x.len() / n) * n;
        let out = written::tensor(&shape, |out| {
            written::by_task(out, size, |task, out| Ok(self.rows(&x[task * size..][..out.len()], n, out)))
        })?;
        Ok(tvec!(out.into_tvalue()))
    }
}

impl RowOp {
    /// The results of some rows of length n.
    fn rows<'o>(&self, x: &[f32], n: usize, out: &'o mut Unwritten) -> &'o mut [f32] {
        match self {
            Self::LayerNorm { gamma, beta, epsilon } => math::layer_norm(x, gamma, beta, *epsilon, out),
            Self::Softmax { or_zero } => {
                let out = out.write_copy_of_slice(x);
                out.chunks_exact_mut(n).for_each(|row| math::softmax(row, *or_zero));
                out
            }
            Self::Activation(activation) => {
                let out = out.write_copy_of_slice(x);
                math::activate(out, *activation);
                out
            }
        }
    }
}

impl TypedOp for RowOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}
