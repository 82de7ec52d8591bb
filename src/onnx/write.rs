//! The way out to a file: the whole of it, or nothing.

use std::path::{Path, PathBuf};

use prost::Message as _;
use tempfile::NamedTempFile;

use super::Model;
use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, StringStringEntryProto};
use crate::error::{Error, Result};

/// Where the weights of a written model go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Into the model file. Fits up to 2 GiB.
    Inline,
    /// Initializers of the main graph from 1 KiB go to `<file name>.data` beside the model, the rest stays inline.
    External,
}

/// Protobuf readers stop at 2 GiB; the rest is for what a reader may add.
const MAX_INLINE: usize = (2 << 30) - (64 << 10);
const MIN_EXTERNAL: usize = 1 << 10;
const ALIGNMENT: usize = 64;

impl Storage {
    /// As the model came; external too if it has outgrown a single file.
    pub fn for_model(model: &Model) -> Self {
        if model.had_external_data() || model.proto.encoded_len() > MAX_INLINE {
            Self::External
        } else {
            Self::Inline
        }
    }
}

impl Model {
    /// Writes the model to `path`, replacing a file but never writing through a symbolic link.
    ///
    /// On any error no file is left that was not there before.
    pub fn write(&self, path: &Path, storage: Storage) -> Result<()> {
        replaceable(path)?;
        match storage {
            Storage::Inline => {
                fits(path, &self.proto, "write it with external data")?;
                put(path, |file| file.write_all(&self.encode())).and_then(|file| publish(file, path))
            }
            Storage::External => self.write_external(path),
        }
    }

    fn write_external(&self, path: &Path) -> Result<()> {
        let data_path = data_path(path)?;
        replaceable(&data_path)?;
        let mut proto = self.proto.clone();
        let location = data_path.file_name().and_then(|name| name.to_str());
        let location = location.ok_or_else(|| Error::usage(format!("{}: not UTF-8", path.display())))?;
        let data = put(&data_path, |file| move_out(&mut proto, location, file))?;
        fits(path, &proto, "its graph alone is too large")?;
        let model = put(path, |file| file.write_all(&proto.encode_to_vec()))?;
        publish(data, &data_path)?;
        publish(model, path).inspect_err(|_| {
            // The error that matters is the one being returned.
            let _ = std::fs::remove_file(&data_path);
        })
    }
}

fn data_path(path: &Path) -> Result<PathBuf> {
    let no_name = || Error::usage(format!("{}: not a file name", path.display()));
    let mut name = path.file_name().ok_or_else(no_name)?.to_owned();
    name.push(".data");
    Ok(path.with_file_name(name))
}

/// Moves the large initializers into `file` and notes where they are.
fn move_out(proto: &mut ModelProto, location: &str, file: &mut dyn std::io::Write) -> std::io::Result<()> {
    let mut end = 0;
    let initializers = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for tensor in initializers {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= MIN_EXTERNAL) else { continue };
        let offset = usize::next_multiple_of(end, ALIGNMENT);
        file.write_all(&[0; ALIGNMENT][..offset - end])?;
        file.write_all(&raw)?;
        end = offset + raw.len();
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.data_location = Some(DataLocation::External.into());
        tensor.external_data = vec![
            entry("location", location.into()),
            entry("offset", offset.to_string()),
            entry("length", raw.len().to_string()),
        ];
    }
    Ok(())
}

fn fits(path: &Path, proto: &ModelProto, way_out: &str) -> Result<()> {
    match proto.encoded_len() {
        0..=MAX_INLINE => Ok(()),
        len => Err(Error::unsupported(
            path.display(),
            format!("{len} bytes are too many for one file: {way_out}"),
        )),
    }
}

/// Refuses to replace anything but a plain file.
fn replaceable(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => {
            Err(Error::usage(format!("{}: is a symbolic link: name the file itself", path.display())))
        }
        Ok(found) if !found.is_file() => {
            Err(Error::usage(format!("{}: exists and is not a file", path.display())))
        }
        _ => Ok(()),
    }
}

/// A temporary file in the folder of `path`, filled and on the disk. It vanishes unless published.
fn put(
    path: &Path,
    fill: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
) -> Result<NamedTempFile> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = builder().tempfile_in(folder)?;
        fill(file.as_file_mut())?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    write().map_err(|e| Error::io(path, e))
}

fn publish(file: NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path).map(drop).map_err(|e| Error::io(path, e.error))
}

/// Temporary files are private by default; a model is not.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-ptq4vit-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}
