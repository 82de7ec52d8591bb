//! The float model in tract: ONNX value name → outlet; forward taps and gradients.

mod float;
mod import;
mod recording;

pub use float::FloatModel;
pub use import::{InputSpec, Outputs, input_spec, outputs};
pub use recording::{Recorded, Session};
