//! The node of a site in tract: what it computes, and the shape of its result.

mod attention;
mod conv;
mod heads;
mod lhs;
mod linear;
mod mlp;
mod product;
mod rows;
#[cfg(test)]
mod tests;
pub(super) mod written;

use std::sync::Arc;

use tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use attention::Attention;
pub(super) use attention::{Operand, ScoreOp, Sizes, Softmax};
use conv::Conv;
use heads::Heads;
use linear::Linear;
use mlp::Mlp;
pub(super) use rows::{RowOp, SOFTMAX};

use super::math::Activation;
use super::site::{Product, Site};
use crate::Result;

/// The name of [`SiteOp`].
pub(super) const SITE: &str = "Ptq4vitSite";

/// One site with its weights packed, and with what directly follows it; or the two sites of an attention or of an MLP.
#[derive(Clone, Debug)]
pub(super) struct SiteOp {
    /// Their indices among the sites of the file.
    pub(super) sites: Vec<usize>,
    compute: Arc<Compute>,
    /// Whether a second input is added to the result.
    residual: bool,
}

enum Compute {
    Linear(Linear),
    Mlp(Mlp),
    Heads(Heads),
    Conv(Conv),
    Attention(Attention),
}

impl SiteOp {
    /// Packs the weights of site number `index`. An error if its sums might not fit the integers of the kernels.
    pub(super) fn new(index: usize, site: &Site) -> Result<Self> {
        let name = &site.info.name;
        let compute = match &site.product {
            Product::Linear { a, weight, bias, outliers } => {
                let linear = Linear::new(name, *a, weight)?;
                Compute::Linear(linear.classifier(bias.as_deref()).with_outliers(outliers.clone()))
            }
            Product::Heads { a, b } => Compute::Heads(Heads::new(a.clone(), b.clone())),
            Product::Conv { a, weight, windows, bias, output } => {
                Compute::Conv(Conv::new(name, *a, weight, *windows, bias.as_deref(), *output)?)
            }
        };
        Ok(Self::of(vec![index], compute))
    }

    fn of(sites: Vec<usize>, compute: Compute) -> Self {
        Self { sites, compute: Arc::new(compute), residual: false }
    }

    fn linear(&self) -> Option<&Linear> {
        match &*self.compute {
            Compute::Linear(linear) if !self.residual => Some(linear),
            _ => None,
        }
    }

    /// A linear layer with a bias per column; `None` if a bias, an activation or a residual follows it already.
    pub(super) fn then_bias(&self, bias: &[f32]) -> Option<Self> {
        Some(Self::of(self.sites.clone(), Compute::Linear(self.linear()?.then_bias(bias)?)))
    }

    /// A linear layer with an activation; `None` if an activation or a residual follows it already.
    pub(super) fn then_activation(&self, activation: Activation) -> Option<Self> {
        Some(Self::of(self.sites.clone(), Compute::Linear(self.linear()?.then(activation)?)))
    }

    /// A linear layer to whose result a second input is added; `None` if one is added already.
    pub(super) fn then_residual(&self) -> Option<Self> {
        self.linear()?;
        Some(Self { residual: true, ..self.clone() })
    }

    /// This linear layer with an activation and `second`, which takes its result, as one node; `None` unless both are such.
    pub(super) fn then_linear(&self, second: &Self) -> Option<Self> {
        let Compute::Linear(of_second) = &*second.compute else { return None };
        let mlp = Mlp::new(self.linear()?, of_second)?;
        let sites = [&self.sites[..], &second.sites[..]].concat();
        Some(Self { residual: second.residual, ..Self::of(sites, Compute::Mlp(mlp)) })
    }

    /// The products of scores and of values, and the Softmax between them, as one node. Its inputs are the values that
    /// Q, K and V come from; its output is `[batch, rows, heads, width]`. `None` unless both are products of heads.
    pub(super) fn attention(
        scores: &Self,
        values: &Self,
        operands: [Operand; 3],
        softmax: Softmax,
        sizes: Sizes,
    ) -> Option<Self> {
        let (Compute::Heads(of_scores), Compute::Heads(of_values)) = (&*scores.compute, &*values.compute)
        else {
            return None;
        };
        let sites = [&scores.sites[..], &values.sites[..]].concat();
        let (scores, values) = (of_scores.clone(), of_values.clone());
        Some(Self::of(sites, Compute::Attention(Attention { scores, values, operands, softmax, sizes })))
    }

