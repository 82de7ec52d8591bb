//! The float model as the stages after reading expect it: computing in f32, attention in the open.
//!
//! What was changed on the way in and shows from outside, the types of inputs and outputs, is put back on the way out.

mod attention;
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
    /// Takes `model` apart where later stages cannot see inside: `Attention` of opset 23 becomes `MatMul` and Softmax.
    /// FLOAT16 and BFLOAT16 become FLOAT, whose every value they have. A model that has neither stays as it is.
    ///
    /// [`Error::Unsupported`](crate::Error::Unsupported) names an attention with what no vision transformer has.
    pub fn new(mut model: Model) -> Result<Self> {
        let types = float::widen(&mut model)?;
        let edits = attention::expand(&Graph::new(&model)?, &model)?;
        if let Some(edits) = edits {
            edits.apply(&mut model)?;
        }
        Ok(Self { model, types })
    }

    /// Gives a model made from [`model`](Self::model) the inputs and outputs of the original: a Cast behind each input
    /// and before each output that was not FLOAT.
    pub fn restore_types(&self, model: &mut Model) -> Result<()> {
        float::narrow(model, &self.types)
    }
}
