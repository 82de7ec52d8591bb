//! The float model as the stages after reading expect it: computing in f32, weights constant, attention in the open.
//!
//! What was changed on the way in and shows from outside, the types of inputs and outputs, is put back on the way out.

mod attention;
mod constants;
mod float;

use crate::Result;
use crate::onnx::{DataType, Graph, Model};

/// A model that computes in f32, and what its inputs and outputs were.
#[derive(Clone, Debug)]
pub struct Normalized {
    /// The model to work on.
    pub model: Model,
    /// The inputs and outputs that were FLOAT16 or BFLOAT16, by name.
    types: Vec<(String, DataType)>,
}

impl Normalized {
    /// Makes FLOAT16 and BFLOAT16 FLOAT, whose every value they have; makes parts and other layouts of constants
    /// constants; and takes `Attention` of opset 23 apart to `MatMul` and Softmax. A model without these stays as it is.
    ///
    /// [`Error::Unsupported`](crate::Error::Unsupported) names an attention with what no vision transformer has.
    pub fn new(mut model: Model) -> Result<Self> {
        let types = float::widen(&mut model)?;
        for step in [constants::fold, attention::expand] {
            let edits = step(&Graph::new(&model)?, &model)?;
            if let Some(edits) = edits {
                edits.apply(&mut model)?;
            }
        }
        Ok(Self { model, types })
    }

    /// Gives a model made from [`model`](Self::model) the inputs and outputs of the original: a Cast behind each input
    /// and before each output that was not FLOAT.
    pub fn restore_types(&self, model: &mut Model) -> Result<()> {
        float::narrow(model, &self.types)
    }
}
