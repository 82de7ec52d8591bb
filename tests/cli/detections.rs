//! Detectors: whether the quantized model finds the boxes of the float model.

use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::{TypeProto, type_proto};
use onnx_ptq4vit::onnx::{AttributeProto, DataType, Model, NodeProto, TensorProto, ValueInfoProto, tensor};
use serde_json::json;

use super::Bench;
use super::common::value;

/// Makes a detector of the fixture's model: its ten logits become those of five classes for two boxes, and eight of them the
/// sides of these, by `nodes` from `halves` `[N, 2, 5]` and `sides` `[N, 2, 4]`.
fn detector(
    model: &mut Model,
    outputs: &[(&str, DataType)],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
) {
    let graph = model.proto.graph.as_mut().unwrap();
    for made in graph.node.iter_mut().flat_map(|node| &mut node.output).filter(|made| **made == "logits") {
        *made = "own".into();
    }
    graph.node.extend([
        node("Reshape", "", ["own", "in_halves"], ["halves"]),
        node("Slice", "", ["own", "from", "to", "axis"], ["eight"]),
        node("Reshape", "", ["eight", "in_fours"], ["fours"]),
        node("Sigmoid", "", ["fours"], ["sides"]),
    ]);
    graph.node.extend(nodes);
    let ints = |name: &str, values: &[i64]| tensor::from_i64(name, &[values.len()], values);
    graph.initializer.extend([
        ints("in_halves", &[-1, 2, 5]),
        ints("in_fours", &[-1, 2, 4]),
        ints("from", &[0]),
        ints("to", &[8]),
        ints("axis", &[1]),
    ]);
    graph.initializer.extend(constants);
    let typed = |(name, element): &(&str, DataType)| {
        let tensor = type_proto::Tensor { elem_type: Some((*element).into()), shape: None };
        let of = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { r#type: Some(of), ..value(name) }
    };
    graph.output = outputs.iter().map(typed).collect();
}

/// As DETR has it: the logits of the classes, and one of no object that is as large everywhere.
fn detr(model: &mut Model, no_object: f32) {
    let nodes = vec![
        node("Pad", "", ["halves", "pads", "no_object"], ["logits"]),
        node("Identity", "", ["sides"], ["pred_boxes"]),
    ];
    let constants = vec![
        tensor::from_i64("pads", &[6], &[0, 0, 0, 0, 0, 1]),
        tensor::from_f32("no_object", &[], &[no_object]),
    ];
    let float = DataType::Float;
    detector(model, &[("logits", float), ("pred_boxes", float)], nodes, constants);
}

#[test]
fn boxes_of_the_float_model_are_sought_in_the_quantized_one() {
    let bench = Bench::new();
    // Larger than the logits of most classes that are not there, and smaller than that of the digit.
    bench.model("detr.onnx", |model| detr(model, 4.0));
    for (name, bits) in [("good", "w8a8"), ("bad", "w2a2")] {
        let options = format!("--calib-limit 16 --preset fast --bits {bits} -o %{name}.onnx");
        bench.accepts(&format!("quantize %detr.onnx --calib @digits_calib.npz {options}"));
    }
    let check = |name: &str| format!("check %detr.onnx %{name}.onnx --data @digits_test.npz");
    let good = bench.json(&check("good"));
    let number = |report: &serde_json::Value, of: &str| report["boxes"][of].as_f64().unwrap();
    assert_eq!(good["boxes"]["last_is_no_object"], true, "{good}");
    assert_eq!((good["images"].as_u64(), &good["features"]), (Some(360), &json!(null)));
    // Nearly every digit is found, in its half of the classes: NumPy counts 342 in the logits.
    assert!((340.0..345.0).contains(&number(&good, "float")), "{good}");
    for of in ["recall", "precision", "f1", "mean_iou"] {
        assert!(number(&good, of) > 90.0, "{of}: {good}");
    }
    let bad = bench.json(&check("bad"));
    assert!(number(&bad, "f1") < number(&good, "f1") - 20.0, "{bad}");
    assert_eq!(number(&bad, "float"), number(&good, "float"));

    for shard in 1..=2 {
        bench.json(&format!("{} --shard {shard}/2 --save %{shard}.json", check("good")));
    }
    assert_eq!(bench.json("check --merge %2.json %1.json"), good);
    let text = bench.accepts("check --merge %1.json %2.json --min-agreement 90");
    assert!(text.starts_with("PASS: F1 of the boxes ") && text.contains("found again (recall)"), "{text}");
    let text = bench.accepts(&check("good"));
    assert!(
        text.contains("boxes are found again, ") && text.contains("the last class is no object"),
        "{text}"
    );
    let output = bench.run(&format!("{} --min-agreement 90", check("bad")));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.starts_with("FAIL: F1 of the boxes "), "{text}");
}

#[test]
fn no_box_at_all_passes_nothing() {
    let bench = Bench::new();
    bench.model("detr.onnx", |model| detr(model, 1000.0));
    bench.accepts("quantize %detr.onnx --calib @digits_calib.npz --calib-limit 4 --preset fast -o %q.onnx");
    let output = bench.run("check %detr.onnx %q.onnx --data @digits_test.npz --limit 20 --min-agreement 0");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("not to be trusted: the float model finds no box")
            && text.contains("F1 of the boxes unknown"),
        "{text}"
    );
}

/// As exporters give it that choose the best class of each box: the classes are integers.
#[test]
fn classes_may_be_an_output_of_their_own() {
    let bench = Bench::new();
    let (float, int) = (DataType::Float, DataType::Int64);
    bench.model("boxes.onnx", |model| {
        let best = |op: &str| node(op, "", ["p"], [if op == "ArgMax" { "labels" } else { "scores" }]);
        let keepdims = || AttributeProto::int("keepdims", 0);
        let nodes = vec![
            node("Sigmoid", "", ["halves"], ["p"]),
            node("Identity", "", ["sides"], ["boxes_cxcywh"]),
            best("ArgMax").with(AttributeProto::int("axis", 2)).with(keepdims()),
            best("ReduceMax").with(AttributeProto::int_list("axes", &[2])).with(keepdims()),
        ];
        detector(model, &[("boxes_cxcywh", float), ("labels", int), ("scores", float)], nodes, vec![]);
    });
    bench.accepts("quantize %boxes.onnx --calib @digits_calib.npz --calib-limit 16 --preset fast -o %q.onnx");
    let report = bench.json("check %boxes.onnx %q.onnx --data @digits_test.npz --sites --limit 100");
    assert_eq!(report["boxes"]["last_is_no_object"], false, "{report}");
    let [boxes, recall] = ["float", "recall"].map(|of| report["boxes"][of].as_f64().unwrap());
    assert!((100.0..=200.0).contains(&boxes) && recall > 90.0, "{report}");
    // The distance of class numbers says nothing, that of scores does.
    let others: Vec<_> = report["others"].as_array().unwrap().iter().map(|other| &other["name"]).collect();
    assert_eq!(others, ["scores"]);
    assert!(!report["sites"].as_array().unwrap().is_empty());
}
