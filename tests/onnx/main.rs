//! ONNX files in and out: nothing is lost, nothing hostile gets in, nothing half-written stays.

#[path = "../common/mod.rs"]
mod common;
mod everything;
mod refusals;
mod roundtrip;

use std::fs;
use std::path::Path;

use common::{file_of, value};
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::StringStringEntryProto;
use onnx_ptq4vit::onnx::proto::tensor_proto::DataLocation;
use onnx_ptq4vit::onnx::{GraphProto, ModelProto, tensor};

/// As the fields of the messages want it.
#[allow(clippy::unnecessary_wraps)]
fn text(s: &str) -> Option<String> {
    Some(s.into())
}

fn props(key: &str, value: &str) -> Vec<StringStringEntryProto> {
    vec![StringStringEntryProto { key: text(key), value: text(value) }]
}

/// `y = relu(x + w)`, with `w` of `elements` zeros.
fn small(elements: usize) -> ModelProto {
    file_of(GraphProto {
        node: vec![node("Add", "add", ["x", "w"], ["h"]), node("Relu", "relu", ["h"], ["y"])],
        input: vec![value("x")],
        output: vec![value("y")],
        initializer: vec![
            tensor::from_f32("w", &[elements], &vec![0.5; elements]),
            tensor::from_i64("few", &[1], &[7]),
            tensor::from_f32("v", &[300], &[0.25; 300]),
        ],
        ..Default::default()
    })
}

fn external(mut model: ModelProto, entries: &[(&str, &str)]) -> ModelProto {
    let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    tensor.external_data = entries.iter().flat_map(|(key, value)| props(key, value)).collect();
    model
}

fn names(folder: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
    names.sort();
    names
}
