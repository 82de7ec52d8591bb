//! Operators of the float part that work row by row, along the last axis.

use rayon::prelude::*;
use tract_core::internal::*;

use super::product::rows_of_task;
use super::written;
use crate::integer::math::{self, Activation};

/// The name of [`RowOp::Softmax`].
pub(in crate::integer) const SOFTMAX: &str = "Ptq4vitSoftmax";

/// An operator whose result has the shape of its input.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::integer) enum RowOp {
    /// `LayerNormalization` over the last axis.
    LayerNorm { gamma: Vec<f32>, beta: Vec<f32>, epsilon: f32 },
    /// `Softmax` over the last axis; `or_zero`: what is NaN becomes 0, as some exporters ask of rows that are all
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
        let size = rows_of_task(x.len() / n).max(1) * n;
        let out = written(&shape, |out| {
            out.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(out, x)| self.rows(x, n, out));
            Ok(())
        })?;
        Ok(tvec!(out.into_tvalue()))
    }
}

impl RowOp {
    /// Some rows of n.
    fn rows(&self, x: &[f32], n: usize, out: &mut [f32]) {
        if let Self::LayerNorm { gamma, beta, epsilon } = self {
            for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                math::layer_norm(x, gamma, beta, *epsilon, out);
            }
            return;
        }
        out.copy_from_slice(x);
        match self {
            Self::Activation(activation) => math::activate(out, *activation),
            Self::Softmax { or_zero } => out.chunks_exact_mut(n).for_each(|row| math::softmax(row, *or_zero)),
            Self::LayerNorm { .. } => {}
        }
    }
}

impl TypedOp for RowOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}