    /// Whether it is a product of heads that is not yet part of an attention.
    pub(super) fn is_heads(&self) -> bool {
        matches!(&*self.compute, Compute::Heads(_))
    }

    /// The shape of the result.
    fn output_shape(&self, inputs: &[&[TDim]]) -> TractResult<TVec<TDim>> {
        let plus = |shape: TVec<TDim>, residual: &[&[TDim]]| match residual {
            [] => Ok(shape),
            [residual] if self.residual => {
                ensure!(shape[..] == **residual, "{residual:?} is added to {shape:?}");
                Ok(shape)
            }
            _ => bail!("a quantized product of {} inputs", inputs.len()),
        };
        match (&*self.compute, inputs) {
            (Compute::Linear(op), [x, residual @ ..]) => plus(op.output_shape(x)?, residual),
            (Compute::Mlp(op), [x, residual @ ..]) => plus(op.output_shape(x)?, residual),
            (Compute::Heads(op), [a, b]) => op.output_shape(a, b),
            (Compute::Conv(op), [x]) => op.output_shape(x),
            (Compute::Attention(op), [_, _, _]) => Ok(op.output_shape()),
            _ => bail!("a quantized product of {} inputs", inputs.len()),
        }
    }
}

impl std::fmt::Debug for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Linear(_) => "Linear",
            Self::Mlp(_) => "Mlp",
            Self::Heads(_) => "Heads",
            Self::Conv(_) => "Conv",
            Self::Attention(_) => "Attention",
        })
    }
}

impl std::fmt::Display for SiteOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.compute {
            Compute::Linear(linear) => write!(f, "{linear}")?,
            Compute::Mlp(mlp) => write!(f, "{mlp}")?,
            other => write!(f, "{other:?}")?,
        }
        f.write_str(if self.residual { " + residual" } else { "" })
    }
}

impl PartialEq for SiteOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute) && self.residual == other.residual
    }
}

impl Eq for SiteOp {}

impl Op for SiteOp {
    fn name(&self) -> StaticName {
        SITE.into()
    }

    op_as_typed_op!();
}

impl EvalOp for SiteOp {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let output = match (&*self.compute, &inputs[..]) {
            (Compute::Linear(op), [x]) => op.eval(x, None)?,
            (Compute::Linear(op), [x, residual]) => op.eval(x, Some(residual))?,
            (Compute::Mlp(op), [x]) => op.eval(x, None)?,
            (Compute::Mlp(op), [x, residual]) => op.eval(x, Some(residual))?,
            (Compute::Heads(op), [a, b]) => op.eval(a, b)?,
            (Compute::Conv(op), [x]) => op.eval(x)?,
            (Compute::Attention(op), [q, k, v]) => op.eval([q, k, v])?,
            _ => bail!("a quantized product of {} inputs", inputs.len()),
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for SiteOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        if let Some(input) = inputs.iter().find(|input| input.datum_type != f32::datum_type()) {
            bail!("a quantized product of {:?}, expected f32", input.datum_type);
        }
        let shapes: TVec<TVec<TDim>> = inputs.iter().map(|input| input.shape.to_tvec()).collect();
        let shapes: TVec<&[TDim]> = shapes.iter().map(|shape| &shape[..]).collect();
        Ok(tvec!(f32::fact(self.output_shape(&shapes)?)))
    }

    as_op!();
}

/// [`SiteOp`] while shapes are being inferred.
#[derive(Clone, Debug)]
pub(super) struct SiteExpansion(pub(super) SiteOp);

impl Expansion for SiteExpansion {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.0.clone(), inputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.given_all(inputs.iter().map(|input| &input.shape), move |s, shapes| {
            let shapes: TVec<&[TDim]> = shapes.iter().map(|shape| &shape[..]).collect();
            s.equals(&outputs[0].shape, self.0.output_shape(&shapes)?)
        })
    }
}
