//! Reads images and arrays from disk into the batches that a model takes.

mod arrays;
mod claims;
mod decode;
mod jpeg2000;
mod labels;
mod preprocess;
mod source;
mod statistics;
mod thumbnail;
mod unread;
mod whole;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{Array3, Array4, ArrayD, Axis, s, stack};
use rayon::prelude::*;

use crate::{Error, ErrorKind, Result, files};

pub use arrays::{is_array, named_arrays, read_array, write_npy};
/// The most pixels of an image, unless others are allowed.
pub const MAX_PIXELS: u64 = decode::MAX_PIXELS;

pub use labels::Columns;
use labels::Labels;
pub use preprocess::{Anchor, Color, Interpolation, Preprocess, Resize, Values};
pub use statistics::{Statistics, UNIT_SCALED};

/// How many items of a source are used, and which.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// The largest number of items; `None` uses all.
    pub limit: Option<usize>,
    /// The seed of a folder's random sample. CSV files and arrays are taken from their first row on.
    pub seed: u64,
    /// So many that this selection would begin with are left out: they are those of another one, which has no `skip`.
    pub skip: usize,
}

/// An ordered set of model inputs. Images are decoded when they are loaded.
#[derive(Debug)]
pub struct Dataset {
    /// Where the inputs come from.
    pub items: Items,
    /// One 0-based class per item, if the classes are known.
    pub labels: Option<Vec<u32>>,
    /// The 0-based labels of every item, in ascending order, where an item may have any number of them: in place of `labels`.
    pub label_sets: Option<Vec<Vec<u32>>>,
    /// The most pixels of an image; a larger one is refused before it is decoded.
    pub max_pixels: u64,
    /// One name per item: the path of an image relative to its folder or CSV file, or for an array `images[3]`.
    pub names: Vec<String>,
    /// The row of the source that each item comes from, by which labels without paths are matched.
    rows: Vec<usize>,
    /// The number of rows that the source has.
    total: usize,
    /// The folders in a folder of images that have some, each class one.
    folders: BTreeSet<String>,
    /// What should be said of the items.
    pub notes: Vec<String>,
}

/// What an array becomes: `[N, C, H, W]`, and what should be said of that.
pub type Arrange<'a> = dyn Fn(ArrayD<f32>) -> Result<(Array4<f32>, Option<String>)> + 'a;

/// How the arrays, and the columns, of a file become the images of a model.
pub struct Arrays<'a> {
    /// The name under which an `.npz` has them: that of the model's input.
    pub name: &'a str,
    /// What becomes of their axes and values.
    pub arrange: &'a Arrange<'a>,
    /// How the columns of CSV files are called.
    pub columns: &'a Columns,
}

/// The inputs of a [`Dataset`].
#[derive(Debug)]
pub enum Items {
    /// Image files, and how each becomes a model input.
    Images {
        /// One path per item.
        paths: Vec<PathBuf>,
        /// The steps from the decoded file to the model input.
        preprocess: Preprocess,
    },
    /// `[N, C, H, W]` as the model takes it. No preprocessing is applied.
    Array(Array4<f32>),
}

impl Dataset {
    /// Opens a folder of images, a `.csv` file with a `path` column, a `.npy` or `.npz` array, or one image.
    ///
    /// A folder is searched recursively without following symbolic links, and its images are sorted by relative path.
    /// A random sample of `selection.limit` images keeps that order.
    pub fn open(path: &Path, preprocess: &Preprocess, selection: Selection) -> Result<Self> {
        let arrays = Arrays { name: "images", arrange: &arrays::as_images, columns: &Columns::default() };
        Self::open_with(path, preprocess, selection, &arrays)
    }

