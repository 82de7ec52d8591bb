//! What runs a model: one trait, whatever the arithmetic. Batching is here, once.

use std::fmt;

use ndarray::{Array4, ArrayD, ArrayView4, Axis, Slice, concatenate};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A model that is ready to run on images of one size, for any number of threads at once.
///
/// An implementation runs one batch ([`pass`](Self::pass)); callers give any number of images to [`run`](Self::run) and
/// [`run_tapped`](Self::run_tapped).
pub trait Engine: Send + Sync {
    /// `[N, C, H, W]` of one batch: N is what the file fixes, or 1.
    fn input_shape(&self) -> [usize; 4];

    /// How it computes.
    fn arithmetic(&self) -> Arithmetic;

    /// Who computes: this library, or another runtime with its version.
    fn name(&self) -> String {
        BUILT_IN.into()
    }

    /// The model's first FLOAT output for one batch of [`input_shape`](Self::input_shape), and the values named `taps`.
    ///
    /// An error names the tap that the engine cannot give.
    fn pass(&self, batch: Array4<f32>, taps: &[&str]) -> Result<Tapped>;

    /// Where the time of a pass over `images` goes, the most expensive operator first; empty if the engine can't tell.
    ///
    /// The number of images is a multiple of the batch.
    fn profile(&self, _images: &ArrayView4<f32>) -> Result<Vec<OperatorTime>> {
        Ok(Vec::new())
    }

    /// An error unless these are one or more images of the size that the engine takes.
    fn ensure_fits(&self, images: &ArrayView4<f32>) -> Result<()> {
        let [_, image @ ..] = self.input_shape();
        if images.shape()[1..] == image && !images.is_empty() {
            return Ok(());
        }
        let expected = format!("expected one or more images of {image:?} (C, H, W)");
        Err(Error::data("images", format!("shape {:?}: {expected}", images.shape())))
    }

    /// The model's first FLOAT output for `images` `[N, C, H, W]`, in their order.
    fn run(&self, images: &ArrayView4<f32>) -> Result<ArrayD<f32>> {
        Ok(self.run_tapped(images, &[])?.output)
    }

    /// As [`run`](Self::run), with the values named `taps`.
    ///
    /// Batches run in parallel. A last batch that is too short is filled up with its last image, and what that image
    /// adds to the results is cut off.
    fn run_tapped(&self, images: &ArrayView4<f32>, taps: &[&str]) -> Result<Tapped> {
        self.ensure_fits(images)?;
        let shape = self.input_shape();
        let batches: Vec<ArrayView4<f32>> = images.axis_chunks_iter(Axis(0), shape[0]).collect();
        let run = |batch: &ArrayView4<f32>| {
            let present = batch.len_of(Axis(0));
            if present == shape[0] {
                return self.pass(batch.to_owned(), taps);
            }
            self.pass(filled(batch, shape[0]), taps)?.cut(present, shape[0])
        };
        // The first error in the order of the images, on any number of threads.
        let passes: Vec<Result<Tapped>> = batches.par_iter().map(run).collect();
        Tapped::join(passes.into_iter().collect::<Result<_>>()?)
    }
}

/// The [name](Engine::name) of the engines of this library.
pub const BUILT_IN: &str = "builtin";

/// How an engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Arithmetic {
    /// In f32.
    Float,
    /// The matrix products in integers.
    Integer,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float => "float",
            Self::Integer => "integer",
        })
    }
}

/// How an output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reading {
    /// Logits of classes along this axis; of an output with two axes the second, else features, if it is not known.
    Logits(Option<usize>),
    /// Probabilities of classes along the last axis.
    Probabilities,
    /// A logit per label.
    LabelLogits,
    /// A probability per label.
    LabelProbabilities,
    /// Numbers, each with a meaning of its own.
    Numbers,
    /// A number for each place of an image, such as a depth.
    Maps,
    /// Features, boxes.
    #[default]
    Features,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Logits(_) => "logits",
            Self::Probabilities => "probabilities",
            Self::LabelLogits => "logits of labels",
            Self::LabelProbabilities => "probabilities of labels",
            Self::Numbers => "numbers",
            Self::Maps => "maps",
            Self::Features => "features",
        })
    }
}

/// Which outputs of a detector are its boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detector {
    /// The scores `[N, boxes, classes]`; beside `classes` `[N, boxes]`.
    pub scores: String,
    /// What the scores are.
    pub scored: Scored,
    /// The sides `[N, boxes, 4]`, in any unit.
    pub boxes: String,
    /// The sides are x and y of the centre, width and height; else left, top, right and bottom.
    pub centred: bool,
    /// The class of each box, `[N, boxes]`, if the scores are of that class alone.
    pub classes: Option<String>,
}

/// What the scores of boxes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scored {
    /// Logits, of which the last may be that of no object.
    Logits,
    /// Probabilities that sum to 1, the last of which is that of no object.
    Together,
    /// A probability for each class.
    Each,
}

