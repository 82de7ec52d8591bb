//! What is quantized, and what is left in float and why: the patterns of vision transformers.

mod activations;
mod attention;
mod axes;
mod bias;
mod cost;
mod exclude;
mod foreign;
mod heads;
mod image;
mod norm;
mod range;
mod roles;
mod sites;

use ndarray::ArrayD;
use serde::Serialize;

pub use activations::Activation;
pub use bias::{Bias, BiasPlace};
pub use cost::Multiplications;
pub use exclude::{blocks, named};
pub use heads::{Heads, ScoresLink, Source, ValuesLink};
pub use norm::{Norm, RowConstant};
pub use sites::{ensure_finite, plan};

use crate::onnx::{Graph, NodeId, tensor};
use crate::windows::Windows;
use crate::{Error, Result};

/// Every decision about one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is quantized, in the order of the graph.
    pub sites: Vec<Site>,
    /// What could have been, and is not.
    pub float: Vec<FloatNode>,
    /// What is known of the attention between the sites.
    pub heads: Heads,
}

/// One matrix product to quantize.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The node's name, or its output's where it has none.
    pub name: String,
    /// The `MatMul`, Gemm or Conv.
    pub node: NodeId,
    /// Its place in the transformer.
    pub kind: SiteKind,
    /// The name of the lhs's value (of a Conv: its input).
    pub a: String,
    /// What makes the lhs.
    pub a_kind: LhsSource,
    /// The rhs.
    pub b: RhsOperand,
    /// The name of the node's output.
    pub output: String,
    /// What is added to the product.
    pub bias: Option<Bias>,
}

/// The place of a site in the transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// The convolution that embeds the patches, or one whose windows lie side by side as patches do.
    Patch,
    /// A convolution whose windows overlap, are padded, or see a group of the channels.
    Conv,
    /// The projection to Q, K and V in one.
    Qkv,
    /// The projection to Q alone.
    Q,
    /// The projection to K alone.
    K,
    /// The projection to V alone.
    V,
    /// `Q·Kᵀ`.
    Scores,
    /// `softmax(·)·V`, or `V·softmax(·)`.
    Values,
    /// Any other product of two values that depend on the image.
    Product,
    /// The projection after attention.
    Proj,
    /// The linear layer before the activation function.
    Fc1,
    /// The linear layer after it.
    Fc2,
    /// The classifier.
    Head,
    /// Any other linear layer.
    Linear,
}

/// What makes the lhs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LhsSource {
    /// Nothing of note.
    Plain,
    /// A Softmax, perhaps with its axes moved, or gated: the elements are from 0 to 1.
    Softmax,
    /// An activation function with a short negative tail.
    Activation(Activation),
}

/// The rhs of a site.
#[derive(Clone, Debug, PartialEq)]
pub enum RhsOperand {
    /// A constant.
    Weight {
        /// The value that holds it.
        value: String,
        /// Its axes.
        layout: WeightLayout,
        /// What has a scale of its own, where weights have one per tensor.
        scales: ScaleOf,
    },
    /// A value `[…, K, N]` computed at run time.
    Activation {
        /// Its name.
        value: String,
        /// Are the heads the axis before the two of the matrices? See [`Site::heads`].
        by_head: bool,
    },
}

/// What of a weight has a scale of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleOf {
    /// All of it.
    Tensor,
    /// Each third of its columns, which make Q, K and V.
    Thirds,
    /// Each column: batch normalization was folded into a Conv, and made the channels unlike each other.
    Channel,
}

/// The axes of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[K, N]`: `MatMul`, Gemm.
    Kn,
    /// `[N, K]`: Gemm with `transB`.
    Nk,
    /// `[N, C/groups, kh, kw]` with K = C/groups·kh·kw: Conv.
    Conv(Windows),
}

/// A node that stays in float.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FloatNode {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// Its share of the multiplications of the model in percent, if it is a product and they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// The node, if it is a product.
    #[serde(skip)]
    pub product: Option<NodeId>,
}

impl Site {
    /// The windows of a Conv.
    pub fn windows(&self) -> Option<&Windows> {
        match &self.b {
            RhsOperand::Weight { layout: WeightLayout::Conv(windows), .. } => Some(windows),
            _ => None,
        }
    }

    /// The heads of operands of these shapes, each with a scale of its own: the axis before the two of the matrices. One
    /// for all where another axis is there, such as windows, whose number is that of one image size; where heads and images
    /// lie in one axis; and where one operand serves several matrices of the other.
    pub fn heads(&self, a: &[usize], b: &[usize]) -> usize {
        match (&self.b, a, b) {
            (RhsOperand::Activation { by_head: true, .. }, [of_a @ .., _, _], [of_b @ .., _, _])
                if of_a.len() > 1 && of_a == of_b =>
            {
                of_a[of_a.len() - 1]
            }
            _ => 1,
        }
    }

    /// Whether the lhs is made of the pixels of the image alone.
    pub fn takes_pixels(&self, graph: &Graph) -> bool {
        image::is_pixels(graph, &self.a)
    }

    /// The constant rhs, in the axes that it has in the file.
    ///
    /// # Panics
    /// If the rhs is computed.
    pub fn weight(&self, graph: &Graph) -> Result<ArrayD<f32>> {
        let RhsOperand::Weight { value, .. } = &self.b else {
            panic!("the rhs of `{}` is computed", self.name)
        };
        let place = || format!("site `{}`", self.name);
        let constant =
            graph.constant(value).ok_or_else(|| Error::model(place(), "its weight is no constant"))?;
        ArrayD::from_shape_vec(tensor::shape(constant), tensor::f32s(constant)?)
            .map_err(|e| Error::model(place(), e))
    }
}

impl SiteKind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Patch,
        Self::Conv,
        Self::Qkv,
        Self::Q,
        Self::K,
        Self::V,
        Self::Scores,
        Self::Values,
        Self::Product,
        Self::Proj,
        Self::Fc1,
        Self::Fc2,
        Self::Head,
        Self::Linear,
    ];

    /// The kind as the report shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Conv => "conv",
            Self::Qkv => "qkv",
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::Scores => "scores",
            Self::Values => "values",
            Self::Product => "product",
            Self::Proj => "proj",
            Self::Fc1 => "fc1",
            Self::Fc2 => "fc2",
            Self::Head => "head",
            Self::Linear => "linear",
        }
    }
}
