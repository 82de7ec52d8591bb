//! A model that uses every field of the format.

use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::attribute_proto::AttributeType;
use onnx_ptq4vit::onnx::proto::tensor_proto::Segment;
use onnx_ptq4vit::onnx::proto::{
    DeviceConfigurationProto, IntIntListEntryProto, NodeDeviceConfigurationProto, ShardedDimProto,
    ShardingSpecProto, SimpleShardedDimProto, SparseTensorProto, TensorAnnotation, TensorShapeProto,
    TrainingInfoProto, TypeProto, simple_sharded_dim_proto, tensor_shape_proto, type_proto,
};
use onnx_ptq4vit::onnx::{
    AttributeProto, DataType, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
    tensor,
};

use super::common::opset;
use super::{props, text};

fn value(name: &str, r#type: Option<TypeProto>) -> ValueInfoProto {
    ValueInfoProto { name: text(name), r#type, doc_string: text("a value"), metadata_props: props("v", "1") }
}

fn typed(value: type_proto::Value) -> TypeProto {
    TypeProto { value: Some(value), denotation: text("IMAGE") }
}

fn shape() -> TensorShapeProto {
    use tensor_shape_proto::Dimension;
    use tensor_shape_proto::dimension::Value;
    let dim = |value| Dimension { value: Some(value), denotation: text("DATA_BATCH") };
    TensorShapeProto { dim: vec![dim(Value::DimParam("batch".into())), dim(Value::DimValue(3))] }
}

fn types() -> Vec<TypeProto> {
    use type_proto::{Map, Opaque, Optional, Sequence, SparseTensor, Tensor, Value};
    let float = typed(Value::TensorType(Tensor { elem_type: Some(1), shape: Some(shape()) }));
    let boxed = || Some(Box::new(float.clone()));
    vec![
        float.clone(),
        typed(Value::SequenceType(Box::new(Sequence { elem_type: boxed() }))),
        typed(Value::MapType(Box::new(Map { key_type: Some(7), value_type: boxed() }))),
        typed(Value::OptionalType(Box::new(Optional { elem_type: boxed() }))),
        typed(Value::SparseTensorType(SparseTensor { elem_type: Some(1), shape: Some(shape()) })),
        typed(Value::OpaqueType(Opaque { domain: text("d"), name: text("n") })),
    ]
}

/// Every data type, in `raw_data` or in its typed field.
fn tensors() -> Vec<TensorProto> {
    let two = |name: &str, data_type: DataType| TensorProto {
        name: text(name),
        data_type: Some(data_type.into()),
        dims: vec![2],
        ..Default::default()
    };
    let raw = [
        (DataType::Uint8, 2),
        (DataType::Int8, 2),
        (DataType::Bool, 2),
        (DataType::Uint16, 4),
        (DataType::Int16, 4),
        (DataType::Float8e4m3fn, 2),
        (DataType::Float8e4m3fnuz, 2),
        (DataType::Float8e5m2, 2),
        (DataType::Float8e5m2fnuz, 2),
        (DataType::Float8e8m0, 2),
        (DataType::Float6e2m3, 2),
        (DataType::Float6e3m2, 2),
        (DataType::Float4e2m1, 1),
        (DataType::Uint4, 1),
        (DataType::Int4, 1),
        (DataType::Uint2, 1),
        (DataType::Int2, 1),
    ];
    let raw =
        raw.map(|(t, len)| TensorProto { raw_data: Some(vec![3; len].into()), ..two(t.as_str_name(), t) });
    let typed = vec![
        TensorProto { float_data: vec![1.0, -2.5], ..two("f", DataType::Float) },
        TensorProto { float_data: vec![1.0, 2.0, 3.0, 4.0], ..two("c64", DataType::Complex64) },
        TensorProto { double_data: vec![1.0, 2.5], ..two("d", DataType::Double) },
        TensorProto { double_data: vec![1.0, 2.0, 3.0, 4.0], ..two("c128", DataType::Complex128) },
        TensorProto { int32_data: vec![-1, i32::MIN], ..two("i", DataType::Int32) },
        TensorProto { int32_data: vec![1, 2], ..two("h", DataType::Float16) },
        TensorProto { int32_data: vec![1, 2], ..two("b", DataType::Bfloat16) },
        TensorProto { int64_data: vec![-1, i64::MIN], ..two("l", DataType::Int64) },
        TensorProto { uint64_data: vec![1, u64::MAX], ..two("ul", DataType::Uint64) },
        TensorProto { uint64_data: vec![1, 2], ..two("ui", DataType::Uint32) },
        TensorProto { string_data: vec![b"a".to_vec(), b"\xff".to_vec()], ..two("s", DataType::String) },
        TensorProto {
            segment: Some(Segment { begin: Some(1), end: Some(2) }),
            doc_string: text("a tensor"),
            metadata_props: props("t", "1"),
            ..tensor::from_f32("w", &[2], &[1.0, 2.0])
        },
    ];
    raw.into_iter().chain(typed).collect()
}

fn sparse(name: &str) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(tensor::from_f32(name, &[2], &[1.0, 2.0])),
        indices: Some(tensor::from_i64("at", &[2], &[0, 5])),
        dims: vec![2, 3],
    }
}

