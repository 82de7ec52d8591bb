//! Writes a model to a file, its weights inside it or beside it.

use std::path::Path;

use prost::Message as _;

use super::Model;
use super::proto::tensor_proto::DataLocation;
use super::proto::{ModelProto, StringStringEntryProto};
use crate::{Error, Result, files};

/// Where the weights of a written model go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// All weights go into the model file, which can hold 2 GiB.
    Inline,
    /// Initializers of the main graph from 1 KiB go to `<file name>.data` beside the model. The rest stays inline.
    External,
}

/// Protobuf readers stop at 2 GiB; the difference is room for what a reader may add.
const MAX_INLINE: usize = (2 << 30) - (64 << 10);
const MIN_EXTERNAL: usize = 1 << 10;
const ALIGNMENT: usize = 64;

impl Storage {
    /// The storage the model was read from, or external if it has outgrown a single file.
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
        match storage {
            Storage::Inline => {
                fits(path, &self.proto, "write it with external data")?;
                let bytes = self.encode();
                files::write(path, |file| file.write_all(&bytes))
            }
            Storage::External => self.write_external(path),
        }
    }

    fn write_external(&self, path: &Path) -> Result<()> {
        let data_path = path.with_added_extension("data");
        let location = data_path.file_name().and_then(|name| name.to_str());
        let location = location
            .ok_or_else(|| Error::usage(format!("{}: expected a file name in UTF-8", path.display())))?;
        let mut proto = self.proto.clone();
        let data = files::prepare(&data_path, |file| move_out(&mut proto, location, file))?;
        fits(path, &proto, "its graph alone is too large")?;
        let model = files::prepare(path, |file| file.write_all(&proto.encode_to_vec()))?;
        files::publish_all([data, model])
    }
}

/// Moves the large initializers into `file` and records in `proto` where they are.
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
