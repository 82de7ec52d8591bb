//! Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293) as a graph rewrite.

pub mod error;
pub mod onnx;
pub mod progress;

pub use error::{Error, Result};
