//! A verdict can fail, and says what it rests on.

use std::fmt::Write as _;

use ndarray::{Array1, Array4, ArrayD, Axis};
use ndarray_npy::NpzReader;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, Model, tensor};
use serde_json::json;

use super::common::fixture_path;
use super::{Bench, MODEL};

/// The fixture's model and `q.onnx`, quantized from it on arrays.
fn quantized() -> Bench {
    let bench = Bench::new();
    bench.accepts(&format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 -o %q.onnx"));
    bench
}

/// The test images and their classes.
pub(super) fn digits() -> (Array4<f32>, Array1<i64>) {
    let mut npz = NpzReader::new(std::fs::File::open(fixture_path("digits_test.npz")).unwrap()).unwrap();
    (npz.by_name("images").unwrap(), npz.by_name("labels").unwrap())
}

fn labels(bench: &Bench, name: &str, labels: impl Iterator<Item = i64>) {
    let text = labels.fold("label\n".to_string(), |mut text, label| {
        writeln!(text, "{label}").unwrap();
        text
    });
    bench.bytes(name, text.as_bytes());
}

/// The report of a check that ends with exit code 1.
#[track_caller]
fn fails(bench: &Bench, line: &str) -> String {
    let output = bench.run(line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("FAIL: "), "{text}");
    text
}

/// Makes the model's output `logits` what `nodes` make of the value `own`, with these constants.
fn behind(
    model: &mut Model,
    nodes: Vec<onnx_ptq4vit::onnx::NodeProto>,
    constants: Vec<onnx_ptq4vit::onnx::TensorProto>,
) {
    let graph = model.proto.graph.as_mut().unwrap();
    for made in graph.node.iter_mut().flat_map(|node| &mut node.output).filter(|made| **made == "logits") {
        *made = "own".into();
    }
    graph.node.extend(nodes);
    graph.initializer.extend(constants);
    graph.output[0].r#type = None;
}

#[test]
fn labels_that_are_off_by_one_pass_nothing() {
    let bench = quantized();
    let (images, classes) = digits();
    let kept: Vec<usize> = (0..classes.len()).filter(|&i| classes[i] < 9).collect();
    let kept_images: ArrayD<f32> = images.select(Axis(0), &kept).into_dyn();
    write_npy(&bench.path("x.npy"), &kept_images).unwrap();
    labels(&bench, "right.csv", kept.iter().map(|&i| classes[i]));
    labels(&bench, "from_one.csv", kept.iter().map(|&i| classes[i] + 1));
    labels(&bench, "shuffled.csv", kept.iter().map(|&i| (i as i64 * 7) % 10));
    let check = format!("check @{MODEL} %q.onnx --data %x.npy --max-drop 2 --labels");
    let text = bench.accepts(&format!("{check} %right.csv"));
    assert!(text.starts_with("PASS: top-1 drop "), "{text}");
    let text = fails(&bench, &format!("{check} %from_one.csv"));
    assert!(
        text.contains("not to be trusted: the labels are off by one") && text.contains("one less"),
        "{text}"
    );
    let text = fails(&bench, &format!("{check} %shuffled.csv"));
    assert!(text.contains("no more than by chance"), "{text}");
    // Without a threshold there is nothing to pass, but the doubt is told.
    let line = format!("check @{MODEL} %q.onnx --data %x.npy --labels %from_one.csv");
    assert!(bench.accepts(&line).contains("not to be trusted: the labels are off by one"));
    assert!(bench.json(&line)["doubts"][0].as_str().unwrap().contains("off by one"));
}

#[test]
fn a_figure_that_cannot_fail_passes_nothing() {
    let bench = Bench::new();
    let zero = || tensor::from_f32("zero", &[], &[0.0]);
    bench.model("constant.onnx", |model| {
        behind(model, vec![node("Mul", "", ["own", "zero"], ["logits"])], vec![zero()]);
    });
    let bias = tensor::from_f32("bias", &[10], &[0., 0., 0., 900., 0., 0., 0., 0., 0., 0.]);
    bench.model("three.onnx", |model| {
        behind(model, vec![node("Add", "", ["own", "bias"], ["logits"])], vec![bias]);
    });
    bench.model("one.onnx", |model| {
        let first = node("Gather", "", ["own", "first"], ["logits"]).with(AttributeProto::int("axis", 1));
        behind(model, vec![first], vec![tensor::from_i64("first", &[1], &[2])]);
    });
    for (model, part) in [
        ("constant", "the same output for all 20 images"),
        ("three", "the same class (3 alone) for all 20 images"),
        ("one --task classify", "the same class (0 alone)"),
    ] {
        let name = model.split(' ').next().unwrap();
        bench.accepts(&format!("quantize %{name}.onnx --calib @digits_calib.npz --calib-limit 4 -o %q.onnx"));
        let rest = model.strip_prefix(name).unwrap();
        bench.array("x.npy", [20, 3, 8, 8]);
        let line = format!("check %{name}.onnx %q.onnx --data %x.npy --min-agreement 90{rest}");
        let text = fails(&bench, &line);
        assert!(text.contains(part), "{text}");
    }
    // As the number that it is, one logit is judged.
    let line = "check %one.onnx %q.onnx --data @digits_calib.npz --task regress";
    assert!(bench.json(line)["numbers"]["r2"].as_f64().unwrap() > 0.9);
    bench.refuses(&format!("{line} --min-agreement 90"), 2, &["needs a model that gives classes"]);
    assert!(bench.accepts(&format!("{line} --min-r2 0.9")).starts_with("PASS: R² 0."));
    fails(&bench, &format!("{line} --min-r2 0.9999999"));
}

#[test]
fn arguments_in_the_wrong_place_are_told() {
    let bench = quantized();
    let data = "--data @digits_test.npz --limit 2";
    for (line, part) in [
        (format!("check %q.onnx @{MODEL} {data}"), "the arguments are swapped"),
        (format!("check %q.onnx %q.onnx {data}"), "q.onnx is quantized: the float model comes first"),
        (format!("check @{MODEL} @{MODEL} {data}"), "is not quantized"),
        (format!("check @{MODEL} {data}"), "required"),
        (format!("check @{MODEL} %q.onnx"), "--data"),
    ] {
        bench.refuses(&line, 2, &[part]);
    }
}

/// A model in `hub`, beside a file that says how its images are prepared.
fn hub(config: &serde_json::Value) -> Bench {
    let bench = Bench::new();
    bench.bytes("hub/preprocessor_config.json", config.to_string().as_bytes());
    bench.bytes("hub/onnx/model.onnx", &std::fs::read(fixture_path(MODEL)).unwrap());
    bench
}

fn said(bench: &Bench, line: &str) -> String {
    String::from_utf8(bench.run(line).stderr).unwrap()
}

#[test]
fn images_are_prepared_as_the_files_beside_a_model_say() {
    let config = json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2,
        "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.25, 0.5]});
    let bench = hub(&config);
    let quantize = "quantize %hub/onnx/model.onnx --calib @digits_png --calib-limit 4";
    let text = said(&bench, &format!("{quantize} -o %q.onnx"));
    let how = "RGB, to 8x8, whatever the proportion (bilinear), scale to 0-1, mean [0.4, 0.5, 0.6], std [0.5, 0.25, 0.5]";
    assert!(
        text.contains(&format!("images: {how} (by ")) && text.contains("preprocessor_config.json"),
        "{text}"
    );
    // The quantized file has it, wherever it is.
    for line in ["run %q.onnx --input @digits_png", "check %hub/onnx/model.onnx %q.onnx --data @digits_png"] {
        let text = said(&bench, line);
        assert!(text.contains(&format!("images: {how} (as at the calibration)")), "{line}: {text}");
    }
    let metadata = bench.json("inspect %q.onnx")["metadata"].to_string();
    assert!(metadata.contains("ptq4vit.preprocessing"), "{metadata}");

    // Another standard deviation is another input: nothing passes.
    let check = "check %hub/onnx/model.onnx %q.onnx --data @digits_png --min-agreement 10 --std 0.01";
    let text = fails(&bench, check);
    assert!(
        text.contains("not to be trusted: images are prepared otherwise than at the calibration"),
        "{text}"
    );
    assert!(text.contains("otherwise than the model's own file says"), "{text}");

    // Flags come first, `none` looks for no file, and another file may be given.
    let text = said(&bench, &format!("{quantize} -o %r.onnx --std 0.3"));
    assert!(text.contains("std [0.3, 0.3, 0.3]") && text.contains("but for what was given"), "{text}");
    let text = said(&bench, &format!("{quantize} -o %r.onnx --preprocessing none"));
    assert!(text.contains("mean [0.5, 0.5, 0.5]") && text.contains("timm's default for a ViT"), "{text}");
    bench.bytes(
        "timm.json",
        br#"{"pretrained_cfg": {"crop_pct": 1.0, "mean": [0.1, 0.1, 0.1], "std": [1, 1, 1]}}"#,
    );
    let text = said(&bench, &format!("{quantize} -o %r.onnx --preprocessing %timm.json"));
    assert!(
        text.contains("short side to 8 (bicubic), centre crop 8x8, scale to 0-1, mean [0.1, 0.1, 0.1]"),
        "{text}"
    );
    bench.bytes("other.json", b"{}");
    let other = format!("{quantize} -o %s.onnx --preprocessing %other.json");
    bench.refuses(&other, 3, &["other.json", "does not say how images are prepared"]);
}

#[test]
fn classes_have_names() {
    let bench = hub(&json!({"do_resize": true, "size": 8}));
    let names: serde_json::Map<_, _> =
        (0..10).map(|i| (i.to_string(), json!(format!("digit {i}")))).collect();
    bench.bytes("hub/config.json", json!({"id2label": names}).to_string().as_bytes());
    bench.accepts("quantize %hub/onnx/model.onnx --calib @digits_png --calib-limit 4 -o %q.onnx");
    for model in ["%hub/onnx/model.onnx", "%q.onnx"] {
        let report = bench.json(&format!("run {model} --input @digits_png/00.png"));
        let top = &report["images"][0]["top"][0];
        assert_eq!(top["name"], format!("digit {}", top["index"]), "{report}");
    }
    bench.bytes("names.txt", b"zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n");
    let text = bench.accepts("run %q.onnx --input @digits_png/00.png --class-names %names.txt");
    assert!(text.contains("class  probability  name") && text.contains("three"), "{text}");
}

#[test]
fn files_that_say_nonsense_of_images_are_refused() {
    for (config, part) in [
        (json!({"do_resize": true, "size": {"height": -1, "width": 8}}), "`size.height` is -1"),
        (json!({"do_normalize": true, "image_std": [0, 0, 0]}), "positive stds"),
        (json!(7), "not a JSON object"),
    ] {
        let bench = hub(&config);
        let line = "quantize %hub/onnx/model.onnx --calib @digits_png -o %q.onnx";
        let code = if part == "positive stds" { 2 } else { 3 };
        bench.refuses(line, code, &[part]);
    }
}

#[test]
fn shards_add_up_to_the_whole() {
    let bench = quantized();
    let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz --sites");
    let whole = bench.json(&check);
    for shard in 1..=3 {
        let part = bench.json(&format!("{check} --shard {shard}/3 --save %{shard}.json"));
        assert_eq!(part["shard"], json!([shard, 3]));
    }
    let merged = bench.json("check --merge %2.json %3.json %1.json");
    assert_eq!(merged, whole);
    assert_eq!(whole["images"], 360);
    let text = bench.accepts("check --merge %1.json %2.json %3.json --max-drop 5");
    assert!(text.starts_with("PASS: top-1 drop"), "{text}");

    // A whole comparison that was interrupted goes on, and is the same.
    bench.bytes("some.json", &std::fs::read(bench.path("2.json")).unwrap());
    assert_eq!(bench.json(&format!("{check} --save %some.json")), whole);
    for (line, part) in [
        ("check --merge %1.json %2.json".to_string(), "of 6 blocks of 64 images are missing"),
        ("check --merge %1.json %1.json %2.json".to_string(), "is in two of them"),
        ("check --merge %q.onnx".to_string(), "not a part of a comparison"),
    ] {
        bench.refuses(&line, 3, &[part]);
    }
    let other = format!("check @{MODEL} %q.onnx --data @digits_calib.npz --shard 1/3 --save %2.json");
    bench.refuses(&other, 2, &["2.json", "it is not overwritten"]);
    bench.refuses(&format!("{check} --shard 0/3 --save %4.json"), 2, &["expected I/N"]);
    bench.refuses(&format!("{check} --shard 1/3"), 2, &["--save"]);
}

/// The fixture's logits as labels: mAP needs the scores of all images, in one part or in several.
#[test]
fn labels_of_which_an_image_has_several_are_ranked() {
    let bench = quantized();
    let (images, classes) = digits();
    write_npy(&bench.path("x.npy"), &images.into_dyn()).unwrap();
    let csv = |name: &str, of: &dyn Fn(usize) -> String| {
        let rows = (0..classes.len()).map(|row| of(row) + "\n");
        bench.bytes(name, ("label\n".to_string() + &rows.collect::<String>()).as_bytes());
    };
    csv("own.csv", &|row| format!("{};{}", classes[row], (classes[row] + 3) % 10));
    csv("one.csv", &|row| classes[row].to_string());
    csv("other.csv", &|row| format!("{}", (row * row + row / 7) % 10));
    csv("unknown.csv", &|_| "10".into());
    let check = format!("check @{MODEL} %q.onnx --data %x.npy --task multilabel");
    let whole = bench.json(&format!("{check} --labels %one.csv"));
    let precision = |report: &serde_json::Value, of: &str| report["labels"]["precision"][of].as_f64();
    let [float, quantized] =
        ["float", "quantized"].map(|of| precision(&whole, of).unwrap_or_else(|| panic!("{of}: {whole}")));
    assert!(float > 95.0 && (float - quantized).abs() < 2.0, "{whole}");
    assert_eq!(whole["labels"]["precision"]["occurring"], 10);
    let two = bench.json(&format!("{check} --labels %own.csv"));
    assert!(
        precision(&two, "float").unwrap() < float - 10.0,
        "every second label is none that is seen: {two}"
    );

    for shard in 1..=3 {
        bench.json(&format!("{check} --labels %one.csv --shard {shard}/3 --save %{shard}.json"));
    }
    assert_eq!(bench.json("check --merge %3.json %1.json %2.json"), whole);
    let other = format!("{check} --labels %own.csv --shard 1/3 --save %1.json");
    bench.refuses(&other, 2, &["it is not overwritten"]);

    let text = bench.accepts("check --merge %1.json %2.json %3.json --max-drop 2");
    assert!(text.starts_with("PASS: mAP drop ") && text.contains("mAP of the float model"), "{text}");
    let coarse = format!(
        "quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 --bits w2a2 --preset fast -o %c.onnx"
    );
    bench.accepts(&coarse);
    let coarse = check.replace("%q.onnx", "%c.onnx");
    let text = fails(&bench, &format!("{coarse} --labels %one.csv --max-drop 2"));
    assert!(text.starts_with("FAIL: mAP drop"), "{text}");
    let text = fails(&bench, &format!("{check} --labels %other.csv --max-drop 50"));
    assert!(text.contains("not to be trusted: the float model itself has a mAP of"), "{text}");
    bench.refuses(
        &format!("{check} --labels %unknown.csv"),
        3,
        &["label 10 is outside the model's labels 0 to 9"],
    );

    // Without labels, what the float model decides counts as right.
    let alone = bench.json(&check);
    assert_eq!(precision(&alone, "float"), None);
    assert!(precision(&alone, "quantized").unwrap() > 95.0, "{alone}");
    bench.refuses(&format!("{check} --max-drop 1"), 2, &["needs labels"]);
}
