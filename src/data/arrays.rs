//! Reads and writes NumPy arrays.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::Path;

use half::f16;
use ndarray::{Array4, ArrayD, ArrayViewD, Axis, Dimension as _, Ix4, Slice};
use ndarray_npy::{ReadNpyExt, WriteNpyExt};

use super::claims::{self, Claimed, Npz};
use super::labels::Labels;
use super::source::rows_of;
use super::{Arrays, Dataset, Items, MAX_PIXELS, Selection};
use crate::{Error, Result, files};

/// The names under which an `.npz` may hold its images beside that of the model's input, the preferred one first.
const INPUT_NAMES: [&str; 3] = ["images", "input", "x"];

pub(super) fn open_npy(path: &Path, selection: Selection, arrays: &Arrays) -> Result<Dataset> {
    let array = read(claims::open_npy(path)?).map_err(|why| Error::data(path.display(), why))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    dataset(path, &name, array.floats(), None, selection, arrays)
}

pub(super) fn open_npz(path: &Path, selection: Selection, arrays: &Arrays) -> Result<Dataset> {
    let mut npz = Npz::open(path)?;
    let names = npz.names();
    let known = [&[arrays.name], &INPUT_NAMES[..]].concat();
    let (name, array) = match known.iter().find(|&&known| names.iter().any(|name| name == known)) {
        Some(&name) => (name.to_owned(), read_from(&mut npz, name)?),
        None => only_input(path, &mut npz, &names)?,
    };
    let labels = if names.iter().any(|name| name == "labels") {
        Some(labels(path, read_from(&mut npz, "labels")?)?)
    } else {
        None
    };
    dataset(path, &name, array.floats(), labels, selection, arrays)
}