/// What a model gives for some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Tapped {
    /// The model's first FLOAT output.
    pub output: ArrayD<f32>,
    /// The values that were asked for, in that order.
    pub values: Vec<ArrayD<f32>>,
}

/// What the nodes of one operator took in [`Engine::profile`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatorTime {
    /// The operator; of a site, what it computes.
    pub operator: String,
    /// Nodes per pass.
    pub nodes: usize,
    /// Wall-clock time, all passes together.
    pub seconds: f64,
}

/// `batch` with its last image repeated until there are `size`.
fn filled(batch: &ArrayView4<f32>, size: usize) -> Array4<f32> {
    let (present, channels, height, width) = batch.dim();
    Array4::from_shape_fn((size, channels, height, width), |(n, c, h, w)| {
        batch[[n.min(present - 1), c, h, w]]
    })
}

impl Tapped {
    /// The part of the first `present` images of a batch of `size`.
    fn cut(self, present: usize, size: usize) -> Result<Self> {
        let cut = |value: ArrayD<f32>| {
            // The first axis holds the images, alone or with heads or tokens folded in.
            let rows =
                value.shape().first().copied().filter(|rows| rows.is_multiple_of(size)).ok_or_else(|| {
                    let why = format!("a value of shape {:?} does not hold {size} images", value.shape());
                    Error::model("running the model", why)
                })?;
            Ok(value.slice_axis(Axis(0), Slice::from(..rows / size * present)).to_owned())
        };
        let output = cut(self.output)?;
        Ok(Self { output, values: self.values.into_iter().map(cut).collect::<Result<_>>()? })
    }

    /// The results of all batches, one after the other along axis 0.
    fn join(mut passes: Vec<Self>) -> Result<Self> {
        if passes.len() == 1 {
            return Ok(passes.remove(0));
        }
        let join = |of: &dyn Fn(&Self) -> &ArrayD<f32>| {
            let views: Vec<_> = passes.iter().map(|pass| of(pass).view()).collect();
            concatenate(Axis(0), &views)
                .map_err(|e| Error::unsupported("batches", format!("cannot be joined along axis 0: {e}")))
        };
        let values = (0..passes[0].values.len()).map(|tap| join(&|pass| &pass.values[tap]));
        Ok(Self { values: values.collect::<Result<_>>()?, output: join(&|pass| &pass.output)? })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{array, s};

    use super::*;

    /// Two images at a time: their sums, and as a tap every pixel, so that rows are folded into the first axis.
    struct Sums;

    impl Engine for Sums {
        fn input_shape(&self) -> [usize; 4] {
            [2, 1, 1, 3]
        }

        fn arithmetic(&self) -> Arithmetic {
            Arithmetic::Float
        }

        fn pass(&self, batch: Array4<f32>, taps: &[&str]) -> Result<Tapped> {
            assert_eq!(batch.dim(), (2, 1, 1, 3));
            if let Some(image) = batch.outer_iter().position(|image| image[[0, 0, 0]] < 0.0) {
                return Err(Error::data(format!("image {image}"), batch[[image, 0, 0, 0]]));
            }
            let sums = batch.sum_axis(Axis(3)).sum_axis(Axis(2)).into_dyn();
            let pixels = batch.into_shape_with_order(vec![6, 1]).unwrap();
            Ok(Tapped { output: sums, values: taps.iter().map(|_| pixels.clone()).collect() })
        }
    }

    fn images(firsts: &[f32]) -> Array4<f32> {
        Array4::from_shape_fn(
            (firsts.len(), 1, 1, 3),
            |(n, _, _, w)| if w == 0 { firsts[n] } else { w as f32 },
        )
    }

    #[test]
    fn a_short_batch_is_filled_and_its_filling_cut_off() {
        let five = images(&[10.0, 20.0, 30.0, 40.0, 50.0]);
        let found = Sums.run_tapped(&five.view(), &["pixels"]).unwrap();
        assert_eq!(found.output, array![[13.0], [23.0], [33.0], [43.0], [53.0]].into_dyn());
        assert_eq!(found.values[0], five.clone().into_shape_with_order(vec![15, 1]).unwrap());
        for n in 1..5 {
            let some = Sums.run(&five.slice(s![..n, .., .., ..])).unwrap();
            assert_eq!(some, found.output.slice_axis(Axis(0), (..n).into()));
        }
    }

    #[test]
    fn the_first_error_is_that_of_the_first_image() {
        let bad = images(&[1.0, -2.0, -3.0, -4.0]);
        assert_eq!(Sums.run(&bad.view()).unwrap_err().to_string(), "image 1: -2");
        for shape in [(0, 1, 1, 3), (1, 1, 1, 2), (1, 2, 1, 3)] {
            assert_eq!(Sums.run(&Array4::zeros(shape).view()).unwrap_err().exit_code(), 3, "{shape:?}");
        }
    }

    #[test]
    fn a_value_without_images_cannot_be_cut() {
        let odd = Tapped { output: ArrayD::zeros(vec![3]), values: vec![] };
        assert!(odd.cut(1, 2).unwrap_err().to_string().contains("[3]"));
    }
}
