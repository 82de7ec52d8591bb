//! A model in memory, and its way in from a file.

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;

use super::external::{self, Place};
use super::proto::{GraphProto, ModelProto, TensorProto};
use super::{foreign, mmap, validate};
use crate::error::{Error, Result};
use crate::files;

/// A validated ONNX model whose tensors are all inline (external data has become slices of the mapped files).
#[derive(Debug, Clone)]
pub struct Model {
    /// The messages of the file.
    pub proto: ModelProto,
    /// What the model may take of the machine.
    pub limits: Limits,
    /// The values that some inputs have in every run: whoever runs the model takes them for constants.
    pub(crate) bound: Vec<TensorProto>,
    had_external_data: bool,
}

/// What a model may take of the machine that runs it. The file is not trusted with the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest tensor that a node may make, in bytes.
    pub tensor_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tensor_bytes: 1 << 30 }
    }
}

impl Model {
    /// Reads a model and the external data beside it.
    ///
    /// Both are memory-mapped, not copied: writing into these files while the model lives changes its weights, and
    /// truncating them ends the process. Replacing them by renaming (as [`Model::write`] does) is harmless.
    pub fn read(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let bytes = mmap::map(&file).map_err(|e| Error::io(path, e))?;
        let place = Place::of(path, &file).map_err(|e| Error::io(path, e))?;
        Self::from_parts(bytes, Some(&place)).map_err(|e| e.in_file(path))
    }

    /// Decodes a model that has no external data.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        Self::from_parts(bytes, None)
    }

    /// Takes over messages made in memory. They are held to what a file is held to.
    pub fn new(proto: ModelProto) -> Result<Self> {
        Self::load(proto, None)
    }

    /// The bytes of the file, everything inline. Beyond 2 GiB no reader takes them: see [`Storage`](super::Storage).
    pub fn encode(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Whether some tensor was stored in another file when the model was read.
    pub fn had_external_data(&self) -> bool {
        self.had_external_data
    }

    /// The main graph.
    ///
    /// # Panics
    /// If `proto.graph` was taken out after the model was validated.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().expect("a validated model has a graph")
    }

    fn from_parts(bytes: Bytes, place: Option<&Place>) -> Result<Self> {
        if bytes.is_empty() {
            return Err(not_onnx("the file is empty"));
        }
        let file = bytes.clone();
        let model = ModelProto::decode(bytes)
            .map_err(|e| not_onnx(format!("{e}; or the file is cut short")))
            .and_then(|proto| Self::load(proto, place));
        model.map_err(|error| match foreign::recognize(&file) {
            Some(found) => not_onnx(format!("it is {found}")),
            None => error,
        })
    }

    fn load(mut proto: ModelProto, place: Option<&Place>) -> Result<Self> {
        let Some(graph) = &proto.graph else { return Err(not_onnx("no graph")) };
        if proto.opset_import.is_empty() {
            return Err(not_onnx("no opset_import"));
        }
        if graph.node.is_empty() {
            return Err(not_onnx("its graph has no nodes"));
        }
        validate::versions(&proto)?;
        validate::nesting(&proto)?;
        let had_external_data = external::inline(&mut proto, place)?;
        validate::model(&proto)?;
        Ok(Self { proto, limits: Limits::default(), bound: Vec::new(), had_external_data })
    }
}

fn not_onnx(why: impl std::fmt::Display) -> Error {
    Error::whole_model(format!("not an ONNX model ({why})"))
}

#[cfg(test)]
mod tests {
    use super::super::node::node;
    use super::super::testing::{file_of, graph};
    use super::*;

    fn relu() -> ModelProto {
        file_of(graph("x", "y", vec![node("Relu", "r", ["x"], ["y"])], vec![]), 17)
    }

    #[test]
    fn what_is_not_a_model_is_refused() {
        #[track_caller]
        fn check(bytes: Vec<u8>, why: &str) {
            let error = Model::decode(bytes.into()).expect_err(why).to_string();
            assert!(error.starts_with("not an ONNX model (") && error.contains(why), "{error}");
        }
        let changed = |change: fn(&mut ModelProto)| {
            let mut proto = relu();
            change(&mut proto);
            proto.encode_to_vec()
        };
        check(vec![], "empty");
        check(b"The quick brown fox\n".to_vec(), "decode");
        check(vec![0xff; 64], "decode");
        check(relu().encode_to_vec()[..20].to_vec(), "cut short");
        check(changed(|m| m.graph = None), "no graph");
        check(changed(|m| m.opset_import.clear()), "no opset_import");
        check(changed(|m| m.graph.as_mut().unwrap().node.clear()), "no nodes");
    }

    #[test]
    fn a_decoded_model_encodes_to_the_same_bytes() {
        let bytes = relu().encode_to_vec();
        assert_eq!(Model::decode(bytes.clone().into()).unwrap().encode(), bytes);
    }
}
