//! Files that are nearly right: refused, with the place and the reason.

use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, GraphProto, Model, ModelProto, NodeProto, tensor};

use super::common::sites;
use super::recipes::{COLUMNS, File, HEADS, SIZE};

/// What `model` is refused with contains all `parts`.
#[track_caller]
fn refused(model: ModelProto, parts: &[&str]) {
    let error = sites(&Model::new(model).unwrap()).expect_err(parts[0]).to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

/// `model` with its graph changed.
fn changed(mut model: ModelProto, change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    change(model.graph.as_mut().unwrap());
    model
}

fn constant(graph: &mut GraphProto, name: &str, dims: &[usize], values: &[f32]) {
    graph.initializer.retain(|t| t.name() != name);
    graph.initializer.push(tensor::from_f32(name, dims, values));
}

fn node_of<'g>(graph: &'g mut GraphProto, output: &str) -> &'g mut NodeProto {
    graph.node.iter_mut().find(|node| node.output[0] == output).unwrap()
}

fn linear() -> ModelProto {
    File::new(1).linear(8, true)
}

#[test]
fn files_without_sites() {
    let plain = changed(linear(), |g| g.node = vec![node("Relu", "r", ["x"], ["y"])]);
    refused(plain, &["no quantized site"]);
}

#[test]
fn zero_points_and_scales_of_activations() {
    let zero_point = changed(linear(), |g| {
        g.initializer.retain(|t| t.name() != "p_a_zero_point");
        g.initializer.push(tensor::from_i8("p_a_zero_point", &[], &[3]));
    });
    refused(zero_point, &["node `p_a_q`", "is not 0"]);
    refused(
        changed(linear(), |g| {
            node_of(g, "p_a_q").input.pop();
        }),
        &["node `p_a_q`", "no zero point"],
    );
    for scale in [0.0, -0.1, f32::NAN, f32::INFINITY] {
        refused(changed(linear(), |g| constant(g, "p_a_scale", &[], &[scale])), &["node `p_a_q`", "scale"]);
    }
    refused(changed(linear(), |g| constant(g, "p_a_scale", &[2], &[0.1, 0.2])), &["node `p_a_q`"]);
    let computed = changed(linear(), |g| {
        g.node.insert(0, node("Relu", "r", ["p_a_scale"], ["computed"]));
        node_of(g, "p_a_q").input[1] = "computed".into();
    });
    refused(computed, &["node `p_a_q`", "`computed`", "no constant"]);
    let other = changed(linear(), |g| {
        constant(g, "other", &[], &[0.5]);
        node_of(g, "p_a_dq").input[1] = "other".into();
    });
    refused(other, &["node `p_a_dq`", "node `p_a_q`"]);
}

#[test]
fn weights() {
    let scales = changed(linear(), |g| constant(g, "p_w_scale", &[SIZE], &[0.1; SIZE]));
    refused(scales, &["node `p_w_dq`", "expected axis 1"]);
    let axis = changed(linear(), |g| node_of(g, "p_w_dq").attribute = vec![AttributeProto::int("axis", 0)]);
    refused(axis, &["node `p_w_dq`", "axis 0"]);
    let float = changed(linear(), |g| constant(g, "p_w_q", &[SIZE, COLUMNS], &[1.0; SIZE * COLUMNS]));
    refused(float, &["node `p_w_dq`", "INT8"]);
    let alone = changed(linear(), |g| node_of(g, "y").input[0] = "x".into());
    refused(alone, &["node `y`", "only one of its operands"]);
}

#[test]
fn convolutions_without_windows() {
    for (name, values) in [("strides", vec![0, 1]), ("pads", vec![0, 0, -1, 0]), ("dilations", vec![2])] {
        let model = changed(File::new(1).conv(), |g| {
            let conv = node_of(g, "y");
            conv.attribute.retain(|a| a.name() != name);
            conv.attribute.push(AttributeProto::int_list(name, &values));
        });
        refused(model, &["node `y` (Conv)", name]);
    }
    refused(changed(File::new(1).conv(), |g| constant(g, "bias", &[1], &[0.0])), &["node `y`", "bias"]);
}

#[test]
fn pairs_outside_and_values_that_leave_a_site() {
    let stray = changed(linear(), |g| {
        node_of(g, "y").output[0] = "logits".into();
        let inputs = ["logits", "p_a_scale", "p_a_zero_point"];
        g.node.push(node("QuantizeLinear", "stray", inputs, ["q"]));
        g.node.push(node("DequantizeLinear", "back", ["q", inputs[1], inputs[2]], ["y"]));
    });
    refused(stray, &["node `stray`", "belongs to no quantized"]);
    let seen = changed(linear(), |g| {
        node_of(g, "y").output[0] = "mm".into();
        g.node.push(node("Relu", "r", ["p_a_dq"], ["r"]));
        g.node.push(node("Concat", "c", ["mm", "r"], ["y"]).with(AttributeProto::int("axis", -1)));
    });
    refused(seen, &["node `p_a_dq`", "node `r`"]);
}