/// Whether a path is that of arrays, by its extension.
pub fn is_array(path: &Path) -> bool {
    ["npy", "npz"].iter().any(|array| has_extension(path, array))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The array in a `.npy` file.
pub fn read_array(path: &Path) -> Result<ArrayD<f64>> {
    let array = read(claims::open_npy(path)?).map_err(|why| Error::data(path.display(), why))?;
    Ok(array.doubles())
}

/// The arrays of an `.npz` file that have one of these names; none of another file.
pub fn named_arrays(path: &Path, names: &[&str]) -> Result<Vec<(String, ArrayD<f64>)>> {
    if !has_extension(path, "npz") {
        return Ok(Vec::new());
    }
    let mut npz = Npz::open(path)?;
    let present = npz.names().into_iter().filter(|name| names.contains(&name.as_str()));
    present.map(|name| Ok((name.clone(), read_from(&mut npz, &name)?.doubles()))).collect()
}

/// Writes `array` as `.npy`, whole or not at all.
pub fn write_npy(path: &Path, array: &ArrayD<f32>) -> Result<()> {
    files::write(path, |file| array.write_npy(file).map_err(std::io::Error::other))
}

/// As the array is: it must be `[N, C, H, W]`.
pub(super) fn as_images(array: ArrayD<f32>) -> Result<(Array4<f32>, Option<String>)> {
    let shape = array.shape().to_vec();
    let images = array.into_dimensionality::<Ix4>();
    let images = images
        .map_err(|_| Error::data("array", format!("has the shape {shape:?}, expected [N, C, H, W]")))?;
    Ok((images.as_standard_layout().into_owned(), None))
}

/// An array as it is in its file.
enum Stored {
    F32(ArrayD<f32>),
    F64(ArrayD<f64>),
    Int(ArrayD<i64>),
}

impl Stored {
    fn ndim(&self) -> usize {
        match self {
            Self::F32(array) => array.ndim(),
            Self::F64(array) => array.ndim(),
            Self::Int(array) => array.ndim(),
        }
    }

    fn floats(self) -> ArrayD<f32> {
        match self {
            Self::F32(array) => array,
            Self::F64(array) => array.mapv(|x| x as f32),
            Self::Int(array) => array.mapv(|x| x as f32),
        }
    }

    fn doubles(self) -> ArrayD<f64> {
        match self {
            Self::F32(array) => array.mapv(f64::from),
            Self::F64(array) => array,
            Self::Int(array) => array.mapv(|x| x as f64),
        }
    }
}

/// The images of an `.npz` that has none of the known names: its only array with four axes, or else with two or more.
fn only_input(path: &Path, npz: &mut Npz, names: &[String]) -> Result<(String, Stored)> {
    let mut found = Vec::new();
    for name in names.iter().filter(|name| *name != "labels") {
        // Arrays of other types are somebody else's.
        if let Ok(array) = read_from(npz, name)
            && array.ndim() >= 2
        {
            found.push((name.clone(), array));
        }
    }
    if found.iter().any(|(_, array)| array.ndim() == 4) {
        found.retain(|(_, array)| array.ndim() == 4);
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        n => Err(Error::data(
            path.display(),
            format!(
                "{n} arrays of shape [N, C, H, W]: expected one, or one called {}",
                INPUT_NAMES.join(" or ")
            ),
        )),
    }
}

fn read_from(npz: &mut Npz, name: &str) -> Result<Stored> {
    let place = format!("{}, `{name}`", npz.path.display());
    let claimed = npz.by_name(name).map_err(|e| Error::data(&place, e))?;
    read(claimed).map_err(|why| Error::data(&place, why))
}

/// Reads one array of floats, integers or booleans.
fn read<R: Read>(claimed: Claimed<R>) -> Result<Stored, String> {
    let Claimed { mut header, data } = claimed;
    let found = element(&header).ok_or("not a NumPy array, or one of no plain type")?;
    let of = |header: Vec<u8>| Cursor::new(header).chain(data);
    macro_rules! ints {
        ($type:ty) => {
            ArrayD::<$type>::read_npy(of(header)).map(|array| Stored::Int(array.mapv(i64::from)))
        };
    }
    let array = match &found[found.len().saturating_sub(2)..] {
        "f4" => ArrayD::<f32>::read_npy(of(header)).map(Stored::F32),
        "f8" => ArrayD::<f64>::read_npy(of(header)).map(Stored::F64),
        // ndarray-npy has no 16-bit floats: their bits are read as integers.
        "f2" => {
            replace(&mut header, found.as_bytes(), found.replace("f2", "u2").as_bytes());
            ArrayD::<u16>::read_npy(of(header))
                .map(|bits| Stored::F32(bits.mapv(|bits| f16::from_bits(bits).to_f32())))
        }
        "u1" => ints!(u8),
        "i1" => ints!(i8),
        "u2" => ints!(u16),
        "i2" => ints!(i16),
        "u4" => ints!(u32),
        "i4" => ints!(i32),
        "i8" => ArrayD::<i64>::read_npy(of(header)).map(Stored::Int),
        "u8" => ArrayD::<u64>::read_npy(of(header)).map(|array| Stored::Int(array.mapv(|x| x as i64))),
        "b1" => ArrayD::<bool>::read_npy(of(header)).map(|array| Stored::Int(array.mapv(i64::from))),
        _ => return Err(format!("elements of type {found}, expected floats, integers or booleans")),
    };
    array.map_err(|e| e.to_string())
}

/// The type in a header, such as `<f4`.
fn element(header: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(header);
    let (_, rest) = text.split_once("'descr'")?;
    let (_, rest) = rest.split_once('\'')?;
    let (found, _) = rest.split_once('\'')?;
    (found.len() <= 3 && found.is_ascii()).then(|| found.to_owned())
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
}

/// The labels `[N]`, or what each item has of `L` labels, `[N, L]` of zeros and ones.
fn labels(path: &Path, array: Stored) -> Result<Labels> {
    let fault = |why: String| Error::data(path.display(), why);
    let Stored::Int(array) = array else {
        return Err(fault("`labels` must hold integers".into()));
    };
    if array.ndim() == 2 && array.len_of(Axis(1)) > 1 {
        if let Some(other) = array.iter().find(|&&has| has != 0 && has != 1) {
            let why = format!("`labels` of shape {:?} holds {other}, expected 0 or 1", array.shape());
            return Err(fault(why));
        }
        let set = |row: ArrayViewD<i64>| {
            row.iter().zip(0..).filter(|(has, _)| **has == 1).map(|(_, label)| label).collect()
        };
        return Ok(Labels::Several(array.outer_iter().map(set).collect()));
    }
    let label = |&label: &i64| {
        let why = format!("`labels` holds {label}, a number that is not a 0-based class");
        u32::try_from(label).map_err(|_| fault(why))
    };
    Ok(Labels::One(array.iter().map(label).collect::<Result<_>>()?))
}

/// Takes the first `limit` rows of `array`, whose elements must be finite.
fn dataset(
    path: &Path,
    name: &str,
    mut array: ArrayD<f32>,
    labels: Option<Labels>,
    selection: Selection,
    arrays: &Arrays,
) -> Result<Dataset> {
    let fault = |why: String| Error::data(path.display(), why);
    let shape = array.shape().to_vec();
    if array.ndim() == 0 || array.is_empty() {
        return Err(fault(format!(
            "`{name}` has the shape {shape:?}, expected [N, C, H, W] with no axis of 0"
        )));
    }
    let total = shape[0];
    let count = labels.as_ref().map(|labels| match labels {
        Labels::One(labels) => labels.len(),
        Labels::Several(sets) => sets.len(),
    });
    if let Some(count) = count.filter(|count| *count != total) {
        return Err(fault(format!("{count} labels for {total} items, expected one per item")));
    }
    let used = rows_of(total, selection);
    if used.len() < total {
        array = array.slice_axis(Axis(0), Slice::from(used.clone())).to_owned();
    }
    if let Some((at, x)) = array.indexed_iter().find(|(_, x)| !x.is_finite()) {
        return Err(fault(format!("`{name}` holds {x} at {:?}, expected finite numbers", at.slice())));
    }
    let (array, note): (Array4<f32>, _) =
        (arrays.arrange)(array).map_err(|error| fault(format!("`{name}`: {error}")))?;
    let (labels, label_sets) = match labels {
        Some(Labels::One(labels)) => (Some(labels[used.clone()].to_vec()), None),
        Some(Labels::Several(sets)) => (None, Some(sets[used.clone()].to_vec())),
        None => (None, None),
    };
    Ok(Dataset {
        items: Items::Array(array),
        labels,
        label_sets,
        max_pixels: MAX_PIXELS,
        names: used.clone().map(|row| format!("{name}[{row}]")).collect(),
        rows: used.collect(),
        total,
        folders: BTreeSet::new(),
        notes: note.into_iter().collect(),
    })
}
