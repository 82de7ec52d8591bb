//! What is refused, and before anything is written.

use ndarray::ArrayD;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::proto::type_proto::Value;
use onnx_ptq4vit::onnx::{FunctionProto, Model, Storage, node, tensor};

use super::common::fixture_path;
use super::{Bench, MODEL};

/// Overwrites element 5 of the largest initializer, a weight.
pub(super) fn spoil(model: &mut Model, value: f32) -> String {
    let graph = model.proto.graph.as_mut().unwrap();
    let weight = graph.initializer.iter_mut().max_by_key(|t| t.dims.iter().product::<i64>()).unwrap();
    let mut values = tensor::f32s(weight).unwrap();
    values[5] = value;
    *weight = tensor::from_f32(weight.name(), &tensor::shape(weight), &values);
    weight.name().to_string()
}

/// Puts an operator that tract does not know before all others.
fn begin_with_unknown(model: &mut Model) {
    let graph = model.proto.graph.as_mut().unwrap();
    let input = graph.input[0].name().to_string();
    for taken in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|value| **value == input) {
        *taken = "behind_the_op".into();
    }
    graph.node.insert(0, node::node("Det", "odd_one", [input.as_str()], ["behind_the_op"]));
}

#[test]
fn files_that_are_no_model_are_refused() {
    let bench = Bench::new();
    let bytes = std::fs::read(fixture_path(MODEL)).unwrap();
    bench.bytes("text.onnx", b"The quick brown fox\n");
    bench.bytes("empty.onnx", b"");
    bench.bytes("short.onnx", &bytes[..bytes.len() / 2]);
    Model::read(&fixture_path(MODEL)).unwrap().write(&bench.path("lone.onnx"), Storage::External).unwrap();
    std::fs::remove_file(bench.path("lone.onnx.data")).unwrap();
    for (model, parts) in [
        ("text.onnx", ["text.onnx", "not an ONNX model"]),
        ("empty.onnx", ["empty.onnx", "the file is empty"]),
        ("short.onnx", ["short.onnx", "cut short"]),
        ("lone.onnx", ["lone.onnx", "lone.onnx.data"]),
        ("absent.onnx", ["absent.onnx", "No such file"]),
    ] {
        bench.refuses(&format!("quantize %{model} --calib @digits_calib.npz -o %out.onnx"), 3, &parts);
        bench.refuses(&format!("inspect %{model}"), 3, &parts);
        bench.refuses(&format!("run %{model} --input @digits_test.npz -o %out.npy"), 3, &parts);
        bench.refuses(&format!("check %{model} @{MODEL} --data @digits_test.npz"), 3, &parts);
        bench.refuses(&format!("check @{MODEL} %{model} --data @digits_test.npz"), 3, &parts);
    }
}

#[test]
fn models_that_cannot_be_quantized_are_refused() {
    let bench = Bench::new();
    bench.model("no_sites.onnx", |model| {
        let graph = model.proto.graph.as_mut().unwrap();
        let (input, output) = (graph.input[0].name().to_string(), graph.output[0].name().to_string());
        graph.node = vec![node::node("Relu", "only", [input.as_str()], [output.as_str()])];
        graph.initializer.clear();
        graph.value_info.clear();
    });
    bench.model("nan.onnx", |model| drop(spoil(model, f32::NAN)));
    bench.model("inf.onnx", |model| drop(spoil(model, f32::INFINITY)));
    bench.model("huge.onnx", |model| drop(spoil(model, f32::MAX)));
    bench.model("odd.onnx", begin_with_unknown);
    // A graph that ONNX Runtime optimized, a function of the model, and images without a batch axis.
    bench.model("fused.onnx", |model| {
        let last = model.proto.graph.as_mut().unwrap().node.last_mut().unwrap();
        *last = last.clone().in_domain("com.microsoft");
    });
    bench.model("function.onnx", |model| {
        let last = model.proto.graph.as_mut().unwrap().node.last_mut().unwrap();
        let (op, inputs, output) = (last.op_type().to_string(), last.input.clone(), last.output[0].clone());
        *last = last.clone().in_domain("mine");
        model.proto.functions.push(FunctionProto {
            name: Some(op.clone()),
            domain: Some("mine".into()),
            node: vec![node::node(&op, "", inputs.iter().map(String::as_str), [output.as_str()])],
            input: inputs,
            output: vec![output],
            ..Default::default()
        });
    });
    bench.model("lone_image.onnx", |model| {
        let input = &mut model.proto.graph.as_mut().unwrap().input[0];
        let Some(Value::TensorType(tensor)) = &mut input.r#type.as_mut().unwrap().value else {
            panic!("a tensor")
        };
        tensor.shape.as_mut().unwrap().dim.remove(0);
    });
    let weight = spoil(&mut Model::read(&fixture_path(MODEL)).unwrap(), 0.0);
    for (model, code, parts) in [
        ("no_sites.onnx", 4, ["no site to quantize", "no MatMul, Gemm or Conv"]),
        ("nan.onnx", 3, [weight.as_str(), "element 5 is not finite"]),
        ("inf.onnx", 3, [weight.as_str(), "element 5 is not finite"]),
        // Finite weights whose products are not: the activations overflow.
        ("huge.onnx", 3, ["site `", "finite"]),
        ("odd.onnx", 4, ["no site to quantize", "lies behind node `odd_one` (Det)"]),
        ("fused.onnx", 4, ["domain `com.microsoft`", "export the model again"]),
        ("function.onnx", 4, ["domain `mine`", "inline functions first"]),
        ("lone_image.onnx", 4, ["expected one tensor of images", "`images` [3, 8, 8]"]),
    ] {
        bench.refuses(
            &format!("quantize %{model} --calib @digits_calib.npz --calib-limit 2 -o %out.onnx"),
            code,
            &parts,
        );
    }
}

