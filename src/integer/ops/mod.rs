//! The node of a site in tract: what it computes, and what it says of its result's shape.

mod conv;
mod heads;
mod linear;
mod product;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::Expansion;

use conv::Conv;
use heads::Heads;
use linear::Linear;

use super::site::{Product, Site};
use crate::Result;

/// One site, its weights packed.
#[derive(Clone, Debug)]
pub(super) struct SiteOp {
    /// Its place among the sites of the file.
    pub(super) index: usize,
    compute: Arc<Compute>,
}

enum Compute {
    Linear(Linear),
    Heads(Heads),
    Conv(Conv),
}

impl SiteOp {
    /// Packs the weights of site number `index`. An error if its sums might not fit the integers of the kernels.
    pub(super) fn new(index: usize, site: &Site) -> Result<Self> {
        let name = &site.info.name;
        let compute = match &site.product {
            Product::Linear { a, weight, bias, outliers } => {
                let linear = Linear::new(name, *a, weight)?;
                Compute::Linear(linear.with_bias(bias.clone()).with_outliers(outliers.clone()))
            }
            Product::Heads { a, b } => Compute::Heads(Heads::new(a.clone(), b.clone())),
            Product::Conv { a, weight, kernel, bias } => {
                Compute::Conv(Conv::new(Linear::new(name, *a, weight)?, *kernel, bias.clone()))
            }
        };
        Ok(Self { index, compute: Arc::new(compute) })
    }

    /// The shape of the result.
    fn output_shape(&self, inputs: &[&[TDim]]) -> TractResult<TVec<TDim>> {
        match (&*self.compute, inputs) {
            (Compute::Linear(op), [x]) => op.output_shape(x),
            (Compute::Heads(op), [a, b]) => op.output_shape(a, b),
            (Compute::Conv(op), [x]) => op.output_shape(x),
            _ => bail!("a quantized product of {} inputs", inputs.len()),
        }
    }
}

impl std::fmt::Debug for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Linear(_) => "Linear",
            Self::Heads(_) => "Heads",
            Self::Conv(_) => "Conv",
        })
    }
}

impl PartialEq for SiteOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compute, &other.compute)
    }
}

impl Eq for SiteOp {}

impl Op for SiteOp {
    fn name(&self) -> StaticName {
        "Ptq4vitSite".into()
    }

    op_as_typed_op!();
}

impl EvalOp for SiteOp {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let output = match (&*self.compute, &inputs[..]) {
            (Compute::Linear(op), [x]) => op.eval(x)?,
            (Compute::Heads(op), [a, b]) => op.eval(a, b)?,
            (Compute::Conv(op), [x]) => op.eval(x)?,
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
