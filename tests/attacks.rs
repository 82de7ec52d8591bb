//! Hostile models: what they ask for is refused with an error that names the place.

mod common;

use common::{
    file_of, float_engine, float_output, image_value, planned, session, shape, taps, unless_it_hangs, value,
};
use ndarray::Array4;
use onnx_ptq4vit::Result;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, GraphProto, Model, NodeProto, TensorProto, tensor};

/// A classifier of 2×2 images, `logits = Reshape(x)·W`, with `evil` nodes on its way: they take `flat` or constants,
/// and make `bad`, which is added.
fn model(evil: Vec<NodeProto>, constants: Vec<TensorProto>) -> Result<Model> {
    let shape = tensor::from_i64("shape", &[2], &[0, -1]);
    let weight = tensor::from_f32("w", &[12, 4], &[0.5; 48]);
    let nodes = [
        vec![node("Reshape", "flatten", ["x", "shape"], ["flat"])],
        evil,
        vec![
            node("Add", "sum", ["flat", "bad"], ["both"]),
            node("MatMul", "head", ["both", "w"], ["logits"]),
        ],
    ];
    Model::new(file_of(GraphProto {
        input: vec![image_value("x", [1, 3, 2, 2].map(Some))],
        output: vec![value("logits")],
        initializer: [vec![shape, weight], constants].concat(),
        node: nodes.concat(),
        ..Default::default()
    }))
}

/// All that `quantize` and `check` do with a float model before they look at images, and one run.
fn load(model: Model) -> Result<()> {
    let model = planned(model)?;
    let image = Array4::zeros([1, 3, 2, 2]);
    session(&model, [3, 2, 2])?.forward(image.clone().into_dyn(), &taps(&model))?;
    float_output(&model, &image.view())?;
    Ok(())
}

/// Loads [`model`], but not for ever.
fn outcome(evil: Vec<NodeProto>, constants: Vec<TensorProto>) -> Result<()> {
    let ops = evil.iter().map(NodeProto::op_type).collect::<Vec<_>>().join(" ");
    unless_it_hangs(&ops, move || model(evil, constants).and_then(load))
}

#[track_caller]
fn refused(evil: Vec<NodeProto>, constants: Vec<TensorProto>, part: &str) {
    let error = outcome(evil, constants).expect_err(part).to_string();
    assert!(error.contains(part), "expected `{part}`: {error}");
}

#[test]
fn the_harmless_model_loads() {
    outcome(vec![node("Relu", "evil", ["flat"], ["bad"])], vec![]).unwrap();
}

#[test]
fn constants_that_would_fill_the_memory_are_not_made() {
    let size = |dims: &[i64]| tensor::from_i64("size", &[dims.len()], dims);
    let one = || tensor::from_f32("one", &[1, 1], &[1.0]);
    let evil = |op: &str, inputs: &[&str]| vec![node(op, "evil", inputs.iter().copied(), ["bad"])];
    refused(evil("ConstantOfShape", &["size"]), vec![size(&[1 << 28, 12])], "node `evil`");
    refused(evil("ConstantOfShape", &["size"]), vec![size(&[1 << 30, 1 << 30])], "node `evil`");
    refused(
        evil("Expand", &["one", "size"]),
        vec![one(), size(&[1 << 20, 1 << 20])],
        "larger than the limit of 1.0 GiB",
    );
    refused(evil("Tile", &["flat", "size"]), vec![size(&[1 << 20, 1 << 20])], "node `evil`");
    refused(evil("Tile", &["one", "size"]), vec![one(), size(&[1 << 30, 12])], "node `evil`");
    let pads = tensor::from_i64("size", &[4], &[1 << 30, 0, 0, 0]);
    refused(evil("Pad", &["flat", "size"]), vec![pads], "node `evil`");
    let scalar = |name: &str, x: f32| tensor::from_f32(name, &[], &[x]);
    let range = vec![scalar("from", 0.0), scalar("to", 1e12), scalar("step", 1.0)];
    refused(evil("Range", &["from", "to", "step"]), range, "node `evil`");
}

#[test]
fn a_bomb_in_small_steps_is_found_at_the_step_that_is_too_large() {
    let twice = tensor::from_i64("twice", &[2], &[2, 1]);
    let mut nodes = vec![node("Identity", "start", ["flat"], ["t0"])];
    for i in 0..40 {
        let (input, output) = (format!("t{i}"), format!("t{}", i + 1));
        nodes.push(node("Tile", &format!("tile{i}"), [input.as_str(), "twice"], [output.as_str()]));
    }
    nodes.push(node("ReduceSum", "evil", ["t40"], ["bad"]));
    refused(nodes, vec![twice], "node `tile24`");
}

