//! Images and labels, as they come from Python.

use std::path::PathBuf;

use ndarray::{ArrayD, ArrayViewD, Axis};
use numpy::PyReadonlyArrayDyn;
use onnx_ptq4vit::data::{Arrays, Columns, UNIT_SCALED, is_array, named_arrays};
use onnx_ptq4vit::options::{InputValue, Selection, Task};
use onnx_ptq4vit::preprocessing::{self, Beside, class_names};
use onnx_ptq4vit::{Dataset, Error, Prepared, Preprocess, Progress, Result};
use pyo3::prelude::*;

/// Images in files, or the pixels themselves.
pub(crate) enum Source {
    Path(PathBuf),
    Array(ArrayD<f32>),
}

impl<'py> FromPyObject<'_, 'py> for Source {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<PyReadonlyArrayDyn<f32>>() {
            Ok(array) => Ok(Self::Array(array.as_array().to_owned())),
            Err(_) => Ok(Self::Path(object.extract()?)),
        }
    }
}

/// Labels in a CSV file (or `folders`), or the labels themselves: `[N]` classes, or `[N, L]` zeros and ones.
pub(crate) enum Labels {
    Path(PathBuf),
    Array(ArrayD<i64>),
}

impl<'py> FromPyObject<'_, 'py> for Labels {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<PyReadonlyArrayDyn<i64>>() {
            Ok(array) => Ok(Self::Array(array.as_array().to_owned())),
            Err(_) => Ok(Self::Path(object.extract()?)),
        }
    }
}

/// The values of the inputs beside the images, by name.
pub(crate) struct Inputs(Vec<(String, ArrayD<f64>)>);

impl<'py> FromPyObject<'_, 'py> for Inputs {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let pairs: Vec<(String, PyReadonlyArrayDyn<f64>)> = object.extract()?;
        Ok(Self(pairs.into_iter().map(|(name, array)| (name, array.as_array().to_owned())).collect()))
    }
}

impl Inputs {
    /// The values of these inputs alone.
    pub(crate) fn alone(self) -> Values {
        Values(self.0)
    }

    /// These values, behind those that the file of `source` has for inputs of `model`.
    pub(crate) fn and_of(self, source: &Source, model: &Prepared) -> Result<Values> {
        let names: Vec<String> = model.extra_inputs().iter().map(|extra| extra.name().to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut all = match source {
            Source::Path(path) if !names.is_empty() => named_arrays(path, &names)?,
            _ => Vec::new(),
        };
        all.extend(self.0);
        Ok(Values(all))
    }
}

/// What a model is given for its inputs beside the images.
pub(crate) struct Values(Vec<(String, ArrayD<f64>)>);

impl Values {
    /// `model` with these values.
    pub(crate) fn give(&self, model: Prepared) -> Result<Prepared> {
        let give = |model: Prepared, (name, array): &(String, ArrayD<f64>)| {
            model.with_input(name, InputValue::Rows(array.clone()))
        };
        self.0.iter().try_fold(model, give)
    }
}

/// Says what the inputs beside the images are taken to be, and what the model is for.
pub(crate) fn say(model: &Prepared, progress: &dyn Progress) -> Result<()> {
    for extra in model.extra_inputs().iter().filter(|extra| extra.is_used()) {
        if let Some(value) = extra.default_value() {
            let name = extra.name();
            progress.note(&format!(
                "warning: input `{name}` is taken to be {value}; batches that are dicts give it another value"
            ));
        }
    }
    progress.note(&format!("task: {}", model.outputs()?));
    Ok(())
}

/// The images for `model`, prepared as it is `recorded` of the calibration, or else as a file beside the model says.
pub(crate) fn open(
    source: Source,
    model: &Prepared,
    recorded: Option<Preprocess>,
    selection: Selection,
    progress: &dyn Progress,
) -> Result<Dataset> {
    let input = model.input()?;
    let (data, place) = match source {
        Source::Array(mut array) => {
            if selection.limit == Some(0) || array.is_empty() {
                return Err(Error::usage("there are no images, expected at least 1"));
            }
            let most = selection.limit.unwrap_or(usize::MAX);
            if array.len_of(Axis(0)) > most {
                array.slice_axis_inplace(Axis(0), (..most).into());
            }
            let (array, note) = input.arrange(array, false)?;
            let mut data = Dataset::of_array(array);
            data.notes.extend(note);
            (data, "data".to_string())
        }
        Source::Path(path) => {
            let preprocess = if is_array(&path) {
                Preprocess::timm_vit(224)
            } else {
                let found = preprocessing::find(model, recorded, None, &Beside::Model)?;
                found.notes.iter().for_each(|note| progress.note(&format!("{}: {note}", found.source)));
                progress.note(&format!("images: {} ({})", found.preprocess, found.source));
                found.preprocess
            };
            let columns = columns(model)?;
            let arrays = Arrays {
                name: &input.name,
                arrange: &|array| input.arrange(array, false),
                columns: &columns,
            };
            let data = Dataset::open_with(&path, &preprocess, selection, &arrays)?;
            (data, path.display().to_string())
        }
    };
    for note in &data.notes {
        let (warning, note) =
            note.strip_prefix("warning: ").map_or(("", &**note), |note| ("warning: ", note));
        progress.note(&format!("{warning}{place}: {note}"));
    }
    let range = input.pixels.range().unwrap_or(UNIT_SCALED);
    if let Some(doubt) = data.statistics().and_then(|found| found.doubt(&range)) {
        progress.note(&format!("warning: {place}: {doubt}"));
    }
    input.shape_for(data.item_shape())?;
    Ok(data)
}

/// `data` with these labels.
pub(crate) fn label(mut data: Dataset, labels: Labels, model: &Prepared) -> Result<Dataset> {
    let array = match labels {
        Labels::Path(path) if path.as_os_str() == "folders" => {
            return data.with_labels_of_folders(&columns(model)?);
        }
        Labels::Path(path) => return data.with_labels_of(&path, &columns(model)?),
        Labels::Array(array) => array,
    };
    let wrong = |why: String| Error::data("labels", why);
    match array.shape() {
        [rows] | [rows, _] if *rows != data.len() => {
            return Err(wrong(format!("there are {rows} of them for {} images", data.len())));
        }
        [_] => {
            let class = |label: &i64| {
                u32::try_from(*label)
                    .map_err(|_| wrong(format!("{label} is no class, which is a number from 0")))
            };
            (data.labels, data.label_sets) = (Some(array.iter().map(class).collect::<Result<_>>()?), None);
        }
        [_, _] => {
            if let Some(odd) = array.iter().find(|label| !(0..=1).contains(*label)) {
                return Err(wrong(format!("a row of them holds {odd}, expected zeros and ones")));
            }
            let set = |row: ArrayViewD<i64>| {
                (0..).zip(&row).filter(|(_, of)| **of == 1).map(|(at, _)| at).collect()
            };
            (data.labels, data.label_sets) = (None, Some(array.outer_iter().map(set).collect()));
        }
        other => return Err(wrong(format!("their shape is {other:?}, expected [N] or [N, L]"))),
    }
    Ok(data)
}

fn columns(model: &Prepared) -> Result<Columns> {
    let several = model.outputs().is_ok_and(|outputs| outputs.task == Task::Multilabel);
    Ok(Columns { classes: class_names(model)?, several, ..Columns::default() })
}
