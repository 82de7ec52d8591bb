//! External data: tensors that live in a file beside the model's.
//!
//! The location is written by whoever made the model, so it must name a plain file inside the model's folder: anything
//! else would let a model read the files of its user. Stores that keep each content once (the cache of Hugging Face) have
//! links in place of files. A link is followed only where the user named the model by a link, too, and to the folder where
//! the model itself is.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::tensor_proto::DataLocation;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto,
};
use super::{foreign, mmap, tensor};
use crate::error::{Error, Result};
use crate::files;

/// Where a model file is.
pub(super) struct Place {
    /// The folder of the path that the user named.
    folder: PathBuf,
    /// The folder where that path leads, if it is a link.
    behind_link: Option<PathBuf>,
    /// Whether the file has more than one name.
    has_hard_links: bool,
}

impl Place {
    /// Of the opened model `file` that the user named `path`.
    pub(super) fn of(path: &Path, file: &File) -> std::io::Result<Self> {
        let is_link = path.symlink_metadata()?.is_symlink();
        let real = if is_link { Some(path.canonicalize()?) } else { None };
        Ok(Self {
            folder: files::folder_of(path).to_owned(),
            behind_link: real.map(|real| files::folder_of(&real).to_owned()),
            has_hard_links: names_of(&file.metadata()?) > 1,
        })
    }
}

/// Turns every external tensor into an inline one that shares the mapped file. Returns whether there was any.
///
/// `None` as place: there is nowhere to look, external data is an error. The caller has bounded the nesting.
pub(super) fn inline(model: &mut ModelProto, at: Option<&Place>) -> Result<bool> {
    let mut files = HashMap::new();
    let mut found = false;
    each_tensor(model, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            found = true;
            let place = format!("tensor `{}`", tensor.name());
            let bytes = load(tensor, at, &mut files).map_err(|why| Error::model(place, why))?;
            tensor.raw_data = Some(bytes);
            tensor.data_location = None;
            tensor.external_data.clear();
        } else if !tensor.external_data.is_empty() {
            let why = "has external_data entries, but its data_location is not EXTERNAL";
            return Err(Error::model(format!("tensor `{}`", tensor.name()), why));
        }
        Ok(())
    })?;
    Ok(found)
}

fn load(
    tensor: &TensorProto,
    place: Option<&Place>,
    files: &mut HashMap<PathBuf, Bytes>,
) -> Result<Bytes, String> {
    let location = entry(&tensor.external_data, "location").unwrap_or_default();
    let place = place.ok_or_else(|| {
        format!(
            "its data are in another file (`{location}`): read the model from its path, or store them inline"
        )
    })?;
    let expected = tensor::byte_len(tensor)?;
    let offset = number(&tensor.external_data, "offset")?.unwrap_or(0);
    let length = number(&tensor.external_data, "length")?.unwrap_or(expected);
    let path = Path::new(location);
    let file = match files.get(path) {
        Some(file) => file,
        None => files.entry(path.to_owned()).or_insert(open(place, location)?),
    };
    let end = offset.checked_add(length).filter(|end| *end <= file.len()).ok_or_else(|| {
        let is = foreign::recognize(file).map_or(String::new(), |found| format!(", which is {found}"));
        format!(
            "offset {offset} and length {length} reach beyond the {} bytes of `{location}`{is}",
            file.len()
        )
    })?;
    Ok(file.slice(offset..end))
}

/// Maps the file, which must be a plain one inside the model's folder, reached without a link that leaves it.
fn open(place: &Place, location: &str) -> Result<Bytes, String> {
    let relative = Path::new(location);
    let plain = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || !relative.components().all(plain) {
        return Err(format!("external data location `{location}` is not a path inside the model's folder"));
    }
    let refuse = |why: &str| {
        format!(
            "external data file `{location}` {why}: copy it and the model to a folder of their own (`cp -L` follows links)"
        )
    };
    let missing =
        |e: std::io::Error| format!("external data file `{location}` in `{}`: {e}", place.folder.display());

    let Found { path, metadata: seen, is_link } = match (find(&place.folder, relative), &place.behind_link) {
        // A link to the model alone: its data lie where it is.
        (Err(e), Some(real)) if e.kind() == ErrorKind::NotFound => find(real, relative).map_err(missing)?,
        (found, _) => found.map_err(missing)?,
    };
    let leaves = is_link && path.canonicalize().map_err(missing)?.parent() != place.behind_link.as_deref();
    if leaves {
        return Err(refuse("is reached through a symbolic link that the model is not reached through"));
    }
    if !seen.is_file() {
        return Err(refuse("is not a regular file"));
    }
    let file = File::open(&path).map_err(missing)?;
    let opened = file.metadata().map_err(missing)?;
    if !is_same(&seen, &opened) {
        return Err(refuse("was swapped while it was opened"));
    }
    if names_of(&opened) > 1 && !place.has_hard_links {
        return Err(refuse("has more than one name (hard links)"));
    }
    mmap::map(&file).map_err(missing)
}

/// A file, of which it was looked whether links lead to it.
struct Found {
    path: PathBuf,
    metadata: Metadata,
    is_link: bool,
}

