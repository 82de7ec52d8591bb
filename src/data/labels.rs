//! Reads paths and labels from CSV files.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Dataset, Items};
use crate::{Error, Result, files};

/// In bytes: many times what the paths of the largest data sets take.
const LARGEST_FILE: u64 = 1 << 30;

/// How the columns of CSV files are called, and the classes.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// The column of paths; `None` for `path`, or one of the other usual names.
    pub path: Option<String>,
    /// The column of labels; `None` for `label`, or one of the other usual names.
    pub label: Option<String>,
    /// The names of the classes, from 0, by which labels may be written.
    pub classes: Vec<String>,
    /// Whether an item may have any number of labels: in one cell with `;` between them, or in several rows of the same path.
    pub several: bool,
}

/// What the columns are called where nobody says it; the first name that there is.
const PATHS: &[&str] = &["path", "image", "file", "filename", "file_name", "filepath", "image_path", "img"];
const LABELS: &[&str] = &["label", "class", "target", "class_id", "label_id", "category"];

impl Columns {
    /// The class that a label is: a number from 0, or a name.
    pub(super) fn class(&self, label: &str) -> Option<u32> {
        let label = label.trim();
        let named = || self.classes.iter().position(|name| name.eq_ignore_ascii_case(label));
        label.parse().ok().or_else(|| named().and_then(|class| u32::try_from(class).ok()))
    }

    /// The classes that a cell holds: one, or if there may be several, any number in ascending order. Else the text that is
    /// none.
    fn classes<'c>(&self, cell: &'c str) -> Result<Vec<u32>, &'c str> {
        let parts: Vec<&str> = match self.several {
            true => cell.split(';').filter(|label| !label.trim().is_empty()).collect(),
            false => vec![cell],
        };
        let mut found = parts
            .into_iter()
            .map(|label| self.class(label).ok_or(label))
            .collect::<Result<Vec<u32>, &str>>()?;
        sort(&mut found);
        Ok(found)
    }
}

/// In ascending order, each once.
fn sort(labels: &mut Vec<u32>) {
    labels.sort_unstable();
    labels.dedup();
}

/// The labels of items.
#[derive(Debug, PartialEq)]
pub(super) enum Labels {
    /// One of each.
    One(Vec<u32>),
    /// Any number of each, in ascending order.
    Several(Vec<Vec<u32>>),
}

impl Labels {
    /// Of items that have one each, if there may not be `several`.
    pub(super) fn of(sets: Vec<Vec<u32>>, several: bool) -> Self {
        match several {
            true => Self::Several(sets),
            false => Self::One(sets.into_iter().flatten().collect()),
        }
    }
}

/// The columns of paths and of labels of a CSV file. Other columns are ignored.
pub(super) struct Table {
    pub(super) paths: Option<Vec<String>>,
    /// Of every row: one, if there may not be several. An error where one is neither a class number nor the name of a class.
    pub(super) labels: Option<Result<Vec<Vec<u32>>>>,
}

impl Table {
    /// Reads the columns that the first line names. A file without either column, or without rows, is an error.
    pub(super) fn read(csv: &Path, columns: &Columns) -> Result<Self> {
        let bytes = files::read(csv, LARGEST_FILE)?;
        let fault = |line: usize, why: String| Error::data(format!("{}, line {line}", csv.display()), why);
        let broken = |e: csv::Error| {
            let line = e.position().map_or(1, |at| line_of(&bytes, at));
            match e.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    fault(line, format!("{len} fields, expected {expected_len} as in the first line"))
                }
                csv::ErrorKind::Utf8 { .. } => fault(line, "not in UTF-8".into()),
                _ => Error::data(csv.display(), e),
            }
        };
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let header = reader.headers().map_err(broken)?;
        let find = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let column = |given: &Option<String>, usual: &[&str]| match given {
            Some(name) => find(name).map(Some).ok_or_else(|| {
                Error::data(csv.display(), format!("the first line names no column `{name}`"))
            }),
            None => Ok(usual.iter().find_map(|name| find(name))),
        };
        let (path_column, label_column) = (column(&columns.path, PATHS)?, column(&columns.label, LABELS)?);
        if path_column.or(label_column).is_none() {
            let why = "the first line must name a column `path` or `label` (--path-column, --label-column)";
            return Err(Error::data(csv.display(), why));
        }

        let (mut paths, mut labels) = (Vec::new(), Ok(Vec::new()));
        for record in reader.records() {
            let record = record.map_err(broken)?;
            if let Some(column) = path_column {
                paths.push(record[column].to_owned());
            }
            if let (Some(column), Ok(found)) = (label_column, &mut labels) {
                let wrong = match columns.classes(&record[column]) {
                    Ok(classes) => {
                        found.push(classes);
                        continue;
                    }
                    Err(wrong) => wrong,
                };
                let line = record.position().map_or(1, |at| line_of(&bytes, at));
                let what = match columns.classes.is_empty() {
                    true => "is not a 0-based class number",
                    false => "is neither a 0-based class number nor the name of a class",
                };
                labels = Err(fault(line, format!("label `{wrong}` {what}")));
            }
        }
        if paths.is_empty() && labels.as_ref().is_ok_and(Vec::is_empty) {
            return Err(Error::data(csv.display(), "no rows below the first line"));
        }
        Ok(Self { paths: path_column.map(|_| paths), labels: label_column.map(|_| labels) })
    }

    /// The same with one row for each path, which has the labels of all its rows.
    pub(super) fn joined(self) -> Self {
        let Self { paths: Some(paths), labels: Some(Ok(labels)) } = self else { return self };
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        let (mut kept, mut sets): (Vec<String>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
        for (path, labels) in paths.into_iter().zip(labels) {
            let row = *rows.entry(normal(&path)).or_insert(kept.len());
            if row == kept.len() {
                kept.push(path);
                sets.push(Vec::new());
            }
            sets[row].extend(labels);
        }
        sets.iter_mut().for_each(sort);
        Self { paths: Some(kept), labels: Some(Ok(sets)) }
    }
}

