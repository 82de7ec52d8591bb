//! External data: tensors that live in a file beside the model's.
//!
//! The location is written by whoever made the model, so it must name a plain file inside the model's folder: anything
//! else would let a model read the files of its user.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::tensor_proto::DataLocation;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto, TensorProto,
};
use super::{foreign, mmap, tensor};
use crate::error::{Error, Result};

/// Turns every external tensor into an inline one that shares the mapped file. Returns whether there was any.
///
/// `None` as folder: there is no place to look, external data is an error. The caller has bounded the nesting.
pub(super) fn inline(model: &mut ModelProto, folder: Option<&Path>) -> Result<bool> {
    let mut files = HashMap::new();
    let mut found = false;
    each_tensor(model, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            found = true;
            let place = format!("tensor `{}`", tensor.name());
            let bytes = load(tensor, folder, &mut files).map_err(|why| Error::model(place, why))?;
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
    folder: Option<&Path>,
    files: &mut HashMap<PathBuf, Bytes>,
) -> Result<Bytes, String> {
    let location = entry(&tensor.external_data, "location").unwrap_or_default();
    let folder = folder.ok_or_else(|| {
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
        None => files.entry(path.to_owned()).or_insert(open(folder, location)?),
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

/// Maps the file, which must be a plain one inside `folder`, reached without following any link.
fn open(folder: &Path, location: &str) -> Result<Bytes, String> {
    let relative = Path::new(location);
    let plain = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || !relative.components().all(plain) {
        return Err(format!("external data location `{location}` is not a path inside the model's folder"));
    }
    let refuse =
        |why: &str| format!("external data file `{location}` {why}: put a plain copy beside the model");
    let missing =
        |e: std::io::Error| format!("external data file `{location}` in `{}`: {e}", folder.display());

    let mut path = folder.to_owned();
    let mut metadata = None;
    for part in relative.components() {
        path.push(part);
        let seen = path.symlink_metadata().map_err(missing)?;
        if seen.is_symlink() {
            return Err(refuse("is reached through a symbolic link"));
        }
        metadata = Some(seen);
    }
    let seen = metadata.filter(Metadata::is_file).ok_or_else(|| refuse("is not a regular file"))?;
    let file = File::open(&path).map_err(missing)?;
    let opened = file.metadata().map_err(missing)?;
    if !same_single_file(&seen, &opened) {
        return Err(refuse("has more than one name (hard links), or was swapped while it was opened"));
    }
    mmap::map(&file).map_err(missing)
}

/// Whether the file that was opened is the one that was looked at, and has one name only.
#[cfg(unix)]
fn same_single_file(seen: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (seen.dev(), seen.ino()) == (opened.dev(), opened.ino()) && opened.nlink() == 1
}

/// Other systems have no portable way to ask: the checks of the path must do.
#[cfg(not(unix))]
fn same_single_file(_: &Metadata, opened: &Metadata) -> bool {
    opened.is_file()
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

    #[test]
    fn offset_and_length_select_a_slice() {
        #[track_caller]
        fn check(entries: &[(&str, &str)], dims: &[i64], expected: Result<&[u8], &str>) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("w"), (0..16).collect::<Vec<u8>>()).unwrap();
            let entries = [&[("location", "w")], entries].concat();
            let loaded = load(&external(&entries, dims), Some(folder.path()), &mut HashMap::new());
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
            let why = open(folder.path(), location).unwrap_err();
            assert!(why.contains("not a path inside"), "{location}: {why}");
        }
        assert!(open(folder.path(), ".").unwrap_err().contains("regular file"));
        assert!(open(folder.path(), "none").unwrap_err().contains("`none` in "));
    }
}
