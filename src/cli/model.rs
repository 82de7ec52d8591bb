//! Questions to a model that several commands ask.

use std::path::Path;

use bytesize::ByteSize;
use onnx_ptq4vit::normalize::Normalized;
use onnx_ptq4vit::onnx::{DOMAIN, Graph, Model, NodeProto, tensor};
use onnx_ptq4vit::plan::{Plan, RhsOperand};
use onnx_ptq4vit::{Error, Result};

/// How a model file is read.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// The largest tensor that a node of the model may make: a file is not trusted to take all memory
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    max_tensor: ByteSize,
}

impl ModelArgs {
    /// The model at `path`, as every command works on it.
    pub(super) fn read(&self, path: &Path) -> Result<Normalized> {
        let mut model = Model::read(path)?;
        model.limits.tensor_bytes = usize::try_from(self.max_tensor.0).unwrap_or(usize::MAX);
        Normalized::new(model)
    }
}

/// Whether a node computes on integer codes, or makes or reads them.
pub(super) fn is_quantized(graph: &Graph) -> bool {
    let quantized = |node: &NodeProto| node.op_type().ends_with("QuantizeLinear") || node.domain() == DOMAIN;
    graph.nodes().any(|(_, node)| quantized(node))
}

/// An error that names the first tensor with a NaN, or the first weight to quantize with an infinity. (Elsewhere an
/// infinity may be meant: attention masks have them.)
pub(super) fn ensure_finite(model: &Model, graph: &Graph, plan: &Plan) -> Result<()> {
    for site in &plan.sites {
        if let RhsOperand::Weight { value, .. } = &site.b
            && let Some(weight) = graph.constant(value)
            && let Some(at) = tensor::first_non_finite(weight)
        {
            return Err(Error::model(
                format!("weight `{value}` of site `{}`", site.name),
                format!("element {at} is not finite"),
            ));
        }
    }
    for initializer in &model.graph().initializer {
        if tensor::first_non_finite(initializer).is_some()
            && let Some(at) = tensor::f32s(initializer)?.iter().position(|x| x.is_nan())
        {
            return Err(Error::model(
                format!("tensor `{}`", initializer.name()),
                format!("element {at} is NaN"),
            ));
        }
    }
    Ok(())
}