fn body(name: &str) -> GraphProto {
    GraphProto {
        name: text(name),
        node: vec![node("Neg", "n", ["x"], ["z"])],
        output: vec![value("z", None)],
        ..Default::default()
    }
}

fn attributes() -> Vec<AttributeProto> {
    let of = |name: &str, r#type: AttributeType| AttributeProto {
        name: text(name),
        r#type: Some(r#type.into()),
        doc_string: text("an attribute"),
        ..Default::default()
    };
    vec![
        AttributeProto::float("f", -0.5),
        AttributeProto::int("i", -3),
        AttributeProto::string("s", "text"),
        AttributeProto::tensor("t", tensor::from_f32("one", &[], &[1.0])),
        AttributeProto { g: Some(body("g")), ..of("g", AttributeType::Graph) },
        AttributeProto { sparse_tensor: Some(sparse("v")), ..of("sp", AttributeType::SparseTensor) },
        AttributeProto { tp: Some(types()[0].clone()), ..of("tp", AttributeType::TypeProto) },
        AttributeProto::float_list("fs", &[1.0, 2.0]),
        AttributeProto::int_list("is", &[1, -2]),
        AttributeProto { strings: vec![b"a".into(), b"b".into()], ..of("ss", AttributeType::Strings) },
        AttributeProto { tensors: tensors(), ..of("ts", AttributeType::Tensors) },
        AttributeProto { graphs: vec![body("g1"), body("g2")], ..of("gs", AttributeType::Graphs) },
        AttributeProto { sparse_tensors: vec![sparse("v")], ..of("sps", AttributeType::SparseTensors) },
        AttributeProto { type_protos: types(), ..of("tps", AttributeType::TypeProtos) },
    ]
}

fn devices() -> NodeDeviceConfigurationProto {
    let sharding = SimpleShardedDimProto {
        dim: Some(simple_sharded_dim_proto::Dim::DimParam("batch".into())),
        num_shards: Some(2),
    };
    let known =
        SimpleShardedDimProto { dim: Some(simple_sharded_dim_proto::Dim::DimValue(4)), num_shards: Some(2) };
    NodeDeviceConfigurationProto {
        configuration_id: text("two"),
        sharding_spec: vec![ShardingSpecProto {
            tensor_name: text("x"),
            device: vec![0, 1],
            index_to_device_group_map: vec![IntIntListEntryProto { key: Some(1), value: vec![2, 3] }],
            sharded_dim: vec![ShardedDimProto { axis: Some(1), simple_sharding: vec![sharding, known] }],
        }],
        pipeline_stage: Some(1),
    }
}

/// A model that uses every field of the format once (external data excepted), none with its default value: proto3,
/// in which the other decoder is written, does not tell that from none.
pub(crate) fn everything() -> ModelProto {
    let function = FunctionProto {
        name: text("F"),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute: vec!["alpha".into()],
        attribute_proto: vec![AttributeProto::int("beta", 1)],
        node: vec![node("Elu", "e", ["a"], ["b"]).with(AttributeProto::reference(
            "alpha",
            "alpha",
            AttributeType::Float,
        ))],
        doc_string: text("a function"),
        opset_import: vec![opset("ai.onnx", 17)],
        domain: text("ai.ptq4vit"),
        overload: text("o"),
        value_info: vec![value("b", None)],
        metadata_props: props("f", "1"),
    };
    let call = NodeProto {
        attribute: attributes(),
        overload: text("o"),
        doc_string: text("a node"),
        metadata_props: props("n", "1"),
        device_configurations: vec![devices()],
        ..node("F", "call", ["x", "", "UINT8"], ["y"]).in_domain("ai.ptq4vit")
    };
    let graph = GraphProto {
        node: vec![call],
        name: text("main"),
        initializer: tensors(),
        sparse_initializer: vec![sparse("sparse")],
        doc_string: text("a graph"),
        input: vec![value("x", Some(types()[0].clone()))],
        output: vec![value("y", None)],
        value_info: types().into_iter().map(|t| value("x", Some(t))).collect(),
        quantization_annotation: vec![TensorAnnotation {
            tensor_name: text("x"),
            quant_parameter_tensor_names: props("SCALE_TENSOR", "f"),
        }],
        metadata_props: props("g", "1"),
    };
    let training = TrainingInfoProto {
        initialization: Some(body("init")),
        algorithm: Some(body("step")),
        initialization_binding: props("w", "z"),
        update_binding: props("w", "z"),
    };
    ModelProto {
        ir_version: Some(14),
        opset_import: vec![opset("ai.onnx", 17), opset("ai.ptq4vit", 1)],
        producer_name: text("test"),
        producer_version: text("1"),
        domain: text("example"),
        model_version: Some(2),
        doc_string: text("a model"),
        graph: Some(graph),
        metadata_props: props("m", "1"),
        training_info: vec![training],
        functions: vec![function],
        configuration: vec![DeviceConfigurationProto {
            name: text("two"),
            num_devices: Some(2),
            device: vec!["a".into(), "b".into()],
        }],
    }
}