/// The line on which a record begins that is read from `at`; empty lines may come before it.
fn line_of(bytes: &[u8], at: &csv::Position) -> usize {
    let at = usize::try_from(at.byte()).unwrap_or(usize::MAX).min(bytes.len());
    let is_end = |&byte: &u8| byte == b'\n' || byte == b'\r';
    let start = at + bytes[at..].iter().take_while(|byte| is_end(byte)).count();
    let ends = |i: usize| bytes[i] == b'\n' || (bytes[i] == b'\r' && bytes.get(i + 1) != Some(&b'\n'));
    1 + (0..start).filter(|&i| ends(i)).count()
}

/// Reads the labels of every item of `dataset` from `csv`.
pub(super) fn labels_of(dataset: &Dataset, csv: &Path, columns: &Columns) -> Result<Labels> {
    let place = csv.display();
    let mut table = Table::read(csv, columns)?;
    let by_path = table.paths.is_some() && matches!(dataset.items, Items::Images { .. });
    if by_path && columns.several {
        table = table.joined();
    }
    let labels = table.labels.ok_or_else(|| Error::data(&place, "no `label` column in the first line"))??;
    let found = match table.paths.filter(|_| by_path) {
        Some(paths) => match_paths(dataset, &paths, &labels).map_err(|why| Error::data(place, why))?,
        None if labels.len() == dataset.total => {
            dataset.rows.iter().map(|&row| labels[row].clone()).collect()
        }
        None => {
            let why = format!("{} labels for {} items, expected one per item", labels.len(), dataset.total);
            return Err(Error::data(place, why));
        }
    };
    Ok(Labels::of(found, columns.several))
}

/// The class of every image of a folder, which the folder that it lies in says: by a number, by the name of a class, or by its
/// place in the order of the names, as in torchvision's `ImageFolder`. Gives what should be said of that, too.
pub(super) fn labels_of_folders(dataset: &Dataset, columns: &Columns) -> Result<(Vec<u32>, Option<String>)> {
    let folder = |name: &String| name.split_once('/').map(|(folder, _)| folder.to_owned());
    let folders: Option<Vec<String>> = dataset.names.iter().map(folder).collect();
    let (Some(folders), Items::Images { .. }) = (folders, &dataset.items) else {
        return Err(Error::data("labels", "the images do not lie in a folder for each class"));
    };
    let known: Option<Vec<u32>> = folders.iter().map(|folder| columns.class(folder)).collect();
    if let Some(known) = known {
        return Ok((known, None));
    }
    let all: std::collections::BTreeSet<&String> = dataset.folders.iter().chain(&folders).collect();
    let at = |folder| all.iter().position(|other| *other == folder).expect("it is one of them") as u32;
    let note = format!("the classes are the {} folders in the order of their names", all.len());
    Ok((folders.iter().map(at).collect(), Some(note)))
}

fn match_paths(dataset: &Dataset, paths: &[String], labels: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, String> {
    let mut by_path: BTreeMap<String, &Vec<u32>> = BTreeMap::new();
    let mut by_file_name: BTreeMap<String, Vec<&Vec<u32>>> = BTreeMap::new();
    for (path, labels) in paths.iter().zip(labels) {
        let normal_path = normal(path);
        by_file_name.entry(file_name(&normal_path).to_owned()).or_default().push(labels);
        if by_path.insert(normal_path, labels).is_some_and(|other| other != labels) {
            return Err(format!("two labels for `{path}`"));
        }
    }
    let mut images_called: BTreeMap<String, usize> = BTreeMap::new();
    for name in &dataset.names {
        *images_called.entry(file_name(&normal(name)).to_owned()).or_default() += 1;
    }

    let label_of = |name: &String| {
        let path = normal(name);
        if let Some(&labels) = by_path.get(&path) {
            return Ok(labels.clone());
        }
        let file_name = file_name(&path);
        match by_file_name.get(file_name).map(Vec::as_slice) {
            None => Err(format!("no label for `{name}`")),
            Some(&[labels]) if images_called[file_name] == 1 => Ok(labels.clone()),
            Some(_) => {
                Err(format!("no label for `{name}`, and `{file_name}` alone is ambiguous: write the path"))
            }
        }
    };
    dataset.names.iter().map(label_of).collect()
}

fn normal(path: &str) -> String {
    let path = path.trim().replace('\\', "/");
    path.strip_prefix("./").unwrap_or(&path).to_owned()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
