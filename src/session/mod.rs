//! The float model in tract: ONNX value name → outlet; forward taps and gradients.

mod float;
mod import;
mod recording;

pub use float::FloatModel;
pub use import::{InputSpec, input_spec, output_name};
pub use recording::{Recorded, Session};
