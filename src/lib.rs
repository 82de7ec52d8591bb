//! Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293) as a graph rewrite.

pub mod data;
pub mod error;
pub mod kernel;
pub mod progress;

pub use error::{Error, Result};