fn find(folder: &Path, relative: &Path) -> std::io::Result<Found> {
    let (mut path, mut is_link) = (folder.to_owned(), false);
    for part in relative.components() {
        path.push(part);
        is_link |= path.symlink_metadata()?.is_symlink();
    }
    Ok(Found { metadata: path.metadata()?, path, is_link })
}

/// Whether the file that was opened is the one that was looked at.
#[cfg(unix)]
fn is_same(seen: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (seen.dev(), seen.ino()) == (opened.dev(), opened.ino())
}

/// How many names a file has.
#[cfg(unix)]
fn names_of(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

/// Other systems have no portable way to ask: the checks of the path must do.
#[cfg(not(unix))]
fn is_same(_: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
}

/// Other systems have no portable way to ask.
#[cfg(not(unix))]
fn names_of(_: &Metadata) -> u64 {
    1
}

fn entry<'a>(entries: &'a [StringStringEntryProto], key: &str) -> Option<&'a str> {
    entries.iter().find(|e| e.key() == key).map(StringStringEntryProto::value)
}

fn number(entries: &[StringStringEntryProto], key: &str) -> Result<Option<usize>, String> {
    let Some(text) = entry(entries, key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("external data {key} `{text}` is not a whole number"))
}

pub(crate) type Visit<'a> = dyn FnMut(&mut TensorProto) -> Result<()> + 'a;

/// Calls `visit` on every tensor of the model, wherever it is.
pub(crate) fn each_tensor(model: &mut ModelProto, visit: &mut Visit) -> Result<()> {
    let training =
        model.training_info.iter_mut().flat_map(|t| [&mut t.initialization, &mut t.algorithm]).flatten();
    for graph in model.graph.iter_mut().chain(training) {
        in_graph(graph, visit)?;
    }
    for function in &mut model.functions {
        in_attributes(&mut function.attribute_proto, visit)?;
        in_nodes(&mut function.node, visit)?;
    }
    Ok(())
}

fn in_graph(graph: &mut GraphProto, visit: &mut Visit) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    graph.sparse_initializer.iter_mut().flat_map(parts).try_for_each(&mut *visit)?;
    in_nodes(&mut graph.node, visit)
}

fn in_nodes(nodes: &mut [NodeProto], visit: &mut Visit) -> Result<()> {
    nodes.iter_mut().try_for_each(|node| in_attributes(&mut node.attribute, visit))
}

fn in_attributes(attributes: &mut [AttributeProto], visit: &mut Visit) -> Result<()> {
    for attribute in attributes {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        let sparse = attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors);
        sparse.flat_map(parts).try_for_each(&mut *visit)?;
        attribute.subgraphs_mut().try_for_each(|graph| in_graph(graph, visit))?;
    }
    Ok(())
}

fn parts(sparse: &mut SparseTensorProto) -> impl Iterator<Item = &mut TensorProto> {
    sparse.values.iter_mut().chain(&mut sparse.indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(entries: &[(&str, &str)], dims: &[i64]) -> TensorProto {
        let entry =
            |&(k, v): &(&str, &str)| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
        TensorProto {
            dims: dims.to_vec(),
            data_type: Some(1),
            external_data: entries.iter().map(entry).collect(),
            ..Default::default()
        }
    }

    fn place(folder: &Path) -> Place {
        Place { folder: folder.to_owned(), behind_link: None, has_hard_links: false }
    }

    #[test]
    fn offset_and_length_select_a_slice() {
        #[track_caller]
        fn check(entries: &[(&str, &str)], dims: &[i64], expected: Result<&[u8], &str>) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("w"), (0..16).collect::<Vec<u8>>()).unwrap();
            let entries = [&[("location", "w")], entries].concat();
            let loaded = load(&external(&entries, dims), Some(&place(folder.path())), &mut HashMap::new());
            match (loaded, expected) {
                (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (loaded, expected) => panic!("{loaded:?}, expected {expected:?}"),
            }
        }
        check(&[], &[1], Ok(&[0, 1, 2, 3]));
        check(&[("offset", "12")], &[1], Ok(&[12, 13, 14, 15]));
        check(&[("offset", "8"), ("length", "4")], &[1], Ok(&[8, 9, 10, 11]));
        check(&[("offset", "16")], &[0], Ok(&[]));
        check(&[("offset", "13")], &[1], Err("beyond the 16 bytes"));
        check(&[("offset", "-4")], &[1], Err("offset `-4` is not a whole number"));
        check(&[("length", "-1")], &[1], Err("length `-1` is not a whole number"));
        check(&[("length", "17")], &[1], Err("beyond"));
        check(&[("offset", "18446744073709551615"), ("length", "4")], &[1], Err("beyond"));
        check(&[("offset", "18446744073709551616")], &[1], Err("not a whole number"));
        check(&[], &[1 << 40, 1 << 40], Err("overflow"));
        check(&[], &[-1], Err("negative"));
    }

    #[test]
    fn a_location_stays_inside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for location in ["", "/etc/passwd", "..", "../w", "a/../../w", "a/.."] {
            let why = open(&place(folder.path()), location).unwrap_err();
            assert!(why.contains("not a path inside"), "{location}: {why}");
        }
        assert!(open(&place(folder.path()), ".").unwrap_err().contains("regular file"));
        assert!(open(&place(folder.path()), "none").unwrap_err().contains("`none` in "));
    }
}
