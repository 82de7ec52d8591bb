//! Messages and models for unit tests.

use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{OperatorSetIdProto, TensorShapeProto, TypeProto, type_proto};
use super::{DataType, GraphProto, Model, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// A value of unknown type.
pub(crate) fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

/// A FLOAT value of these dims.
pub(crate) fn shaped(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&dim: &i64| Dimension { value: Some(dimension::Value::DimValue(dim)), ..Default::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { r#type: Some(r#type), ..value(name) }
}

/// `inputs` and `outputs` are names separated by spaces.
pub(crate) fn graph(
    inputs: &str,
    outputs: &str,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
) -> GraphProto {
    let values = |names: &str| names.split_whitespace().map(value).collect();
    GraphProto { node, initializer, input: values(inputs), output: values(outputs), ..Default::default() }
}

/// A file of `graph` at this opset of the standard operators.
pub(crate) fn file_of(graph: GraphProto, opset: i64) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
        graph: Some(graph),
        ..Default::default()
    }
}

pub(crate) fn model(graph: GraphProto, opset: i64) -> Model {
    Model::new(file_of(graph, opset)).unwrap()
}
