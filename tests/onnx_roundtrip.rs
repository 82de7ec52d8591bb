//! ONNX files in and out: nothing is lost, nothing hostile gets in, nothing half-written stays.

use std::fs;
use std::path::Path;

use onnx_protobuf::Message as _;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::attribute_proto::AttributeType;
use onnx_ptq4vit::onnx::proto::tensor_proto::{DataLocation, Segment};
use onnx_ptq4vit::onnx::proto::{
    DeviceConfigurationProto, IntIntListEntryProto, NodeDeviceConfigurationProto, OperatorSetIdProto,
    ShardedDimProto, ShardingSpecProto, SimpleShardedDimProto, SparseTensorProto, StringStringEntryProto,
    TensorAnnotation, TensorShapeProto, TrainingInfoProto, TypeProto, simple_sharded_dim_proto,
    tensor_shape_proto, type_proto,
};
use onnx_ptq4vit::onnx::{
    AttributeProto, DataType, FunctionProto, GraphProto, Model, ModelProto, NodeProto, Storage, TensorProto,
    ValueInfoProto, dump, tensor,
};
use proptest::prelude::*;
use prost::Message as _;

/// As the fields of the messages want it.
#[allow(clippy::unnecessary_wraps)]
fn text(s: &str) -> Option<String> {
    Some(s.into())
}

