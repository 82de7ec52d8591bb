//! Nothing is lost on the way in and out.

use std::fs;

use onnx_protobuf::Message as _;
use onnx_ptq4vit::onnx::{Model, Storage, tensor};
use prost::Message as _;

use super::everything::everything;
use super::{external, names, small};

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
    let shown = crate::common::dump::dump(&Model::new(everything()).unwrap());
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

#[test]
fn external_data_become_inline() {
    let folder = tempfile::tempdir().unwrap();
    let proto = external(small(4), &[("location", "sub/w.bin"), ("offset", "4"), ("length", "16")]);
    fs::write(folder.path().join("model.onnx"), proto.encode_to_vec()).unwrap();
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
