//! What runs the file, and so which of the forms is written.

use serde::Deserialize;

use super::TwinForm;

/// The runtime that a quantized file is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// What ONNX Runtime, onnxruntime-web, `OpenVINO` and this crate's [`Runner`](crate::Runner) all take.
    #[default]
    Generic,
    /// ONNX Runtime: each twin matmul is one node, defined by a model-local function.
    OnnxRuntime,
    /// `OpenVINO`, which reads no model-local functions.
    OpenVino,
    /// `TensorRT`, whose parser has neither UINT8 codes nor UINT32 constants.
    TensorRt,
    /// onnxruntime-web.
    Web,
}

impl Target {
    /// How twin matmuls are written for it.
    pub fn twin_form(self) -> TwinForm {
        match self {
            Self::OnnxRuntime => TwinForm::Function,
            Self::Generic | Self::OpenVino | Self::Web => TwinForm::Inline,
            Self::TensorRt => TwinForm::Int8,
        }
    }

    /// Whether weights are [packed](super::pack) for it. `TensorRT` does not read the words; onnxruntime-web takes twice the time
    /// to load them, and a file that is compressed for the way there is hardly smaller.
    pub fn packs(self) -> bool {
        !matches!(self, Self::TensorRt | Self::Web)
    }
}
