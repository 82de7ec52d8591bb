//! Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293) as a graph rewrite.
//!
//! A float model and a few images go in, and out comes an ONNX file that stock runtimes and the [`Runner`] of this crate
//! run with integer matrix products:
//!
//! ```no_run
#![doc = include_str!("../docs/example.rs")]
//! ```
//!
//! The files that are read are not trusted: what they ask for is bounded, and each [`Error`] names the place.
//! ARCHITECTURE.md in the repository says how the crate is made.

#[doc(hidden)]
pub mod analyze;
#[doc(hidden)]
pub mod calibrate;
#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod elementary;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod integer;
#[doc(hidden)]
pub mod kernel;
#[doc(hidden)]
pub mod onnx;
#[cfg(feature = "onnxruntime")]
#[doc(hidden)]
pub mod onnxruntime;
#[cfg(feature = "html")]
#[doc(hidden)]
pub mod page;
#[doc(hidden)]
pub mod pattern;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod prepare;
#[doc(hidden)]
pub mod preprocessing;
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod quant;
#[doc(hidden)]
pub mod quantize;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod windows;

pub use calibrate::Calibration;
pub use check::{Comparison, Thresholds, Verdict};
pub use data::{Dataset, Preprocess};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use integer::Runner;
pub use ndarray;
#[cfg(feature = "onnxruntime")]
pub use onnxruntime::{Library as OnnxRuntimeLibrary, OnnxRuntime};
pub use prepare::Prepared;
pub use progress::Progress;
pub use quantize::{Quantize, Quantized, check};
pub use runtime::FloatEngine;

/// The choices that [`Quantize`] and [`Preprocess`] take.
pub mod options {
    pub use crate::calibrate::{Gradient, Metric, Preset, WeightScales};
    pub use crate::data::{Anchor, Color, Interpolation, Resize, Selection, Values};
    pub use crate::export::{Target, TwinForm};
    pub use crate::onnx::Limits;
    pub use crate::prepare::{InputValue, Task};
}

/// What [`Prepared`], [`Engine`] and [`check`] tell.
pub mod results {
    pub use crate::check::{
        Accuracy, Answer, Boxes, Classifier, Criterion, Drop, Features, Labels, NotableImage, Numbers,
        OutputFigures, Precision, SiteFigures, Sqnr, TopK,
    };
    pub use crate::engine::{Arithmetic, Detector, OperatorTime, Reading, Scored, Tapped};
    pub use crate::prepare::{Affine, Extra, InputSpec, Layout, Outputs, Pixels};
}
