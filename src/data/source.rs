//! Finds the images of a folder or a CSV file.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use walkdir::{DirEntry, WalkDir};

use super::labels::{Columns, Labels, Table};
use super::{Dataset, Items, MAX_PIXELS, Preprocess, Selection, jpeg2000, unread};
use crate::{Error, Result};

pub(super) fn open_folder(folder: &Path, preprocess: &Preprocess, selection: Selection) -> Result<Dataset> {
    preprocess.check()?;
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut skipped = Skipped::default();
    for entry in WalkDir::new(folder) {
        let entry = entry.map_err(|e| {
            let place = e.path().unwrap_or(folder).to_owned();
            Error::io(&place, e.into())
        })?;
        if entry.file_type().is_file() && is_image_name(entry.path()) {
            found.push((relative_name(entry.path(), folder), entry.into_path()));
        } else {
            skipped.add(&entry);
        }
    }
    if found.is_empty() {
        let why =
            "no images here (bmp, gif, jp2, jpeg, png, pnm, tiff, webp; symbolic links are not followed)";
        let why = skipped.note().map_or(why.into(), |note| format!("{why}; {note}"));
        return Err(Error::data(folder.display(), why));
    }
    found.sort_unstable();

    let folder_of = |(name, _): &(String, PathBuf)| name.split_once('/').map(|(folder, _)| folder.to_owned());
    let folders = found.iter().filter_map(folder_of).collect();
    let total = found.len();
    let rows = sample(total, selection);
    let (names, paths) = rows.iter().map(|&row| std::mem::take(&mut found[row])).unzip();
    let items = Items::Images { paths, preprocess: preprocess.clone() };
    let notes = skipped.note().into_iter().collect();
    Ok(Dataset {
        items,
        labels: None,
        label_sets: None,
        max_pixels: MAX_PIXELS,
        names,
        rows,
        total,
        folders,
        notes,
    })
}

/// Keeps the order of the rows. Paths are relative to the folder of the CSV file.
pub(super) fn open_csv(
    csv: &Path,
    preprocess: &Preprocess,
    selection: Selection,
    columns: &Columns,
) -> Result<Dataset> {
    preprocess.check()?;
    let table = Table::read(csv, columns)?;
    let Table { paths, labels } = if columns.several { table.joined() } else { table };
    let Some(mut names) = paths else {
        return Err(Error::data(csv.display(), "no `path` column in the first line"));
    };
    let total = names.len();
    let rows = rows_of(total, selection);
    names = names.drain(rows.clone()).collect();
    let folder = csv.parent().unwrap_or(Path::new(""));
    let paths = names.iter().map(|name| folder.join(name)).collect();
    // Labels that make no sense are no fault where none are needed.
    let (labels, notes) = match labels {
        Some(Ok(mut labels)) => {
            labels = labels.drain(rows.clone()).collect();
            (Some(Labels::of(labels, columns.several)), vec![])
        }
        Some(Err(error)) => (None, vec![format!("the labels are not used: {error}")]),
        None => (None, vec![]),
    };
    let items = Items::Images { paths, preprocess: preprocess.clone() };
    let rows = rows.collect();
    let folders = BTreeSet::new();
    let mut data = Dataset {
        items,
        labels: None,
        label_sets: None,
        max_pixels: MAX_PIXELS,
        names,
        rows,
        total,
        folders,
        notes,
    };
    if let Some(labels) = labels {
        data.label(labels);
    }
    Ok(data)
}

pub(super) fn open_image(path: &Path, preprocess: &Preprocess) -> Result<Dataset> {
    preprocess.check()?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let items = Items::Images { paths: vec![path.to_owned()], preprocess: preprocess.clone() };
    Ok(Dataset {
        items,
        labels: None,
        label_sets: None,
        max_pixels: MAX_PIXELS,
        names: vec![name],
        rows: vec![0],
        total: 1,
        folders: BTreeSet::new(),
        notes: vec![],
    })
}

/// The rows of a source that has an order.
pub(super) fn rows_of(total: usize, Selection { limit, skip, .. }: Selection) -> Range<usize> {
    let first = skip.min(total);
    first..limit.map_or(total, |limit| total.min(first.saturating_add(limit)))
}

/// What a folder has beside images.
#[derive(Default)]
struct Skipped {
    links: usize,
    /// By extension.
    files: BTreeMap<String, usize>,
}

