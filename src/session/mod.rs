//! The float model in tract: ONNX value name → outlet; forward taps and gradients.

mod float;
mod recording;
mod spec;

pub use float::FloatModel;
pub use recording::{Recorded, Session};
pub use spec::{InputSpec, Outputs, input_spec, outputs};

use tract_onnx::prelude::TypedModel;
use tract_onnx::tract_hir::internal::TractErrorContext as _;

use crate::onnx::Model;
use crate::{Result, import};

/// tract's typed graph of `model` whose outputs are the values named `taps`.
fn tapped(model: &Model, shape: [usize; 4], taps: &[String]) -> Result<TypedModel> {
    import::typed(model, shape, &|inference, outlets| {
        let outlet =
            |tap: &String| outlets.get(tap).copied().with_context(|| format!("no value is named `{tap}`"));
        let outlets = taps.iter().map(outlet).collect::<Result<Vec<_>, _>>()?;
        inference.select_output_outlets(&outlets)
    })
}
