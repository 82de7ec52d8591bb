//! Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293) as a graph rewrite.

pub mod autodiff;
pub mod calibrate;
pub mod check;
pub mod data;
pub mod error;
pub mod export;
pub mod files;
pub mod import;
pub mod integer;
pub mod kernel;
pub mod normalize;
pub mod onnx;
pub mod pattern;
pub mod plan;
pub mod progress;
pub mod quant;
pub mod report;
pub mod session;

pub use error::{Error, Result};
