//! Reads and writes NumPy arrays.

use std::path::Path;

use ndarray::{Array4, ArrayD, Axis, IxDyn, Slice};
use ndarray_npy::{ReadNpyError, ReadNpyExt, ReadNpzError, ReadableElement, WriteNpyExt};

use super::claims::{self, Npz};
use super::{Dataset, Items, Selection};
use crate::{Error, Result, files};

/// The names under which an `.npz` may hold its images, the preferred one first.
const INPUT_NAMES: [&str; 3] = ["images", "input", "x"];

pub(super) fn open_npy(path: &Path, selection: Selection) -> Result<Dataset> {
    let broken = |e: ReadNpyError| Error::data(path.display(), e);
    let open = || claims::open_npy(path).map_err(broken);
    let array = match ArrayD::<f32>::read_npy(open()?) {
        Err(ReadNpyError::WrongDescriptor(_)) => match ArrayD::<f64>::read_npy(open()?) {
            Err(ReadNpyError::WrongDescriptor(found)) => {
                return Err(Error::data(
                    path.display(),
                    format!("elements of type {found}, expected float32 or float64"),
                ));
            }
            array => array.map_err(broken)?.mapv(|x| x as f32),
        },
        array => array.map_err(broken)?,
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    dataset(path, &name, array, None, selection)
}

pub(super) fn open_npz(path: &Path, selection: Selection) -> Result<Dataset> {
    let broken = |e: ReadNpzError| Error::data(path.display(), e);
    let mut npz = Npz::open(files::open(path)?).map_err(broken)?;
    let names = npz.names();
    let (name, array) = match INPUT_NAMES.iter().find(|&&known| names.iter().any(|name| name == known)) {
        Some(&name) => {
            let array = read_float(&mut npz, name).map_err(broken)?;
            (name.to_owned(), array.ok_or_else(|| not_float(path, name))?)
        }
        None => only_input(path, &mut npz, &names)?,
    };
    let labels =
        if names.iter().any(|name| name == "labels") { Some(read_labels(path, &mut npz)?) } else { None };
    dataset(path, &name, array, labels, selection)
}

/// Writes `array` as `.npy`, whole or not at all.
pub fn write_npy(path: &Path, array: &ArrayD<f32>) -> Result<()> {
    files::write(path, |file| array.write_npy(file).map_err(std::io::Error::other))
}

/// The images of an `.npz` that has none of the known names: its only float array with four axes.
fn only_input(path: &Path, npz: &mut Npz, names: &[String]) -> Result<(String, ArrayD<f32>)> {
    let mut found = Vec::new();
    for name in names {
        if let Some(array) = read_float(npz, name).map_err(|e| Error::data(path.display(), e))?
            && array.ndim() == 4
        {
            found.push((name.clone(), array));
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        n => Err(Error::data(
            path.display(),
            format!(
                "{n} float arrays of shape [N, C, H, W]: expected one, or one called {}",
                INPUT_NAMES.join(" or ")
            ),
        )),
    }
}

/// Returns `None` if the elements are neither f32 nor f64.
fn read_float(npz: &mut Npz, name: &str) -> Result<Option<ArrayD<f32>>, ReadNpzError> {
    if let Some(array) = read_as::<f32>(npz, name)? {
        return Ok(Some(array));
    }
    Ok(read_as::<f64>(npz, name)?.map(|array| array.mapv(|x| x as f32)))
}

/// Returns `None` if the elements are of another type.
fn read_as<T: ReadableElement>(npz: &mut Npz, name: &str) -> Result<Option<ArrayD<T>>, ReadNpzError> {
    match npz.by_name::<ndarray::OwnedRepr<T>, IxDyn>(name) {
        Err(ReadNpzError::Npy(ReadNpyError::WrongDescriptor(_))) => Ok(None),
        array => array.map(Some),
    }
}

fn not_float(path: &Path, name: &str) -> Error {
    Error::data(path.display(), format!("`{name}` must hold float32 or float64"))
}

fn read_labels(path: &Path, npz: &mut Npz) -> Result<Vec<u32>> {
    macro_rules! try_types {
        ($($type:ty),*) => {
            $(if let Some(array) = read_as::<$type>(npz, "labels").map_err(|e| Error::data(path.display(), e))? {
                return array
                    .iter()
                    .map(|&label| u32::try_from(label))
                    .collect::<Result<_, _>>()
                    .map_err(|_| Error::data(path.display(), "`labels` holds a number that is not a 0-based class"));
            })*
        };
    }
    try_types!(i64, i32, i16, i8, u64, u32, u16, u8);
    Err(Error::data(path.display(), "`labels` must hold integers"))
}

/// Takes the first `limit` rows of `array`, which must be `[N, C, H, W]` with finite elements.
fn dataset(
    path: &Path,
    name: &str,
    array: ArrayD<f32>,
    labels: Option<Vec<u32>>,
    selection: Selection,
) -> Result<Dataset> {
    let fault = |why: String| Error::data(path.display(), why);
    let shape = array.shape().to_vec();
    let mut array: Array4<f32> =
        array.into_dimensionality().ok().filter(|array: &Array4<f32>| !array.is_empty()).ok_or_else(
            || fault(format!("`{name}` has the shape {shape:?}, expected [N, C, H, W] with no axis of 0")),
        )?;
    let total = shape[0];
    if let Some(labels) = &labels
        && labels.len() != total
    {
        return Err(fault(format!("{} labels for {total} items, expected one per item", labels.len())));
    }
    let used = total.min(selection.limit.unwrap_or(total));
    if used < total || !array.is_standard_layout() {
        array = array.slice_axis(Axis(0), Slice::from(..used)).as_standard_layout().into_owned();
    }
    if let Some((at, x)) = array.indexed_iter().find(|(_, x)| !x.is_finite()) {
        return Err(fault(format!(
            "`{name}` holds {x} at {:?}, expected finite numbers",
            <[usize; 4]>::from(at)
        )));
    }
    Ok(Dataset {
        items: Items::Array(array),
        labels: labels.map(|labels| labels[..used].to_vec()),
        names: (0..used).map(|row| format!("{name}[{row}]")).collect(),
        rows: (0..used).collect(),
        total,
        notes: vec![],
    })
}