#[test]
fn calibration_sets_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("empty")).unwrap();
    bench.bytes("mixed/0.png", &std::fs::read(fixture_path("digits_png/00.png")).unwrap());
    bench.bytes("mixed/1.png", b"no image");
    bench.array("large.npy", [2, 3, 9, 9]);
    bench.array("gray.npy", [2, 1, 8, 8]);
    bench.bytes("list.csv", b"path\nabsent.png\n");
    write_npy(&bench.path("nan.npy"), &ArrayD::from_elem(vec![1, 3, 8, 8], f32::NAN)).unwrap();
    for (calib, parts) in [
        ("empty", ["empty", "no images"]),
        ("mixed", ["1.png", "not an image that can be decoded"]),
        ("large.npy", ["[3, 9, 9]", "8, 8]"]),
        ("gray.npy", ["[1, 8, 8]", "8, 8]"]),
        ("list.csv", ["absent.png", "No such file"]),
        ("nan.npy", ["nan.npy", "holds NaN"]),
        ("absent", ["absent", "No such file"]),
    ] {
        bench.refuses(&format!("quantize @{MODEL} --calib %{calib} -o %out.onnx"), 3, &parts);
        bench.refuses(&format!("run @{MODEL} --input %{calib} -o %out.npy"), 3, &parts);
    }
}

#[test]
fn wrong_usage_is_refused() {
    let bench = Bench::new();
    bench.model("own.onnx", |_| {});
    let calib = "--calib @digits_calib.npz";
    for (line, part) in [
        (format!("quantize @{MODEL} {calib}"), "--output"),
        (format!("quantize @{MODEL} -o %out.onnx"), "--calib"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --bits w9a8"), "expected 2 to 8"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --bits w8a1"), "expected 2 to 8"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --bits 8"), "w<2-8>a<2-8>"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --gradient fisher"), "fisher:N"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --gradient fisher:0"), "1 to 1024"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --metric l2"), "hessian"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --interpolation cubic"), "bicubic"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --mean 1,2"), "one for each of 3 channels"),
        (format!("quantize @{MODEL} --calib @digits_png -o %out.onnx --std 0,0,0"), "positive stds"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --calib-limit 0"), "limit of 0"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --exclude nobody"), "`nobody`"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --threads 0"), "--threads"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --memory 64MiB"), "64 MiB are not enough"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --memory much"), "--memory"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --calibration %c.json"), "cannot be used with"),
        (format!("quantize %own.onnx {calib} -o %own.onnx"), "would overwrite"),
        (format!("quantize %own.onnx {calib} -o %../{}/own.onnx", bench.name()), "would overwrite"),
        (format!("quantize @{MODEL} {calib} -o %x --checkpoint %../{}/x", bench.name()), "would overwrite"),
        (format!("quantize @{MODEL} {calib} -o %."), "expected the name of a file"),
        (format!("run @{MODEL} --input @digits_test.npz --sites %sites"), "no quantized sites"),
        (format!("check @{MODEL} @{MODEL} --data @digits_test.npz --max-drop -1"), "--max-drop"),
        (format!("check @{MODEL} @{MODEL} --data @digits_test.npz --min-agreement 101"), "0 to 100"),
        ("frobnicate".into(), "frobnicate"),
    ] {
        bench.refuses(&line, 2, &[part]);
    }
}

/// A checkpoint is replaced, and so nothing else may have its name; the old name of the option is still known.
#[test]
fn a_checkpoint_overwrites_no_other_file() {
    let bench = Bench::new();
    bench.bytes("notes.json", b"{}");
    for option in ["--checkpoint", "--save-calibration"] {
        let line = format!("quantize @{MODEL} --calib @digits_calib.npz -o %out.onnx {option} %notes.json");
        bench.refuses(&line, 2, &["notes.json", "not a calibration file", "not overwritten"]);
    }
    assert_eq!(std::fs::read(bench.path("notes.json")).unwrap(), b"{}");
}

#[test]
fn a_limit_says_which_option_raises_it() {
    let bench = Bench::new();
    let line = format!("run @{MODEL} --input @digits_test.npz --max-tensor 1KiB");
    bench.refuses(&line, 3, &["node `", "larger than the limit of 1.0 KiB", "--max-tensor raises it"]);
}

#[test]
fn outputs_that_cannot_be_written_are_refused_early() {
    let bench = Bench::new();
    for option in ["-o %absent/out.onnx", "-o %out.onnx --checkpoint %absent/c.json"] {
        let line = format!("quantize @{MODEL} --calib @digits_calib.npz {option}");
        bench.refuses(&line, 3, &["absent", "its folder does not exist"]);
    }
    bench.refuses(&format!("run @{MODEL} --input @digits_test.npz -o %absent/y.npy"), 3, &["absent"]);
}
