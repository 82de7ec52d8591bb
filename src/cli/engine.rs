//! What runs a model: integers for a quantized one, tract for a float one.

use anyhow::Result;
use ndarray::{Array4, ArrayD, ArrayView4, Axis, concatenate};
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::onnx::{Graph, Model};
use onnx_ptq4vit::session::{FloatModel, outputs};
use rayon::prelude::*;

use super::model::is_quantized;

/// A model that is ready to run.
pub(super) enum Engine {
    Integer(Box<Runner>),
    /// It takes `batch` images at a time.
    Float {
        model: FloatModel,
        batch: usize,
    },
}

impl Engine {
    /// For an input of `[N, C, H, W]`.
    pub(super) fn new(model: &Model, graph: &Graph, shape: [usize; 4]) -> Result<Self> {
        let [batch, image @ ..] = shape;
        if is_quantized(graph) {
            return Ok(Self::Integer(Box::new(Runner::with_image(model, image)?)));
        }
        let model = FloatModel::new(model, shape, &outputs(graph)?.names[..1])?;
        Ok(Self::Float { model, batch })
    }

    /// The model's first output; the number of images is a multiple of the batch.
    pub(super) fn run(&self, images: &Array4<f32>) -> Result<ArrayD<f32>> {
        let (model, batch) = match self {
            Self::Integer(runner) => return Ok(runner.run(&images.view())?),
            Self::Float { model, batch } => (model, *batch),
        };
        let batches: Vec<_> = images.axis_chunks_iter(Axis(0), batch).collect();
        let run = |batch: ArrayView4<f32>| Ok(model.run(batch.to_owned().into_dyn())?.remove(0));
        let outputs: Vec<Result<ArrayD<f32>>> = batches.into_par_iter().map(run).collect();
        let outputs = outputs.into_iter().collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = outputs.iter().map(|output| output.view()).collect();
        Ok(concatenate(Axis(0), &views)?)
    }
}