fn props(key: &str, value: &str) -> Vec<StringStringEntryProto> {
    vec![StringStringEntryProto { key: text(key), value: text(value) }]
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: text(domain), version: Some(version) }
}

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
fn everything() -> ModelProto {
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

/// `y = relu(x + w)`, with `w` of `elements` zeros.
fn small(elements: usize) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(GraphProto {
            node: vec![node("Add", "add", ["x", "w"], ["h"]), node("Relu", "relu", ["h"], ["y"])],
            input: vec![value("x", None)],
            output: vec![value("y", None)],
            initializer: vec![
                tensor::from_f32("w", &[elements], &vec![0.5; elements]),
                tensor::from_i64("few", &[1], &[7]),
                tensor::from_f32("v", &[300], &[0.25; 300]),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn external(mut model: ModelProto, entries: &[(&str, &str)]) -> ModelProto {
    let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    tensor.external_data = entries.iter().flat_map(|(key, value)| props(key, value)).collect();
    model
}

#[test]
fn reading_and_writing_loses_nothing() {
    let bytes = everything().encode_to_vec();
    let model = Model::decode(bytes.clone().into()).unwrap();
    assert_eq!(model.proto, everything());
    assert_eq!(model.encode(), bytes);
}

/// An independent implementation understands what we write, and we what it writes. It keeps fields that are younger
/// than itself as they are.
#[test]
fn another_decoder_agrees() {
    let theirs = onnx_protobuf::ModelProto::parse_from_bytes(&everything().encode_to_vec()).unwrap();
    let graph = &theirs.graph;
    let call = &graph.node[0];
    let attribute = |name: &str| call.attribute.iter().find(|a| a.name == name).unwrap();
    let data = |name: &str| graph.initializer.iter().find(|t| t.name == name).unwrap();
    let function = &theirs.functions[0];
    assert_eq!(theirs.ir_version, 14);
    assert_eq!((&*theirs.opset_import[1].domain, theirs.opset_import[1].version), ("ai.ptq4vit", 1));
    assert_eq!(
        [&*theirs.producer_name, &theirs.producer_version, &theirs.domain, &theirs.doc_string],
        ["test", "1", "example", "a model"],
    );
    assert_eq!((theirs.model_version, &*theirs.metadata_props[0].key), (2, "m"));
    assert_eq!(
        (&*call.op_type, &*call.domain, &*call.overload, &*call.name),
        ("F", "ai.ptq4vit", "o", "call")
    );
    assert_eq!(
        (&call.input, &call.output),
        (&vec!["x".into(), String::new(), "UINT8".into()], &vec!["y".into()])
    );
    assert_eq!(attribute("f").f, -0.5);
    assert_eq!(attribute("i").i, -3);
    assert_eq!(&*attribute("s").s, b"text");
    assert_eq!(&attribute("fs").floats, &vec![1.0, 2.0]);
    assert_eq!(&attribute("is").ints, &vec![1, -2]);
    assert_eq!(attribute("ss").strings.len(), 2);
    assert_eq!(&*attribute("g").g.node[0].op_type, "Neg");
    assert_eq!(attribute("gs").graphs.len(), 2);
    assert_eq!(&attribute("sp").sparse_tensor.dims, &vec![2, 3]);
    assert_eq!(attribute("tps").type_protos[2].map_type().key_type, 7);
    assert_eq!(attribute("tps").type_protos[4].sparse_tensor_type().elem_type, 1);
    assert_eq!(&data("f").float_data, &vec![1.0, -2.5]);
    assert_eq!(&data("d").double_data, &vec![1.0, 2.5]);
    assert_eq!(&data("i").int32_data, &vec![-1, i32::MIN]);
    assert_eq!(&data("l").int64_data, &vec![-1, i64::MIN]);
    assert_eq!(&data("ul").uint64_data, &vec![1, u64::MAX]);
    assert_eq!(data("s").string_data.len(), 2);
    assert_eq!(&*data("w").raw_data, [0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!((data("w").segment.begin, data("w").segment.end), (1, 2));
    assert_eq!(&*graph.quantization_annotation[0].quant_parameter_tensor_names[0].value, "f");
    assert_eq!(graph.sparse_initializer[0].indices.raw_data.len(), 16);
    assert_eq!(graph.input[0].type_.tensor_type().shape.dim[0].dim_param(), "batch");
    assert_eq!(&*theirs.training_info[0].algorithm.name, "step");
    assert_eq!(&*theirs.training_info[0].update_binding[0].key, "w");
    assert_eq!((&*function.name, &*function.overload, &*function.attribute[0]), ("F", "o", "alpha"));
    assert_eq!(&*function.attribute_proto[0].name, "beta");
    assert_eq!(&*function.node[0].attribute[0].ref_attr_name, "alpha");

    let back = theirs.write_to_bytes().unwrap();
    // Not assert_eq: a mismatch would print the model twice.
    assert!(Model::decode(back.into()).unwrap().proto == everything());
}

#[test]
fn a_dump_shows_the_model() {
    let shown = dump(&Model::new(everything()).unwrap());
    for line in [
        "opset ai.ptq4vit 1\n",
        "input x: float[batch, 3]\n",
        "initializer f: float[2] [1.0, -2.5]\n",
        "initializer sparse: sparse [2, 3] values float[2] [1.0, 2.0] at int64[2] [0, 5]\n",
        "y = ai.ptq4vit::F:o<f=-0.5, i=-3, s=\"text\", t=float[] [1.0], g={…},",
        "(x, , UINT8)  # call\n  g:\n    output z\n    z = Neg(x)  # n\n",
        "function ai.ptq4vit::F:o<alpha, beta=1>(a) -> (b)\n  opset ai.onnx 17\n  b = Elu<alpha=@alpha>(a)  # e\n",
        "metadata m = \"1\"\n",
    ] {
        assert!(shown.contains(line), "{line}\nis missing in\n{shown}");
    }
}

/// A folder with `model.onnx` made of `proto`.
fn folder_with(proto: &ModelProto) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.onnx"), proto.encode_to_vec()).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
    names.sort();
    names
}

#[test]
fn external_data_become_inline() {
    let folder =
        folder_with(&external(small(4), &[("location", "sub/w.bin"), ("offset", "4"), ("length", "16")]));
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/w.bin"), [[9, 9, 9, 9], [0, 0, 0, 63]].concat().repeat(4)).unwrap();
    let model = Model::read(&folder.path().join("model.onnx")).unwrap();
    let weight = &model.graph().initializer[0];
    assert!(model.had_external_data());
    assert_eq!(Storage::for_model(&model), Storage::External);
    assert_eq!((weight.data_location, weight.external_data.len()), (None, 0));
    assert_eq!(weight.raw_data().len(), 16);
    assert_eq!(tensor::f32s(weight).unwrap()[0], 0.5);

    let inline = Model::new(small(4)).unwrap();
    assert!(!inline.had_external_data());
    assert_eq!(Storage::for_model(&inline), Storage::Inline);
}

#[test]
fn hostile_external_data_are_refused() {
    #[track_caller]
    fn check(prepare: impl FnOnce(&Path), entries: &[(&str, &str)], parts: &[&str]) {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), [0; 16]).unwrap();
        let folder = outside.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("w"), [0; 16]).unwrap();
        fs::write(folder.join("model.onnx"), external(small(4), entries).encode_to_vec()).unwrap();
        prepare(&folder);
        let why = Model::read(&folder.join("model.onnx")).expect_err(parts[0]).to_string();
        assert!(why.contains("model.onnx: tensor `w`: "), "{why}");
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let plain = |_: &Path| ();
    check(plain, &[("location", "/etc/hostname")], &["`/etc/hostname` is not a path inside"]);
    check(plain, &[("location", "../secret")], &["`../secret` is not a path inside"]);
    check(plain, &[("location", "w/../../secret")], &["is not a path inside"]);
    check(plain, &[], &["`` is not a path inside"]);
    check(plain, &[("location", "none")], &["`none` in "]);
    check(plain, &[("location", "w"), ("offset", "-1")], &["offset `-1`"]);
    check(plain, &[("location", "w"), ("length", "-1")], &["length `-1`"]);
    check(plain, &[("location", "w"), ("offset", "1")], &["beyond the 16 bytes"]);
    check(plain, &[("location", "w"), ("length", "9223372036854775807")], &["beyond the 16 bytes"]);
    check(plain, &[("location", "w"), ("length", "12")], &["needs 16 bytes, but raw_data has 12"]);
    check(|f| fs::create_dir(f.join("d")).unwrap(), &[("location", "d")], &["not a regular file"]);
    check(|f| fs::hard_link(f.join("../secret"), f.join("l")).unwrap(), &[("location", "l")], &["hard link"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        check(|f| symlink("../secret", f.join("l")).unwrap(), &[("location", "l")], &["symbolic link"]);
        check(|f| symlink("w", f.join("l")).unwrap(), &[("location", "l")], &["symbolic link"]);
        check(|f| symlink("..", f.join("d")).unwrap(), &[("location", "d/secret")], &["symbolic link"]);
    }
    let why = Model::decode(external(small(4), &[("location", "w")]).encode_to_vec().into()).unwrap_err();
    assert!(why.to_string().contains("another file (`w`)"), "{why}");
}

#[test]
fn broken_files_are_refused() {
    #[track_caller]
    fn check(bytes: &[u8], part: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, bytes).unwrap();
        let why = Model::read(&path).expect_err(part).to_string();
        assert!(why.contains("model.onnx: ") && why.contains(part), "{why}");
    }
    let with = |change: fn(&mut GraphProto)| {
        let mut proto = small(4);
        change(proto.graph.as_mut().unwrap());
        proto.encode_to_vec()
    };
    let whole = small(4).encode_to_vec();
    check(b"", "empty");
    check(b"# A text file\n\nwith words\n", "not an ONNX model");
    for len in (1..whole.len()).step_by(7) {
        check(&whole[..len], "");
    }
    check(&whole[..whole.len() - 1], "cut short");
    check(&with(|g| g.initializer[0].dims = vec![-4]), "tensor `w`: its dims [-4] have a negative");
    check(&with(|g| g.initializer[0].dims = vec![1 << 62, 8]), "overflows");
    check(&with(|g| g.initializer[0].dims = vec![5]), "needs 20 bytes, but raw_data has 16");
    check(&with(|g| g.node.swap(0, 1)), "node `relu` (Relu): its input `h` comes from node `add`");
    check(&with(|g| g.node[1].output[0] = "h".into()), "its output `h` exists already");
    check(&with(|g| g.node[1].input[0] = "q".into()), "nothing produces its input `q`");
    let nested = |levels| {
        let attribute = |g| AttributeProto { name: text("body"), g: Some(g), ..Default::default() };
        let inside = |inner| GraphProto {
            node: vec![node("If", "", ["x"], ["y"]).with(attribute(inner))],
            ..Default::default()
        };
        let mut proto = small(4);
        let body = (0..levels).fold(GraphProto::default(), |inner, _| inside(inner));
        proto.graph.as_mut().unwrap().node[0].attribute = vec![attribute(body)];
        proto.encode_to_vec()
    };
    Model::decode(nested(14).into()).unwrap();
    check(&nested(15), "nested deeper than 16");
    check(&nested(1000), "recursion limit");
}

#[test]
fn a_written_model_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.onnx");
    fs::write(&path, "an older file").unwrap();
    let model = Model::new(small(1000)).unwrap();

    model.write(&path, Storage::Inline).unwrap();
    assert_eq!(names(folder.path()), ["out.onnx"]);
    assert_eq!(fs::read(&path).unwrap(), model.encode());

    model.write(&path, Storage::External).unwrap();
    assert_eq!(names(folder.path()), ["out.onnx", "out.onnx.data"]);
    assert_eq!(fs::metadata(path.with_file_name("out.onnx.data")).unwrap().len(), 4032 + 1200);
    let back = Model::read(&path).unwrap();
    assert!(back.had_external_data());
    assert_eq!(back.proto, model.proto);

    // A model may replace the files it is mapped from.
    back.write(&path, Storage::External).unwrap();
    assert_eq!(back.proto, model.proto);
    assert_eq!(Model::read(&path).unwrap().proto, model.proto);
}

#[test]
fn a_failed_write_leaves_nothing() {
    #[track_caller]
    fn check(folder: &Path, name: &str, storage: Storage, part: &str) {
        let before = names(folder);
        let why =
            Model::new(small(1000)).unwrap().write(&folder.join(name), storage).expect_err(part).to_string();
        assert!(why.contains(part), "{why}");
        assert_eq!(names(folder), before);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("kept"), "kept").unwrap();
    for storage in [Storage::Inline, Storage::External] {
        check(folder.path(), "none/out.onnx", storage, "none/out.onnx");
        check(folder.path(), "d", storage, "not a file");
        check(folder.path(), "kept/out.onnx", storage, "kept/out.onnx");
        // The temporary file is complete when the name turns out to be too long.
        check(folder.path(), &"n".repeat(256), storage, "nnn");
    }
    check(folder.path(), &"n".repeat(253), Storage::External, "nnn.data: ");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink("kept", folder.path().join("link")).unwrap();
        symlink("nowhere", folder.path().join("out.onnx.data")).unwrap();
        check(folder.path(), "link", Storage::Inline, "symbolic link");
        check(folder.path(), "link", Storage::External, "symbolic link");
        check(folder.path(), "out.onnx", Storage::External, "out.onnx.data: is a symbolic link");
    }
    assert_eq!(fs::read(folder.path().join("kept")).unwrap(), b"kept");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Model::decode(bytes.into());
    }

    /// Almost right files reach further than noise.
    #[test]
    fn damaged_models_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = everything().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(model) = Model::decode(bytes.into()) {
            let _ = dump(&model);
            let _ = onnx_ptq4vit::onnx::Graph::new(&model);
        }
    }
}
