//! A float model and images in, a quantized model out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use onnx_ptq4vit::export::{export, pack};
use onnx_ptq4vit::onnx::{Model as Onnx, Storage};
use onnx_ptq4vit::options::{Gradient, Metric, Selection, Target, TwinForm, WeightScales};
use onnx_ptq4vit::page::Page;
use onnx_ptq4vit::plan::plan;
use onnx_ptq4vit::preprocessing::{class_names, record_class_names, unsure};
use onnx_ptq4vit::report::{QuantizeReport, load};
use onnx_ptq4vit::{Calibration, Error, Prepared, Progress as _, Quantize, Result, files};
use prost::Message as _;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::Comparison;
use crate::data::{self, Inputs, Source, Values};
use crate::failure;
use crate::model::{Model, name};
use crate::work::{self, Reporter};

/// How a model is quantized.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    bits: String,
    preset: String,
    limit: Option<usize>,
    seed: u64,
    exclude: Vec<String>,
    overflow_safe: bool,
    target: String,
    twin: Option<String>,
    pack: bool,
    metric: Option<String>,
    gradient: Option<String>,
    weights: Option<String>,
    memory: Option<usize>,
    output: Option<PathBuf>,
}

/// A quantized model, and what is known of its making.
#[pyclass(frozen, module = "onnx_ptq4vit._native")]
pub(crate) struct Quantized {
    float: Arc<Prepared>,
    onnx: Arc<Onnx>,
    /// What both models are given for their inputs beside the images.
    values: Arc<Values>,
    calibration: Calibration,
    report: QuantizeReport,
}

/// Quantizes `model` by what `source` makes of its activations.
#[pyfunction]
pub(crate) fn quantize(
    py: Python,
    model: &Model,
    source: Source,
    inputs: Inputs,
    settings: Settings,
    listener: Option<Bound<PyAny>>,
) -> PyResult<Quantized> {
    let model = model.prepared.clone();
    work::run(py, listener.as_ref(), move |progress| quantized(&model, source, inputs, &settings, progress))
}

fn quantized(
    model: &Prepared,
    source: Source,
    inputs: Inputs,
    settings: &Settings,
    progress: &Reporter,
) -> Result<Quantized> {
    let start = Instant::now();
    let values = inputs.and_of(&source, model)?;
    let model = values.give(model.clone())?;
    let quantize = settings.apply(Quantize::new(&model))?;
    let target: Target = choice("target", &settings.target)?;
    let twin: Option<TwinForm> = settings.twin.as_ref().map(|twin| choice("twin", twin)).transpose()?;
    if let Some(output) = &settings.output {
        files::ensure_writable(output)?;
    }
    data::say(&model, progress)?;
    let mut plan = plan(&model, &settings.exclude)?;
    let count = plan.count(&model, model.input()?.typical_image());
    let selection = Selection { limit: settings.limit, seed: settings.seed, skip: 0 };
    let images = data::open(source, &model, None, selection, progress)?;
    if let Some(doubt) = unsure(&model, &images)? {
        progress.note(&format!("warning: {doubt}"));
    }
    let calibration = quantize.calibrate_with(&images, progress)?;
    let mut onnx = export(&model, &plan, &calibration, twin.unwrap_or(target.twin_form()))?;
    if settings.pack && target.packs() {
        onnx = pack(onnx)?;
    }
    record_class_names(&mut onnx, &class_names(&model)?);

    let output = settings.output.as_ref().map_or("model in memory".into(), |path| path.display().to_string());
    let bytes = [model.model(), &onnx].map(|model| model.proto.encoded_len() as u64);
    let seconds = start.elapsed().as_secs_f64();
    let mut report = QuantizeReport::new([name(&model), output], &plan, count, &calibration, bytes, seconds);
    if settings.output.is_some() {
        report.load = load(target, &report.output, &onnx)?;
    }
    report.warnings = progress.warnings();
    let (float, onnx, values) = (Arc::new(model), Arc::new(onnx), Arc::new(values));
    Ok(Quantized { float, onnx, values, calibration, report })
}

