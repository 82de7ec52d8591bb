//! What a model takes and gives, as its file says.

use crate::onnx::{DataType, Graph, ValueInfoProto};
use crate::{Error, Result};

/// The one input of a vision model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InputSpec {
    /// The value's name.
    pub name: String,
    /// `[N, C, H, W]`; `None` where the file leaves the size open.
    pub dims: [Option<usize>; 4],
    /// The batch that the model computes with although the file leaves it open, as the exporter wrote it into the shapes
    /// of the graph; `None` if it takes any.
    pub written_out: Option<usize>,
}

impl InputSpec {
    /// The input of a model; an error unless it is one tensor of four axes.
    pub(super) fn of(graph: &Graph) -> Result<Self> {
        let inputs: Vec<_> = graph.inputs().collect();
        let [input] = inputs[..] else {
            let names: Vec<&str> = inputs.iter().map(|i| i.name()).collect();
            return Err(Error::unsupported("inputs", format!("expected one image tensor, found {names:?}")));
        };
        let shape = graph.shape(input.name()).unwrap_or_default();
        let dims: [Option<i64>; 4] = shape.as_slice().try_into().map_err(|_| {
            let why = format!("expected [N, C, H, W], found {shape:?}");
            Error::unsupported(format!("input `{}`", input.name()), why)
        })?;
        let dims = dims.map(|d| d.and_then(|d| usize::try_from(d).ok()).filter(|&d| d > 0));
        Ok(Self { name: input.name().to_string(), dims, written_out: None })
    }

    /// The dims of the first input, as far as they are known.
    pub(super) fn dims_of(graph: &Graph) -> [Option<usize>; 4] {
        Self::of(graph).map_or([None; 4], |input| input.dims)
    }

    /// Images per run: the fixed batch of the file; where that is open, the one in its shapes, or 1.
    pub fn batch(&self) -> usize {
        self.dims[0].or(self.written_out).unwrap_or(1)
    }

    /// The shape `[N, C, H, W]` of a run with images of `[C, H, W]`; an error if they do not fit.
    pub fn shape_for(&self, image: [usize; 3]) -> Result<[usize; 4]> {
        let fits = self.dims[1..].iter().zip(image).all(|(dim, size)| dim.is_none_or(|d| d == size));
        if !fits {
            return Err(Error::data(
                format!("input `{}`", self.name),
                format!("images are {image:?} (C, H, W), the model takes {}", self.describe()),
            ));
        }
        Ok([self.batch(), image[0], image[1], image[2]])
    }

    /// `[C, H, W]` of an image that the model takes: 3 channels and 224 pixels where the file leaves them open.
    pub fn typical_image(&self) -> [usize; 3] {
        let [_, channels, height, width] = self.dims;
        [channels.unwrap_or(3), height.unwrap_or(224), width.unwrap_or(224)]
    }

    /// As `[N, 3, 224, 224]`.
    pub fn describe(&self) -> String {
        let open = ["N", "C", "H", "W"];
        let dim = |(d, open): (&Option<usize>, &&str)| d.map_or(open.to_string(), |d| d.to_string());
        format!("[{}]", self.dims.iter().zip(&open).map(dim).collect::<Vec<_>>().join(", "))
    }
}

/// What a model gives for its images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outputs {
    /// The FLOAT outputs' names, of which the first is the one that is compared.
    pub names: Vec<String>,
    /// The first one is the logits of a classifier, not features.
    pub logits: bool,
}

impl Outputs {
    /// The outputs of a model; an error if it has no FLOAT one.
    ///
    /// The file does not say what they mean: two axes are logits, unless the name speaks of features.
    pub(super) fn of(graph: &Graph) -> Result<Self> {
        const FEATURES: &[&str] = &["embed", "feature", "hidden", "pool"];
        let float =
            |output: &&ValueInfoProto| graph.data_type(output.name()).is_none_or(|t| t == DataType::Float);
        let names: Vec<String> =
            graph.outputs().iter().filter(float).map(|output| output.name().to_string()).collect();
        let Some(first) = names.first() else {
            return Err(Error::model("graph", "the model has no output of FLOAT"));
        };
        let speaks_of_features = FEATURES.iter().any(|word| first.to_lowercase().contains(word));
        let logits = !speaks_of_features && graph.shape(first).is_none_or(|shape| shape.len() == 2);
        Ok(Self { names, logits })
    }
}
