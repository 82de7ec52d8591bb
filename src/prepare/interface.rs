//! What a model takes: the images, and how the later stages see them.

use ndarray::{Array4, ArrayD, Axis, Ix4, IxDyn};

use super::entry::{self, Layout};
use super::pixels::{self, Pixels};
use crate::onnx::{DataType, Graph};
use crate::{Error, Result};

/// The images that a vision model takes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InputSpec {
    /// The value's name.
    pub name: String,
    /// `[N, C, H, W]`, whatever the layout of the file; `None` where the file leaves the size open.
    pub dims: [Option<usize>; 4],
    /// The batch that the model computes with although the file leaves it open, as the exporter wrote it into the shapes
    /// of the graph; `None` if it takes any.
    pub written_out: Option<usize>,
    /// How the axes lie in the file.
    pub layout: Layout,
    /// The type of the file's input, FLOAT for FLOAT16.
    pub(crate) element: DataType,
    /// The values of pixels.
    pub pixels: Pixels,
}

impl InputSpec {
    /// The images of a model that `entry` opened; an error if none of its inputs is a tensor of images.
    pub(super) fn of(graph: &Graph, opened: Option<&entry::Entry>) -> Result<Self> {
        let first = graph.inputs().next();
        let (Some(opened), Some(input)) = (opened, first) else {
            let form = |input: &crate::onnx::ValueInfoProto| {
                let dims: Vec<String> =
                    entry::dims(input).unwrap_or_default().iter().map(|d| dim(*d, "?")).collect();
                format!("`{}` [{}]", input.name(), dims.join(", "))
            };
            let found: Vec<String> = graph.inputs().map(form).collect();
            let why =
                format!("expected one tensor of images, such as [N, 3, H, W], found {}", found.join(", "));
            return Err(Error::unsupported("inputs", why));
        };
        let dims = Self::dims_of(graph);
        let channels = dims[1].unwrap_or(3);
        let pixels = pixels::of(graph, input.name(), channels, opened.element);
        let (name, layout, element) = (input.name().to_string(), opened.layout, opened.element);
        Ok(Self { name, dims, written_out: None, layout, element, pixels })
    }

    /// The dims of the first input, as far as they are known.
    pub(super) fn dims_of(graph: &Graph) -> [Option<usize>; 4] {
        let dims = graph.inputs().next().and_then(entry::dims);
        dims.and_then(|dims| dims.try_into().ok()).unwrap_or([None; 4])
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

    /// As the file has it: `[N, 3, 224, 224]`, or `UINT8 [N, 224, 224, 3]`.
    pub fn describe(&self) -> String {
        let [n, c, h, w] = self.dims;
        let axes = match self.layout {
            Layout::ChannelsFirst => vec![dim(n, "N"), dim(c, "C"), dim(h, "H"), dim(w, "W")],
            Layout::ChannelsLast => vec![dim(n, "N"), dim(h, "H"), dim(w, "W"), dim(c, "C")],
            Layout::Tokens => vec![dim(n, "N"), dim(h, "T"), dim(w, "D")],
            Layout::Vector => vec![dim(n, "N"), dim(w, "D")],
            Layout::Frames(dims) => std::iter::once(dim(n, "N")).chain(dims.map(|d| d.to_string())).collect(),
        };
        let shape = format!("[{}]", axes.join(", "));
        if self.element == DataType::Float {
            shape
        } else {
            format!("{} {shape}", self.element.as_str_name())
        }
    }

    /// An array in the file's layout, or in `[N, C, H, W]`, as images of `[C, H, W]`; and what should be said of it.
    ///
    /// Where the model normalizes pixels itself and the values are plainly of another range, such as normalized ones, they
    /// are brought into the range of the model, unless it takes floats and they are wanted `as_they_are`. An error names the
    /// shape or the value that no such model takes.
    pub fn arrange(&self, array: ArrayD<f32>, as_they_are: bool) -> Result<(Array4<f32>, Option<String>)> {
        let shape = array.shape().to_vec();
        let place = || format!("input `{}`", self.name);
        let fits = |images: &[usize]| {
            images.len() == 4
                && self.dims[1..].iter().zip(&images[1..]).all(|(dim, size)| dim.is_none_or(|d| d == *size))
        };
        let moved = match (self.layout, shape[..].len()) {
            (Layout::ChannelsLast, 4) => Some(array.clone().permuted_axes(IxDyn(&[0, 3, 1, 2]))),
            (Layout::Tokens, 3) => Some(array.clone().insert_axis(Axis(1))),
            (Layout::Vector, 2) => Some(array.clone().insert_axis(Axis(1)).insert_axis(Axis(1))),
            (Layout::Frames([f, c, h, w]), 5) if shape[1..] == [f, c, h, w] => array
                .as_standard_layout()
                .into_owned()
                .into_shape_with_order(IxDyn(&[shape[0], f * c, h, w]))
                .ok(),
            _ => None,
        };
        let images = moved.filter(|moved| fits(moved.shape())).unwrap_or(array);
        if images.ndim() != 4 {
            let why = format!("the array has the shape {shape:?}, the model takes {}", self.describe());
            return Err(Error::data(place(), why));
        }
        if !fits(images.shape()) {
            let why = format!(
                "images are {:?} (C, H, W), the model takes {}",
                &images.shape()[1..],
                self.describe()
            );
            return Err(Error::data(place(), why));
        }
        let images = images.as_standard_layout().into_owned();
        let mut images = images.into_dimensionality::<Ix4>().expect("it has four axes");
        let integers = self.element != DataType::Float;
        let note = match as_they_are && !integers {
            true => None,
            false => self.pixels.fit(&mut images, integers).map_err(|why| Error::data(place(), why))?,
        };
        Ok((images, note))
    }
}

fn dim(dim: Option<usize>, open: &str) -> String {
    dim.map_or_else(|| open.to_string(), |d| d.to_string())
}