impl Settings {
    fn apply<'m>(&self, quantize: Quantize<'m>) -> Result<Quantize<'m>> {
        let number = |digits: &str| digits.parse::<u8>().ok();
        let bits = self.bits.strip_prefix('w').and_then(|rest| rest.split_once('a'));
        let bits = bits.and_then(|(weights, activations)| number(weights).zip(number(activations)));
        let (weights, activations) = bits.ok_or_else(|| {
            Error::usage(format!("bits={:?}: expected w<2-8>a<2-8>, such as \"w8a8\" or \"w4a8\"", self.bits))
        })?;
        let mut quantize = quantize
            .preset(choice("preset", &self.preset)?)
            .bits(weights, activations)
            .overflow_safe(self.overflow_safe)
            .seed(self.seed);
        if let Some(metric) = &self.metric {
            let metric: Metric = choice("metric", metric)?;
            quantize = quantize.metric(metric);
            if metric.is_rowwise() {
                // It cannot tell channels apart.
                quantize = quantize.weights(WeightScales::PerTensor);
            }
        }
        if let Some(gradient) = &self.gradient {
            quantize = quantize.gradient(gradient.parse::<Gradient>()?);
        }
        if let Some(weights) = &self.weights {
            quantize = quantize.weights(choice("weights", weights)?);
        }
        if let Some(memory) = self.memory {
            quantize = quantize.memory(memory);
        }
        Ok(self.exclude.iter().fold(quantize, Quantize::exclude))
    }
}

/// The choice of that name in JSON, which is its name on the command line.
fn choice<T: DeserializeOwned>(argument: &str, text: &str) -> Result<T> {
    serde_json::from_value(text.into()).map_err(|why| Error::usage(format!("{argument}={text:?}: {why}")))
}

#[pymethods]
impl Quantized {
    /// Writes the file, whole or not at all.
    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        // Not in a thread that may be left alone: what is begun to be written is written.
        let write = || self.onnx.write(&path, Storage::for_model(&self.onnx));
        py.detach(write).map_err(|error| failure::raise(py, &error))
    }

    /// The content of the file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        const MOST: usize = i32::MAX as usize;
        let len = self.onnx.proto.encoded_len();
        if len > MOST {
            let why = format!("{len} bytes are too many for one message: save() writes weights beside it");
            return Err(failure::raise(py, &Error::unsupported("model in memory", why)));
        }
        let bytes = py.detach(|| self.onnx.encode());
        Ok(PyBytes::new(py, &bytes))
    }

    /// The model that was quantized.
    fn float_model(&self) -> Model {
        Model { prepared: self.float.clone() }
    }

    /// The quantized model.
    fn quantized_model(&self, py: Python) -> PyResult<Model> {
        let (onnx, values) = (self.onnx.clone(), self.values.clone());
        let prepared = work::run(py, None, move |_| values.give(Prepared::new((*onnx).clone())?))?;
        Ok(Model { prepared: Arc::new(prepared) })
    }

    /// What `quantize` tells, as JSON.
    fn report(&self, py: Python) -> PyResult<String> {
        json(py, &self.report)
    }

    /// What `quantize` tells, for people.
    fn text(&self) -> String {
        self.report.to_string()
    }

    /// The scales, as JSON.
    fn calibration(&self, py: Python) -> PyResult<String> {
        json(py, &self.calibration)
    }

    /// The report as a page, with the comparison if there was one.
    fn html(&self, py: Python, check: Option<&Comparison>) -> String {
        let mut page = check.map_or_else(Page::default, |check| check.page.clone());
        page.quantize = Some(self.report.clone());
        page.calibration = Some(self.calibration.clone());
        let found = &self.calibration.provenance;
        page.provenance = vec![
            ("version".into(), env!("CARGO_PKG_VERSION").into()),
            ("float model, SHA-256".into(), found.model_sha256.clone()),
            ("calibration images".into(), found.images.to_string()),
            ("calibration images, SHA-256".into(), found.images_sha256.clone()),
            ("options".into(), serde_json::to_string(&found.options).unwrap_or_default()),
            ("scales, SHA-256".into(), self.calibration.fingerprint()),
        ];
        py.detach(|| page.to_html())
    }
}

/// `value` as JSON.
pub(crate) fn json(py: Python, value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| failure::internal(py, &error.to_string()))
}
