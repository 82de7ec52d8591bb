//! The float model on tract's optimized plan, for comparison.

use ndarray::ArrayD;
use tract_onnx::prelude::*;

use super::tapped;
use crate::error::guarded;
use crate::import;
use crate::onnx::Model;
use crate::{Error, Result};

/// An optimized model that runs batches of one shape.
pub struct FloatModel {
    plan: Arc<TypedSimplePlan>,
}

impl FloatModel {
    /// Imports `model` for inputs of `shape`; a run gives the values named `taps`, in their order.
    pub fn new(model: &Model, shape: [usize; 4], taps: &[String]) -> Result<Self> {
        let plan = import::optimized(tapped(model, shape, taps)?)?.into_runnable();
        Ok(Self { plan: plan.map_err(|e| Error::unsupported("tract", format!("{e:#}")))? })
    }

    /// The taps for one batch `[N, C, H, W]`.
    pub fn run(&self, input: ArrayD<f32>) -> Result<Vec<ArrayD<f32>>> {
        let failed = |e: TractError| Error::model("running the model", format!("{e:#}"));
        let outputs = guarded(|| self.plan.run(tvec!(input.into_tensor().into_tvalue())))
            .map_err(|panic| Error::model("running the model", panic))?
            .map_err(failed)?;
        outputs
            .into_iter()
            .map(|value| Ok(value.to_plain_array_view::<f32>().map_err(failed)?.to_owned()))
            .collect()
    }
}
