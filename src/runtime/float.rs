//! The float model on tract's optimized plan.

use std::sync::{Mutex, PoisonError};

use ndarray::Array4;
use tract_onnx::prelude::*;

use super::{runnable, running, tapped};
use crate::Result;
use crate::engine::{Arithmetic, Engine, Tapped};
use crate::onnx::Model;

/// A float model in tract, optimized for images of one size: see
/// [`Prepared::float_engine`](crate::Prepared::float_engine).
pub struct FloatEngine {
    model: Model,
    output: String,
    shape: [usize; 4],
    /// By the values that it gives beside the output; made when it is first needed.
    plans: Mutex<Vec<(Vec<String>, Arc<TypedSimplePlan>)>>,
}

impl FloatEngine {
    /// The engine that gives the value `output` of `model`, for inputs of `shape`.
    pub(crate) fn new(model: Model, output: String, shape: [usize; 4]) -> Result<Self> {
        let this = Self { model, output, shape, plans: Mutex::default() };
        this.plan(&[])?;
        Ok(this)
    }

    fn plan(&self, taps: &[&str]) -> Result<Arc<TypedSimplePlan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = plans.iter().find(|(of, _)| of == taps) {
            return Ok(plan.clone());
        }
        let outputs = [&[&*self.output], taps].concat();
        let typed = tapped(&self.model, self.shape, &outputs)?;
        let plan = runnable(typed)?;
        // The one for the output alone, and the last one with taps.
        plans.truncate(1);
        plans.push((taps.iter().map(ToString::to_string).collect(), plan.clone()));
        Ok(plan)
    }
}

impl Engine for FloatEngine {
    fn input_shape(&self) -> [usize; 4] {
        self.shape
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Float
    }

    fn pass(&self, batch: Array4<f32>, taps: &[&str]) -> Result<Tapped> {
        let plan = self.plan(taps)?;
        running(|| {
            let mut outputs = plan.run(tvec!(batch.into_tensor().into_tvalue()))?.into_iter();
            let mut next = || {
                let value = outputs.next().expect("the plan gives the output and every tap");
                Ok(value.cast_to::<f32>()?.to_plain_array_view::<f32>()?.to_owned())
            };
            Ok(Tapped { output: next()?, values: taps.iter().map(|_| next()).collect::<TractResult<_>>()? })
        })
    }
}

impl std::fmt::Debug for FloatEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FloatEngine")
            .field("input", &self.shape)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}