#[test]
fn heads() {
    let scores = || File::new(1).scores(6);
    let factor = changed(scores(), |g| constant(g, "p_head_scale", &[HEADS, 1, 1], &[0.1; HEADS]));
    refused(factor, &["node `y`", "product of the scales"]);
    let unscaled = changed(scores(), |g| {
        g.node.pop();
        node_of(g, "p_mm").output[0] = "y".into();
    });
    refused(unscaled, &["divided by per-head scales"]);
    let one = changed(scores(), |g| {
        constant(g, "half", &[], &[0.5]);
        node_of(g, "p_b_u").input[1] = "half".into();
    });
    refused(one, &["node `y`", "only one operand"]);
}

#[test]
fn twins_as_nodes() {
    let gelu = || File::new(1).twin_gelu(8, 3, false, false);
    refused(changed(gelu(), |g| constant(g, "p_n_min", &[], &[-0.5])), &["node `y`", "no k has ranges"]);
    refused(changed(gelu(), |g| constant(g, "p_n_scale", &[], &[0.001])), &["node `y`", "times 2^m"]);
    refused(changed(gelu(), |g| constant(g, "p_n_max", &[], &[0.1])), &["node `y`", "meet at zero"]);

    let softmax = || File::new(1).twin_softmax(8, 1, false);
    let alpha = changed(softmax(), |g| {
        node_of(g, "p_hi_u").attribute = vec![AttributeProto::float("alpha", 1.0)];
    });
    refused(alpha, &["node `y`", "ThresholdedRelu"]);
    let v = changed(softmax(), |g| constant(g, "p_v_head_scale", &[2, 1, 1], &[0.1, 0.2]));
    refused(v, &["node `y`", "as many scales"]);
    let border = changed(softmax(), |g| constant(g, "p_head_r1_end", &[HEADS, 1, 1], &[0.3; HEADS]));
    refused(border, &["node `y`", "times 2^m"]);
    let max = changed(softmax(), |g| {
        constant(g, "p_lo_max", &[], &[0.5]);
        constant(g, "p_hi_max", &[], &[0.5]);
    });
    refused(max, &["node `y`", "range end"]);
    let signed = changed(softmax(), |g| {
        for name in ["p_lo_zero_point", "p_hi_zero_point"] {
            g.initializer.retain(|t| t.name() != name);
            g.initializer.push(tensor::from_i8(name, &[], &[0]));
        }
    });
    refused(signed.clone(), &["node `y`", "no lower bound"]);
    let bounded = changed(signed, |g| {
        constant(g, "zero", &[], &[0.0]);
        let p = std::mem::replace(&mut node_of(g, "p_u").input[0], "floor".into());
        g.node.insert(0, node("Max", "floor", [p.as_str(), "zero"], ["floor"]));
    });
    assert!(sites(&Model::new(bounded).unwrap()).is_ok());
}

#[test]
fn twins_as_functions() {
    #[track_caller]
    fn check(model: fn() -> ModelProto, attribute: AttributeProto, part: &str) {
        let name = attribute.name().to_string();
        let model = changed(model(), |g| {
            let site = node_of(g, "y");
            site.attribute.retain(|a| a.name() != name);
            site.attribute.push(attribute);
        });
        refused(model, &["node `y` (Twin", part]);
    }
    let gelu = || File::new(1).twin_gelu(8, 3, true, false);
    check(gelu, AttributeProto::int("bits", 7), "bits");
    check(gelu, AttributeProto::int("shift", 4), "shift");
    check(gelu, AttributeProto::float("coarse_max", 1.0), "no k");
    check(gelu, AttributeProto::float("fine", 0.001), "2^m");
    check(gelu, AttributeProto::int("fine", 1), "right type");
    let softmax = || File::new(1).twin_softmax(8, 1, true);
    check(softmax, AttributeProto::int("bits", 7), "bits");
    check(softmax, AttributeProto::int_list("shift", &[2, 3]), "shift");
    check(softmax, AttributeProto::float_list("fine", &[0.1; HEADS]), "fine");
    check(softmax, AttributeProto::float_list("r1_end", &[0.3; HEADS]), "2^m");
    check(softmax, AttributeProto::int("v_bits", 7), "v_bits");
    check(softmax, AttributeProto::float_list("v_min", &[-1.0; HEADS]), "v_min");
    let undefined = ModelProto { functions: vec![], ..gelu() };
    refused(undefined, &["node `y` (TwinGelu", "defines no function"]);
    let unknown = changed(gelu(), |g| node_of(g, "y").op_type = Some("TwinTanhMatMul".into()));
    refused(unknown, &["defines no function ai.ptq4vit::TwinTanhMatMul"]);
}
