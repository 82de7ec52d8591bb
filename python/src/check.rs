//! Is the quantized model as good as the float model?

use std::collections::BTreeMap;
use std::sync::Arc;

use onnx_ptq4vit::check::{Identity, Part, Run, compare_part};
use onnx_ptq4vit::options::Selection;
use onnx_ptq4vit::page::Page;
use onnx_ptq4vit::preprocessing::{self, Beside, class_names};
use onnx_ptq4vit::quantize::scope;
use onnx_ptq4vit::report::CheckReport;
use onnx_ptq4vit::results::Reading;
use onnx_ptq4vit::{Dataset, Error, Prepared, Preprocess, Progress as _, Result, Thresholds};
use pyo3::prelude::*;

use crate::data::{self, Inputs, Labels, Source};
use crate::model::{Model, engine, name};
use crate::quantize::json;
use crate::work::{self, Reporter};

/// Width and height of thumbnails, in pixels: twice what the page shows.
const THUMBNAIL: u32 = 160;

/// What is compared, and what it must reach.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    limit: Option<usize>,
    seed: u64,
    max_drop: Option<f64>,
    min_agreement: Option<f64>,
    max_kl: Option<f64>,
    min_cosine: Option<f64>,
    min_r2: Option<f64>,
}

/// A comparison.
#[pyclass(frozen, module = "onnx_ptq4vit._native")]
pub(crate) struct Comparison {
    report: CheckReport,
    pub(crate) page: Page,
}

/// Runs both models on the same images.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // the models, the data and how they are compared
pub(crate) fn check(
    py: Python,
    float: &Model,
    quantized: &Model,
    source: Source,
    inputs: Inputs,
    labels: Option<Labels>,
    settings: Settings,
    listener: Option<Bound<PyAny>>,
) -> PyResult<Comparison> {
    let models = [float.prepared.clone(), quantized.prepared.clone()];
    work::run(py, listener.as_ref(), move |progress| {
        compared(&models, source, inputs, labels, &settings, progress)
    })
}

fn compared(
    [float, quantized]: &[Arc<Prepared>; 2],
    source: Source,
    inputs: Inputs,
    labels: Option<Labels>,
    settings: &Settings,
    progress: &Reporter,
) -> Result<Comparison> {
    let why = match (float.is_quantized(), quantized.is_quantized()) {
        (false, true) => None,
        (true, false) => Some("the models are swapped: the float model comes first".to_string()),
        (true, true) => Some(format!("{} is quantized: the float model comes first", name(float))),
        (false, false) => Some(format!("{} is not quantized", name(quantized))),
    };
    if let Some(why) = why {
        return Err(Error::usage(why));
    }
    let values = inputs.and_of(&source, float)?;
    let [float, quantized] = [values.give((**float).clone())?, values.give((**quantized).clone())?];
    data::say(&float, progress)?;
    let recorded = preprocessing::recorded(&quantized)?;
    let selection = Selection { limit: settings.limit, seed: settings.seed, skip: 0 };
    let mut images = data::open(source, &float, recorded.clone(), selection, progress)?;
    let labels_are_given = labels.is_some();
    if let Some(labels) = labels {
        images = data::label(images, labels, &float)?;
    }
    drop_unused_labels(&mut images, &float, labels_are_given, progress)?;
    let thresholds = settings.thresholds();
    if settings.max_drop.is_some() && images.labels.is_none() && images.label_sets.is_none() {
        return Err(Error::usage("max_drop needs labels: give labels=, or data that has them"));
    }

    let scope = scope(&float, &quantized, false)?;
    let identity =
        Identity { float_sha256: float.sha256().into(), quantized_sha256: quantized.sha256().into() };
    let size = images.item_shape();
    let engines = [engine(&float, size)?, engine(&quantized, size)?];
    // A threshold that the model has no figure for is told before all images were compared.
    let save = |part: &Part| thresholds.judge(&part.so_far()).map(drop);
    let run = Run { identity, resume: None, save: &save };
    let mut part = compare_part(&*engines[0], &*engines[1], &images, &scope, run, progress)?;
    part.doubts.extend(conflicts(&images, &float, recorded.as_ref())?);
    let comparison = part.comparison()?;
    let verdict = thresholds.judge(&comparison)?;

    let mut page = Page::default();
    let mut thumbnails = BTreeMap::new();
    for image in comparison.changed_images.iter().chain(&comparison.farthest_images) {
        if let Some(index) = images.names.iter().position(|name| *name == image.name) {
            thumbnails.insert(image.name.clone(), images.thumbnail(index, THUMBNAIL)?);
        }
    }
    (page.thumbnails, page.class_names) = (thumbnails, class_names(&float)?);
    let [float, quantized] = [name(&float), name(&quantized)];
    let report =
        CheckReport { float, quantized, shard: None, verdict, comparison, warnings: progress.warnings() };
    page.check = Some(report.clone());
    Ok(Comparison { report, page })
}

/// Leaves out the labels that came with the data, if the model gives something else.
fn drop_unused_labels(
    images: &mut Dataset,
    float: &Prepared,
    given: bool,
    progress: &Reporter,
) -> Result<()> {
    let reading = float.outputs()?.compared.1;
    let of_labels = matches!(reading, Reading::LabelLogits | Reading::LabelProbabilities);
    let of_classes = matches!(reading, Reading::Logits(_) | Reading::Probabilities);
    if given || of_labels {
        return Ok(());
    }
    let unused = images.label_sets.take().is_some() | (!of_classes && images.labels.take().is_some());
    if unused {
        progress.note(&format!("the labels of the data are not used: the model gives {reading}"));
    }
    Ok(())
}

/// Why images that are prepared as these are at odds with the calibration, or with the files beside the float model.
fn conflicts(images: &Dataset, float: &Prepared, recorded: Option<&Preprocess>) -> Result<Vec<String>> {
    let Some(used) = images.preprocess() else { return Ok(Vec::new()) };
    Ok(preprocessing::conflicts(used, float, recorded, &Beside::Model)?.doubts)
}

impl Settings {
    fn thresholds(&self) -> Thresholds {
        let mut thresholds = Thresholds::default();
        thresholds.max_drop = self.max_drop;
        thresholds.min_agreement = self.min_agreement;
        thresholds.max_kl = self.max_kl;
        thresholds.min_cosine = self.min_cosine;
        thresholds.min_r2 = self.min_r2;
        thresholds
    }
}

#[pymethods]
impl Comparison {
    /// What `check` tells, as JSON.
    fn report(&self, py: Python) -> PyResult<String> {
        json(py, &self.report)
    }

    /// What `check` tells, for people.
    fn text(&self) -> String {
        self.report.to_string()
    }

    /// Whether every threshold was met; `None` if there was none.
    fn passed(&self) -> Option<bool> {
        self.report.verdict.as_ref().map(|verdict| verdict.passed)
    }

    /// The report as a page.
    fn html(&self, py: Python) -> String {
        py.detach(|| self.page.to_html())
    }
}