impl Skipped {
    /// Counts what is neither a folder nor hidden.
    fn add(&mut self, entry: &DirEntry) {
        if entry.path_is_symlink() {
            self.links += 1;
        } else if !entry.file_type().is_dir() && !is_hidden(entry.path()) {
            let extension =
                entry.path().extension().map(|e| format!(".{}", e.to_string_lossy().to_lowercase()));
            *self.files.entry(extension.unwrap_or_else(|| "without an extension".into())).or_default() += 1;
        }
    }

    /// As `12 files are no images (10 .txt, 2 .xml), 1 symbolic link is not followed`; `None` if there is nothing.
    fn note(&self) -> Option<String> {
        const SHOWN: usize = 5;
        let total: usize = self.files.values().sum();
        let mut kinds: Vec<_> = self.files.iter().collect();
        kinds.sort_by_key(|(_, count)| Reverse(**count));
        let mut parts: Vec<String> =
            kinds.iter().take(SHOWN).map(|(kind, count)| format!("{count} {kind}")).collect();
        if let Some(rest) = kinds.get(SHOWN..).filter(|rest| !rest.is_empty()) {
            parts.push(format!("{} others", rest.iter().map(|(_, count)| **count).sum::<usize>()));
        }
        let files = (total > 0).then(|| {
            let are = if total == 1 { "file is no image" } else { "files are no images" };
            format!("{total} {are} ({})", parts.join(", "))
        });
        let links = (self.links > 0).then(|| match self.links {
            1 => "1 symbolic link is not followed".to_string(),
            links => format!("{links} symbolic links are not followed"),
        });
        let formats: BTreeSet<&str> =
            self.files.keys().filter_map(|kind| unread::format_by_extension(kind)).collect();
        let formats = (!formats.is_empty()).then(|| {
            let names = formats.into_iter().collect::<Vec<_>>().join(" and ");
            format!("{names} images are not read: convert them to PNG")
        });
        let parts: Vec<String> = files.into_iter().chain(formats).chain(links).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Goes by the extension. Names that begin with a dot are hidden (and macOS's `._x.jpg` are not images).
fn is_image_name(path: &Path) -> bool {
    let is_jpeg2000 = || {
        path.extension()
            .is_some_and(|e| jpeg2000::EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
    };
    let is_read = || ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled());
    !is_hidden(path) && (is_read() || is_jpeg2000())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The path below `folder`, with `/` on every system.
fn relative_name(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path);
    below.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Draws `limit` of `total` rows behind the first `skip` that it would draw, every set equally likely, in ascending order.
fn sample(total: usize, Selection { limit, seed, skip }: Selection) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..total).collect();
    let used = total.min(limit.map_or(total, |limit| limit.saturating_add(skip)));
    if used < total || skip > 0 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for i in 0..used {
            // Drawing u64 gives the same rows on 32-bit systems.
            rows.swap(i, random.random_range(i as u64..total as u64) as usize);
        }
        rows.truncate(used);
        rows.drain(..skip.min(used));
        rows.sort_unstable();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_ascending_distinct_and_depend_on_the_seed() {
        let of = |limit, seed| sample(100, Selection { limit, seed, skip: 0 });
        assert_eq!(of(None, 0), (0..100).collect::<Vec<_>>());
        assert_eq!(of(Some(200), 0), of(None, 0));
        assert_eq!(of(Some(32), 7), of(Some(32), 7));
        assert_ne!(of(Some(32), 7), of(Some(32), 8));
        assert!(of(Some(32), 7).is_sorted_by(|a, b| a < b));
        assert_eq!(of(Some(32), 7).len(), 32);
        // What one selection skips is what another one draws.
        let behind = sample(100, Selection { limit: Some(60), seed: 7, skip: 32 });
        let mut both = [of(Some(32), 7), behind.clone()].concat();
        both.sort_unstable();
        assert_eq!((behind.len(), both), (60, of(Some(92), 7)));
        assert_eq!(sample(10, Selection { limit: Some(5), seed: 0, skip: 20 }), [0; 0]);
    }

    #[test]
    fn images_are_known_by_name() {
        for (name, expected) in [
            ("a.JPEG", true),
            ("a.b.png", true),
            ("a.txt", false),
            ("._a.jpg", false),
            ("jpg", false),
            ("a.avif", false),
            ("a.JP2", true),
            ("a.j2k", true),
        ] {
            assert_eq!(is_image_name(Path::new(name)), expected, "{name}");
        }
    }
}
