//! Models, and what runs them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use numpy::{PyArrayDyn, PyReadonlyArrayDyn, ToPyArray as _};
use onnx_ptq4vit::onnx::Model as Onnx;
use onnx_ptq4vit::options::{Limits, Task};
use onnx_ptq4vit::results::Layout;
use onnx_ptq4vit::{Engine, Error, Prepared, Result, Runner as IntegerRunner};
use pyo3::prelude::*;

use crate::cli::inspect;
use crate::data::Inputs;
use crate::{failure, work};

/// A model that was read.
#[pyclass(frozen, module = "onnx_ptq4vit._native")]
pub(crate) struct Model {
    pub(crate) prepared: Arc<Prepared>,
}

/// Where a model is read from.
#[derive(FromPyObject)]
pub(crate) enum Origin {
    Bytes(Vec<u8>),
    Path(PathBuf),
}

#[pymethods]
impl Model {
    /// Reads a file, or its bytes. No node may make a tensor of more than `max_tensor` bytes.
    #[staticmethod]
    fn read(py: Python, origin: Origin, max_tensor: Option<usize>, task: Option<String>) -> PyResult<Self> {
        let limits = max_tensor.map_or_else(Limits::default, |tensor_bytes| Limits { tensor_bytes });
        let prepared = work::run(py, None, move |_| {
            let task = task.map(|task| task.parse::<Task>()).transpose()?;
            let prepared = match origin {
                Origin::Path(path) => Prepared::open_within(path, limits)?,
                Origin::Bytes(bytes) => {
                    let mut model = Onnx::decode(Bytes::from(bytes))?;
                    model.limits = limits;
                    Prepared::new(model)?
                }
            };
            Ok(Arc::new(match task {
                Some(task) => prepared.with_task(task),
                None => prepared,
            }))
        })?;
        Ok(Self { prepared })
    }

    /// The same model with these values of its inputs beside the images.
    fn with_inputs(&self, py: Python, inputs: Inputs) -> PyResult<Self> {
        let model = self.prepared.clone();
        let prepared = work::run(py, None, move |_| inputs.alone().give((*model).clone()))?;
        Ok(Self { prepared: Arc::new(prepared) })
    }

    /// The name of the input that takes the images.
    fn input_name(&self, py: Python) -> PyResult<String> {
        let input = self.prepared.input().map_err(|error| failure::raise(py, &error))?;
        Ok(input.name)
    }

    /// The names of the other inputs.
    fn other_inputs(&self) -> Vec<String> {
        self.prepared.extra_inputs().iter().map(|extra| extra.name().to_string()).collect()
    }

    /// Whether an array of this shape is one image, without the axis of the batch.
    fn is_single(&self, py: Python, shape: Vec<usize>) -> PyResult<bool> {
        let input = self.prepared.input().map_err(|error| failure::raise(py, &error))?;
        Ok(match input.layout {
            Layout::Vector => shape.len() == 1,
            Layout::Tokens => shape.len() == 2,
            Layout::Frames(dims) => shape == dims,
            Layout::ChannelsFirst | Layout::ChannelsLast => shape.len() == 3,
        })
    }

    /// Whether it is quantized.
    fn is_quantized(&self) -> bool {
        self.prepared.is_quantized()
    }

    /// What `inspect` tells, as JSON.
    fn inspect(&self, py: Python) -> PyResult<String> {
        let model = self.prepared.clone();
        work::run(py, None, move |_| {
            let report = inspect::report(&model, name(&model))?;
            serde_json::to_string(&report).map_err(|error| Error::unsupported("the report", error))
        })
    }
}

/// What a report calls a model: by its path, if it has one.
pub(crate) fn name(model: &Prepared) -> String {
    model.path().map_or_else(|| "model in memory".into(), |path| path.display().to_string())
}

/// A model that is ready to run on images of one size at a time.
#[pyclass(frozen, module = "onnx_ptq4vit._native")]
pub(crate) struct Runner {
    model: Arc<Prepared>,
    /// For the size that was last asked for.
    engine: Arc<Kept>,
}

/// `[C, H, W]`
type Size = [usize; 3];

/// An engine, and the size that it is for.
type Kept = Mutex<Option<(Size, Arc<dyn Engine>)>>;

#[pymethods]
impl Runner {
    #[new]
    fn new(py: Python, model: &Model) -> PyResult<Self> {
        let runner = Self { model: model.prepared.clone(), engine: Arc::default() };
        let (prepared, engine) = (runner.model.clone(), runner.engine.clone());
        work::run(py, None, move |_| {
            let [_, channels, height, width] = prepared.input()?.dims;
            if let (Some(channels), Some(height), Some(width)) = (channels, height, width) {
                engine_for(&prepared, &engine, [channels, height, width])?;
            }
            Ok(())
        })?;
        Ok(runner)
    }

    /// The output for some images.
    fn run<'py>(
        &self,
        py: Python<'py>,
        images: PyReadonlyArrayDyn<f32>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (model, engine) = (self.model.clone(), self.engine.clone());
        let images = images.as_array().to_owned();
        let output = work::run(py, None, move |_| {
            let (images, _) = model.input()?.arrange(images, true)?;
            let (_, channels, height, width) = images.dim();
            engine_for(&model, &engine, [channels, height, width])?.run(&images.view())
        })?;
        Ok(output.to_pyarray(py))
    }
}

/// The engine for images of that size, which is kept for the next run.
fn engine_for(model: &Prepared, kept: &Kept, size: Size) -> Result<Arc<dyn Engine>> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, engine)) = kept.as_ref().filter(|(of, _)| *of == size) {
        return Ok(engine.clone());
    }
    let engine = engine(model, size)?;
    *kept = Some((size, engine.clone()));
    Ok(engine)
}

/// What runs a model: in integers, if it is quantized.
pub(crate) fn engine(model: &Prepared, size: Size) -> Result<Arc<dyn Engine>> {
    Ok(match model.is_quantized() {
        true => Arc::new(IntegerRunner::with_image(model, size)?),
        false => Arc::new(model.float_engine(size)?),
    })
}