    /// As [`open`](Self::open), for arrays in the form of some model.
    pub fn open_with(
        path: &Path,
        preprocess: &Preprocess,
        selection: Selection,
        arrays: &Arrays,
    ) -> Result<Self> {
        if selection.limit == Some(0) {
            return Err(Error::usage("a limit of 0 images leaves nothing to do, expected at least 1"));
        }
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            _ if metadata.is_dir() => source::open_folder(path, preprocess, selection),
            Some("csv") => source::open_csv(path, preprocess, selection, arrays.columns),
            Some("npy") => arrays::open_npy(path, selection, arrays),
            Some("npz") => arrays::open_npz(path, selection, arrays),
            _ => {
                files::open(path)?;
                source::open_image(path, preprocess)
            }
        }
    }

    /// The images of an array `[N, C, H, W]`, as the model takes them.
    pub fn of_array(array: Array4<f32>) -> Self {
        let total = array.len_of(Axis(0));
        Self {
            items: Items::Array(array),
            labels: None,
            label_sets: None,
            max_pixels: MAX_PIXELS,
            names: (0..total).map(|row| format!("images[{row}]")).collect(),
            rows: (0..total).collect(),
            total,
            folders: BTreeSet::new(),
            notes: vec![],
        }
    }

    /// Takes the labels from the column `label` of a CSV file.
    ///
    /// A column `path` matches them to images by relative path, or by file name where only one file has that name.
    /// Without it, there is one label per item of the source, in its order.
    pub fn with_labels(self, csv: &Path) -> Result<Self> {
        self.with_labels_of(csv, &Columns::default())
    }

    /// As [`with_labels`](Self::with_labels), with columns of other names.
    pub fn with_labels_of(mut self, csv: &Path, columns: &Columns) -> Result<Self> {
        let labels = labels::labels_of(&self, csv, columns)?;
        self.label(labels);
        Ok(self)
    }

    /// Takes the labels from the folders that the images lie in: from their names, if these are numbers or names of classes;
    /// else from the order of the names.
    pub fn with_labels_of_folders(mut self, columns: &Columns) -> Result<Self> {
        let (labels, note) = labels::labels_of_folders(&self, columns)?;
        let sets = labels.into_iter().map(|label| vec![label]).collect();
        self.label(Labels::of(sets, columns.several));
        self.notes = note.into_iter().collect();
        Ok(self)
    }

    /// The same with these labels alone.
    fn label(&mut self, labels: Labels) {
        (self.labels, self.label_sets) = match labels {
            Labels::One(labels) => (Some(labels), None),
            Labels::Several(sets) => (None, Some(sets)),
        };
    }

    /// Leaves out the items that cannot be loaded, each of which is loaded once for that. Gives their errors, which name
    /// them; an error if nothing is left.
    pub fn without_broken(&mut self) -> Result<Vec<Error>> {
        let loaded: Vec<Option<Error>> =
            (0..self.len()).into_par_iter().map(|index| self.load(index).err()).collect();
        let is_broken =
            |error: &Error| matches!(error.kind(), ErrorKind::Data | ErrorKind::Pixels | ErrorKind::Io);
        let keep: Vec<bool> = loaded.iter().map(|error| !error.as_ref().is_some_and(is_broken)).collect();
        if !keep.contains(&true) {
            return Err(loaded.into_iter().flatten().next().expect("there are items, and each is broken"));
        }
        self.retain(&keep);
        Ok(loaded.into_iter().flatten().filter(is_broken).collect())
    }

    /// Leaves the first `len` items, or all if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        let keep: Vec<bool> = (0..self.len()).map(|index| index < len).collect();
        self.retain(&keep);
    }

    /// Leaves those items that `keep` says, at least one.
    fn retain(&mut self, keep: &[bool]) {
        retain(&mut self.names, keep);
        retain(&mut self.rows, keep);
        if let Some(labels) = &mut self.labels {
            retain(labels, keep);
        }
        if let Some(sets) = &mut self.label_sets {
            retain(sets, keep);
        }
        match &mut self.items {
            Items::Images { paths, .. } => retain(paths, keep),
            Items::Array(array) => {
                let kept: Vec<usize> = (0..keep.len()).filter(|&index| keep[index]).collect();
                if kept.len() < keep.len() {
                    *array = array.select(Axis(0), &kept);
                }
            }
        }
    }

    /// Of an array, which is taken as it is: what is in it.
    pub fn statistics(&self) -> Option<Statistics> {
        self.array().map(|array| Statistics::of(array.iter().copied()))
    }

    /// What is done to the images; `None` for an array, which is taken as it is.
    pub fn preprocess(&self) -> Option<&Preprocess> {
        match &self.items {
            Items::Images { preprocess, .. } => Some(preprocess),
            Items::Array(_) => None,
        }
    }

    /// The array, if the items are one.
    pub fn array(&self) -> Option<&Array4<f32>> {
        match &self.items {
            Items::Images { .. } => None,
            Items::Array(array) => Some(array),
        }
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no items, which [`Dataset::open`] refuses.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The shape `[C, H, W]` of every item; no image is decoded for it.
    pub fn item_shape(&self) -> [usize; 3] {
        match &self.items {
            Items::Images { preprocess, .. } => preprocess.shape(),
            Items::Array(array) => {
                let (_, channels, height, width) = array.dim();
                [channels, height, width]
            }
        }
    }

    /// Loads item `index` as `[C, H, W]`.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn load(&self, index: usize) -> Result<Array3<f32>> {
        match &self.items {
            Items::Images { paths, preprocess } => decode::load(&paths[index], preprocess, self.max_pixels),
            Items::Array(array) => Ok(array.index_axis(Axis(0), index).to_owned()),
        }
    }

    /// Loads the items of `range` in parallel as `[N, C, H, W]`, in their order.
    ///
    /// # Panics
    /// If `range` is empty or out of range.
    pub fn batch(&self, range: Range<usize>) -> Result<Array4<f32>> {
        if let Items::Array(array) = &self.items {
            return Ok(array.slice(s![range, .., .., ..]).to_owned());
        }
        let loaded: Vec<Result<Array3<f32>>> = range.into_par_iter().map(|index| self.load(index)).collect();
        // The first error in order is returned, on any number of threads.
        let images: Vec<Array3<f32>> = loaded.into_iter().collect::<Result<_>>()?;
        let views: Vec<_> = images.iter().map(|image| image.view()).collect();
        Ok(stack(Axis(0), &views).expect("every image has the shape of the crop, and there is one"))
    }
}

/// Leaves those elements that `keep` says.
fn retain<T>(all: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    all.retain(|_| keep.next() == Some(&true));
}

#[cfg(test)]
mod tests;
