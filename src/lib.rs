//! Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293) as a graph rewrite.

pub mod calibrate;
pub mod check;
pub mod data;
pub mod engine;
pub mod error;
pub mod export;
pub mod files;
pub mod integer;
pub mod kernel;
pub mod onnx;
pub mod pattern;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod quant;
pub mod report;
pub mod runtime;

pub use error::{Error, Result};
