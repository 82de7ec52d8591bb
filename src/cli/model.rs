//! How the commands read a model, and what runs it.

use std::path::Path;

use bytesize::ByteSize;
use onnx_ptq4vit::Result;
use onnx_ptq4vit::engine::Engine;
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::onnx::Limits;
use onnx_ptq4vit::prepare::Prepared;

/// How a model file is read.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// The largest tensor that a node of the model may make: a file is not trusted to take all memory
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    max_tensor: ByteSize,
}

impl ModelArgs {
    /// The model at `path`, as every command works on it.
    pub(super) fn read(&self, path: &Path) -> Result<Prepared> {
        let tensor_bytes = usize::try_from(self.max_tensor.0).unwrap_or(usize::MAX);
        Prepared::open_within(path, Limits { tensor_bytes })
    }
}

/// What runs `model` on images of `[C, H, W]`: integers for a quantized one, tract for a float one.
pub(super) fn engine(model: &Prepared, image: [usize; 3]) -> Result<Box<dyn Engine>> {
    Ok(if model.is_quantized() {
        Box::new(Runner::with_image(model, image)?)
    } else {
        Box::new(model.float_engine(image)?)
    })
}
