//! Models that this crate cannot take apart, told by their operators.

use crate::onnx::Graph;
use crate::{Error, Result};

/// An error that names the first node of a quantized model, or of a domain that no one else reads.
pub(super) fn refuse(graph: &Graph) -> Result<()> {
    for (_, node) in graph.nodes() {
        if node.is_quantized() {
            let why = format!("the model is already quantized ({}); give the float model", node.op_type());
            return Err(Error::model(node.label(), why));
        }
        if !node.is_standard() {
            let why = match graph.has_function(node.domain(), node.op_type()) {
                true => {
                    "it is a function of the model: inline functions first (onnx.inliner.inline_local_functions)"
                }
                false => {
                    "an operator of one runtime, which fused others to it: export the model again, and quantize it \
                     before any other tool optimizes it"
                }
            };
            return Err(Error::unsupported(node.label(), format!("domain `{}`: {why}", node.domain())));
        }
    }
    Ok(())
}