#[test]
fn constants_made_of_constants_are_bounded_together() {
    // Sixteen of 256 MiB each: none is too large by itself.
    let size = tensor::from_i64("size", &[2], &[1 << 20, 64]);
    let mut nodes = Vec::new();
    let mut sums = vec!["flat".to_string()];
    for i in 0..16 {
        let [big, least] = ["big", "least"].map(|name| format!("{name}{i}"));
        nodes.push(node("ConstantOfShape", &big, ["size"], [big.as_str()]));
        nodes.push(node("ReduceMin", &least, [big.as_str()], [least.as_str()]));
        sums.push(least);
    }
    nodes.push(node("Sum", "evil", sums.iter().map(String::as_str), ["bad"]));
    let _ = model(nodes, vec![size]).and_then(load); // either is well, within the limits of the machine
}

#[test]
fn input_counts_and_attributes_that_make_no_sense_are_errors() {
    const OPS: &str = "MatMul Gemm Conv Softmax LayerNormalization Transpose Reshape Slice Split Concat Gather \
        Unsqueeze Squeeze Expand Tile Where Pad ReduceMean Erf Pow Cast Range Clip Flatten \
        GlobalAveragePool MaxPool BatchNormalization Resize Mod Shape ConstantOfShape OneHot TopK Einsum \
        If Loop Scan GatherElements ScatterND CumSum Trilu DepthToSpace Attention QuantizeLinear \
        Constant Identity Dropout";
    let huge = [i64::MIN, -7, 9, i64::MAX];
    for op in OPS.split_whitespace() {
        for count in [0, 1, 2, 7] {
            for (i, value) in huge.iter().enumerate() {
                let input = ["flat", "w", "shape", ""][i];
                let evil = node(op, "evil", std::iter::repeat_n(input, count), ["bad"])
                    .with(AttributeProto::int("axis", *value))
                    .with(AttributeProto::int("to", *value))
                    .with(AttributeProto::int("num_outputs", *value))
                    .with(AttributeProto::int("group", *value))
                    .with(AttributeProto::int_list("axes", &[*value, 0]))
                    .with(AttributeProto::int_list("perm", &[*value]))
                    .with(AttributeProto::int_list("strides", &[0, *value]))
                    .with(AttributeProto::int_list("kernel_shape", &[*value, *value]))
                    .with(AttributeProto::string("equation", "ij,jk->k?"));
                if let Err(error) = outcome(vec![evil], vec![]) {
                    assert!(error.exit_code() > 2, "{op} of {count}: {error}");
                }
            }
        }
    }
}

/// What is inside of If, Loop and Scan could ask for anything out of sight.
#[test]
fn graphs_inside_of_nodes_are_refused() {
    let body = GraphProto { node: vec![node("Relu", "inner", ["flat"], ["y"])], ..Default::default() };
    let mut attribute = AttributeProto::int("body", 0);
    (attribute.i, attribute.g) = (None, Some(body));
    refused(vec![node("Loop", "evil", ["flat"], ["bad"]).with(attribute)], vec![], "node `evil` (Loop)");
}

#[test]
fn images_of_absurd_size_are_refused() {
    for side in [1 << 20, 1 << 40, i64::MAX] {
        let mut huge = model(vec![node("Relu", "evil", ["flat"], ["bad"])], vec![]).unwrap();
        huge.proto.graph.as_mut().unwrap().input[0] = image_value("x", [1, 3, side, side].map(Some));
        let (huge, side) = (planned(huge).unwrap(), usize::try_from(side).unwrap());
        shape(&huge, [3, side, side]).unwrap();
        float_engine(&huge, [3, side, side]).expect_err("too large");
    }
}

/// tract would count these axes up without end.
#[test]
fn axes_that_lead_nowhere_are_refused() {
    let twice = node("Transpose", "evil", ["flat"], ["bad"]).with(AttributeProto::int_list("perm", &[0, 0]));
    refused(vec![twice], vec![], "no order of axes");
    let one = || tensor::from_f32("one", &[1], &[1.0]);
    let norm =
        node("LayerNormalization", "evil", ["flat", "one"], ["bad"]).with(AttributeProto::int("axis", -9));
    refused(vec![norm], vec![one()], "before the first one of its scale");
}
