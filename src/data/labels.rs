//! Reads paths and labels from CSV files.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Dataset, Items};
use crate::{Error, Result, files};

/// In bytes: many times what the paths of the largest data sets take.
const LARGEST_FILE: u64 = 1 << 30;

/// The columns `path` and `label` of a CSV file. Other columns are ignored.
pub(super) struct Table {
    pub(super) paths: Option<Vec<String>>,
    pub(super) labels: Option<Vec<u32>>,
}

impl Table {
    /// Reads the columns that the first line names. A file without either column, or without rows, is an error.
    pub(super) fn read(csv: &Path) -> Result<Self> {
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
        let column = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let (path_column, label_column) = (column("path"), column("label"));
        if path_column.or(label_column).is_none() {
            return Err(Error::data(csv.display(), "the first line must name a column `path` or `label`"));
        }

        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record.map_err(broken)?;
            if let Some(column) = path_column {
                paths.push(record[column].to_owned());
            }
            if let Some(column) = label_column {
                let cell = &record[column];
                let label = cell.trim().parse().map_err(|_| {
                    let line = record.position().map_or(1, |at| line_of(&bytes, at));
                    fault(line, format!("label `{cell}` is not a 0-based class number"))
                })?;
                labels.push(label);
            }
        }
        if paths.is_empty() && labels.is_empty() {
            return Err(Error::data(csv.display(), "no rows below the first line"));
        }
        Ok(Self { paths: path_column.map(|_| paths), labels: label_column.map(|_| labels) })
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

/// Reads the label of every item of `dataset` from `csv`.
pub(super) fn labels_of(dataset: &Dataset, csv: &Path) -> Result<Vec<u32>> {
    let place = csv.display();
    match Table::read(csv)? {
        Table { labels: None, .. } => Err(Error::data(place, "no `label` column in the first line")),
        Table { paths: Some(paths), labels: Some(labels) }
            if matches!(dataset.items, Items::Images { .. }) =>
        {
            match_paths(dataset, &paths, &labels).map_err(|why| Error::data(place, why))
        }
        Table { labels: Some(labels), .. } if labels.len() == dataset.total => {
            Ok(dataset.rows.iter().map(|&row| labels[row]).collect())
        }
        Table { labels: Some(labels), .. } => Err(Error::data(
            place,
            format!("{} labels for {} items, expected one per item", labels.len(), dataset.total),
        )),
    }
}

fn match_paths(dataset: &Dataset, paths: &[String], labels: &[u32]) -> Result<Vec<u32>, String> {
    let mut by_path: BTreeMap<String, u32> = BTreeMap::new();
    let mut by_file_name: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (path, &label) in paths.iter().zip(labels) {
        let normal_path = normal(path);
        by_file_name.entry(file_name(&normal_path).to_owned()).or_default().push(label);
        if by_path.insert(normal_path, label).is_some_and(|other| other != label) {
            return Err(format!("two labels for `{path}`"));
        }
    }
    let mut images_called: BTreeMap<String, usize> = BTreeMap::new();
    for name in &dataset.names {
        *images_called.entry(file_name(&normal(name)).to_owned()).or_default() += 1;
    }

    let label_of = |name: &String| {
        let path = normal(name);
        if let Some(&label) = by_path.get(&path) {
            return Ok(label);
        }
        let file_name = file_name(&path);
        match by_file_name.get(file_name).map(Vec::as_slice) {
            None => Err(format!("no label for `{name}`")),
            Some(&[label]) if images_called[file_name] == 1 => Ok(label),
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
