use super::super::testing::{floats, inputs, ints, ops};
use super::*;
use crate::onnx::node::node;
use crate::onnx::proto::OperatorSetIdProto;
use crate::onnx::testing::{file_of, graph, shaped};
use crate::onnx::{Model, ModelProto, TensorProto, tensor};

/// The model of one node, over `[2, 4, 6]`, after the step.
fn written_out(node: NodeProto, opset: i64) -> Option<Model> {
    let constant = |name: &str, dims: &[usize]| {
        let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| i as f32).collect();
        tensor::from_f32(name, dims, &values)
    };
    let constants: Vec<TensorProto> = [
        ("row", &[6][..]),
        ("w", &[6, 3]),
        ("qkv", &[6, 18]),
        ("qkv_bias", &[18]),
        ("kernel", &[2, 2, 1, 1]),
    ]
    .map(|(name, dims)| constant(name, dims))
    .into();
    let mut outputs = node.output.clone();
    outputs.retain(|output| !output.is_empty());
    let mut graph = graph("x", &outputs.join(" "), vec![node.in_domain(DOMAIN)], constants);
    graph.input[0] = shaped("x", &[2, 4, 6]);
    let mut file: ModelProto = file_of(graph, opset);
    file.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.into()), version: Some(1) });
    let mut model = Model::new(file).unwrap();
    let edits = expand(&Graph::new(model.clone()).unwrap())?;
    edits.apply(&mut model).unwrap();
    Some(model)
}

#[track_caller]
fn check(node: NodeProto, expected: &str) -> Model {
    let model = written_out(node, 17).expect(expected);
    assert_eq!(ops(&model), expected);
    model
}

#[track_caller]
fn stays(node: NodeProto) {
    assert!(written_out(node, 17).is_none());
}

#[test]
fn activations() {
    let model = check(node("Gelu", "", ["x"], ["y"]), "Div Erf Add Mul Mul");
    assert_eq!((floats(&model, 0, 1).1, floats(&model, 4, 1).1), (vec![SQRT_2], vec![0.5]));
    check(node("BiasGelu", "", ["x", "row"], ["y"]), "Add Div Erf Add Mul Mul");
    check(node("FastGelu", "", ["x"], ["y"]), "Mul Mul Mul Add Mul Tanh Add Mul Mul");
    check(node("FastGelu", "", ["x", "row"], ["y"]), "Add Mul Mul Mul Add Mul Tanh Add Mul Mul");
    let quick = node("QuickGelu", "", ["x"], ["y"]).with(AttributeProto::float("alpha", 1.0));
    assert_eq!(floats(&check(quick, "Mul Sigmoid Mul"), 0, 1).1, [1.0]);
    stays(node("Gelu", "", [], ["y"]));
    stays(node("BiasGelu", "", ["x"], ["y"]));
    stays(node("Rfft", "", ["x"], ["y"]));
}

#[test]
fn norms() {
    let skip = |outputs: &[&str]| {
        let inputs = ["x", "x", "row", "", "row"];
        node("SkipLayerNormalization", "", inputs, outputs.iter().copied())
    };
    let model = check(skip(&["y", "", "", "sum"]), "Add Add LayerNormalization");
    assert_eq!((inputs(&model, 1)[1], inputs(&model, 2)), ("row", vec!["sum", "row"]));
    assert_eq!(model.graph().node[2].attr_float("epsilon"), Some(1e-12));
    stays(skip(&["y", "mean"]));
    let old = written_out(skip(&["y"]), 13).unwrap();
    assert_eq!(ops(&old), "Add Add ReduceMean Sub Mul ReduceMean Add Sqrt Div Mul");

    let rms = || node("SimplifiedLayerNormalization", "", ["x", "row"], ["y"]);
    check(rms(), "Mul ReduceMean Add Sqrt Div Mul");
    check(rms().with(AttributeProto::int("axis", 2)), "Mul ReduceMean Add Sqrt Div Mul");
    stays(rms().with(AttributeProto::int("axis", 1)));
    let skip = node("SkipSimplifiedLayerNormalization", "", ["x", "x", "row"], ["y"]);
    assert_eq!(ints(&written_out(skip, 18).unwrap(), 2, 1), [-1]);
}

#[test]
fn products() {
    let product = |b: &str, flags: &[&str]| {
        let product = node("FusedMatMul", "fc", ["x", b], ["y"]).with(AttributeProto::float("alpha", 2.0));
        flags.iter().fold(product, |node, flag| node.with(AttributeProto::int(flag, 1)))
    };
    let model = check(product("w", &[]), "MatMul");
    assert_eq!((floats(&model, 0, 1).1[17], model.graph().node[0].name()), (34.0, "fc"));
    let model = check(product("x", &["transB"]), "Transpose MatMul Mul");
    assert_eq!(model.graph().node[0].attr_ints("perm"), Some(&[0, 2, 1][..]));
    check(product("x", &["transA"]), "Transpose MatMul Mul");
    stays(product("x", &["transBatchA"]));

    let conv = |activation: &str| {
        let conv = node("FusedConv", "c", ["x", "kernel", "", "x"], ["y"]);
        conv.with(AttributeProto::string("activation", activation)).with(AttributeProto::int("group", 1))
    };
    let model = check(conv("Relu"), "Conv Add Relu");
    assert_eq!((model.graph().node[0].attribute.len(), inputs(&model, 1)[1]), (1, "x"));
    let params = AttributeProto::float_list("activation_params", &[0.0, 6.0]);
    assert_eq!(floats(&check(conv("Clip").with(params), "Conv Add Clip"), 2, 2).1, [6.0]);
    stays(conv("Clip"));
    stays(conv("Softsign"));
}

#[test]
fn attention() {
    let heads = |node: NodeProto| node.with(AttributeProto::int("num_heads", 2));
    let one = |inputs: &[&str]| heads(node("Attention", "a", inputs.iter().copied(), ["y"]));
    let body = "Split Reshape Transpose Reshape Transpose Reshape Transpose Transpose Mul MatMul Softmax MatMul Transpose \
                Reshape";
    let model = check(one(&["x", "qkv", "qkv_bias"]), &format!("MatMul Add {body}"));
    assert_eq!(ints(&model, 2, 1), [6, 6, 6]);
    assert_eq!(floats(&model, 10, 1).1, [1.0 / 3.0_f32.sqrt()]);
    check(one(&["x", "qkv"]), &format!("MatMul {body}"));
    stays(one(&["x", "qkv", "", "x"]));
    stays(one(&["x", "qkv"]).with(AttributeProto::int("unidirectional", 1)));
    stays(one(&["x", "qkv"]).with(AttributeProto::int_list("qkv_hidden_sizes", &[i64::MAX, i64::MAX, 1])));
    stays(node("Attention", "a", ["x", "qkv"], ["y"]));

    let three = |inputs: &[&str]| heads(node("MultiHeadAttention", "a", inputs.iter().copied(), ["y"]));
    let body = &body["Split ".len()..];
    check(three(&["x", "x", "x"]), body);
    check(three(&["x", "x", "x", "qkv_bias"]), &format!("Split Add Add Add {body}"));
    stays(three(&["x"]));
    stays(three(&["x", "x", "x", "", "x"]));
}
