//! The binary: its exit codes, what it says, and what it leaves behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::{Array4, ArrayD};
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::{Edits, FunctionProto, Graph, Model, Storage, node, tensor};
use tempfile::TempDir;

const MODEL: &str = "digits_vit_ts17.onnx";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A folder to work in, with what the cases need.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn name(&self) -> &str {
        self.folder.path().file_name().unwrap().to_str().unwrap()
    }

    /// The fixture's model, changed.
    fn model(&self, name: &str, change: impl FnOnce(&mut Model)) {
        let mut model = Model::read(&fixture(MODEL)).unwrap();
        change(&mut model);
        model.write(&self.path(name), Storage::Inline).unwrap();
    }

    fn bytes(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn array(&self, name: &str, shape: [usize; 4]) {
        let array: ArrayD<f32> =
            Array4::from_shape_fn(shape, |(n, c, h, w)| ((n * 7 + c * 5 + h * 3 + w) % 11) as f32 / 11.0)
                .into_dyn();
        write_npy(&self.path(name), &array).unwrap();
    }

    /// Runs a command line, words parted by spaces: `@x` is fixture x, `%x` is x in the folder.
    fn run(&self, line: &str) -> Output {
        let words = line.split(' ').map(|word| match word.split_at(1) {
            ("@", name) => fixture(name).into_os_string(),
            ("%", name) => self.path(name).into_os_string(),
            _ => word.into(),
        });
        Command::new(env!("CARGO_BIN_EXE_onnx-ptq4vit")).args(words).output().unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// `line` fails with `code`, says every one of `parts`, prints no result and leaves no file.
    #[track_caller]
    fn refuses(&self, line: &str, code: i32, parts: &[&str]) {
        let before = self.files();
        let output = self.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
        assert!(said.contains("error: "), "{line}\n{said}");
        for part in parts {
            assert!(said.contains(part), "{line}: `{part}` is not in\n{said}");
        }
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(self.files(), before, "{line}");
    }

    /// `line` succeeds; gives what it printed.
    #[track_caller]
    fn accepts(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}\n{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.accepts(&format!("{line} --json"))).unwrap()
    }
}

/// Overwrites element 5 of the largest initializer, a weight.
fn spoil(model: &mut Model, value: f32) -> String {
    let graph = model.proto.graph.as_mut().unwrap();
    let weight = graph.initializer.iter_mut().max_by_key(|t| t.dims.iter().product::<i64>()).unwrap();
    let mut values = tensor::f32s(weight).unwrap();
    values[5] = value;
    *weight = tensor::from_f32(weight.name(), &tensor::shape(weight), &values);
    weight.name().to_string()
}

/// Puts `op` between the first Softmax and what takes it.
fn insert_after_softmax(model: &mut Model, op: &str) {
    let (id, softmax) = {
        let graph = Graph::new(model).unwrap();
        let (id, softmax) = graph.nodes().find(|(_, node)| node.is_op("Softmax")).unwrap();
        (id, softmax.clone())
    };
    let value = softmax.output[0].clone();
    let mut renamed = softmax;
    renamed.output[0] = "before_the_op".into();
    let mut edits = Edits::new(model);
    edits.replace_node(id, vec![renamed, node::node(op, "odd_one", ["before_the_op"], [value.as_str()])]);
    edits.apply(model).unwrap();
}

#[test]
fn files_that_are_no_model_are_refused() {
    let bench = Bench::new();
    let bytes = std::fs::read(fixture(MODEL)).unwrap();
    bench.bytes("text.onnx", b"The quick brown fox\n");
    bench.bytes("empty.onnx", b"");
    bench.bytes("short.onnx", &bytes[..bytes.len() / 2]);
    Model::read(&fixture(MODEL)).unwrap().write(&bench.path("lone.onnx"), Storage::External).unwrap();
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
    bench.model("odd.onnx", |model| insert_after_softmax(model, "Sin"));
    // A graph that ONNX Runtime optimized, a function of the model, and a text encoder.
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
    bench.model("text.onnx", |model| {
        let graph = model.proto.graph.as_mut().unwrap();
        let mut mask = graph.input[0].clone();
        mask.name = Some("attention_mask".into());
        graph.input.push(mask);
    });
    let weight = spoil(&mut Model::read(&fixture(MODEL)).unwrap(), 0.0);
    for (model, code, parts) in [
        ("no_sites.onnx", 4, ["no site to quantize", "no MatMul, Gemm or Conv"]),
        ("nan.onnx", 3, [weight.as_str(), "element 5 is not finite"]),
        ("inf.onnx", 3, [weight.as_str(), "element 5 is not finite"]),
        // Finite weights whose products are not: the activations overflow.
        ("huge.onnx", 3, ["site `", "finite"]),
        ("odd.onnx", 4, ["Sin", "gradient"]),
        ("fused.onnx", 4, ["domain `com.microsoft`", "export the model again"]),
        ("function.onnx", 4, ["domain `mine`", "inline functions first"]),
        ("text.onnx", 4, ["expected one image tensor", "attention_mask"]),
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
    bench.bytes("mixed/0.png", &std::fs::read(fixture("digits_png/00.png")).unwrap());
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
        (format!("quantize @{MODEL} {calib} -o %out.onnx --mean 1,2"), "three numbers"),
        (format!("quantize @{MODEL} --calib @digits_png -o %out.onnx --std 0,0,0"), "positive stds"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --calib-limit 0"), "limit of 0"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --exclude nobody"), "`nobody`"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --threads 0"), "--threads"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --memory 64MiB"), "64 MiB are not enough"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --memory much"), "--memory"),
        (format!("quantize @{MODEL} {calib} -o %out.onnx --calibration %c.json"), "cannot be used with"),
        (format!("quantize %own.onnx {calib} -o %own.onnx"), "would overwrite"),
        (format!("quantize %own.onnx {calib} -o %../{}/own.onnx", bench.name()), "would overwrite"),
        (
            format!("quantize @{MODEL} {calib} -o %x --save-calibration %../{}/x", bench.name()),
            "would overwrite",
        ),
        (format!("quantize @{MODEL} {calib} -o %."), "expected the name of a file"),
        (format!("run @{MODEL} --input @digits_test.npz --sites %sites"), "no quantized sites"),
        (format!("check @{MODEL} @{MODEL} --data @digits_test.npz --max-drop -1"), "--max-drop"),
        (format!("check @{MODEL} @{MODEL} --data @digits_test.npz --min-agreement 101"), "0 to 100"),
        ("frobnicate".into(), "frobnicate"),
    ] {
        bench.refuses(&line, 2, &[part]);
    }
}

#[test]
fn outputs_that_cannot_be_written_are_refused_early() {
    let bench = Bench::new();
    for option in ["-o %absent/out.onnx", "-o %out.onnx --save-calibration %absent/c.json"] {
        let line = format!("quantize @{MODEL} --calib @digits_calib.npz {option}");
        bench.refuses(&line, 3, &["absent", "No such file"]);
    }
    bench.refuses(&format!("run @{MODEL} --input @digits_test.npz -o %absent/y.npy"), 3, &["absent"]);
}

#[test]
fn float_models_are_inspected_and_run() {
    let bench = Bench::new();
    let report = bench.json(&format!("inspect @{MODEL}"));
    assert_eq!(report["quantized"], false);
    let sites = report["sites"].as_array().unwrap();
    assert!(sites.iter().any(|site| site["kind"] == "qkv" && site["qkv_thirds"] == true));
    assert!(sites.iter().any(|site| site["kind"] == "values" && site["lhs"] == "softmax"));
    assert!(sites.iter().any(|site| site["kind"] == "fc2" && site["lhs"] == "GELU"));
    let text = bench.accepts(&format!("inspect @{MODEL}"));
    assert!(text.contains("float model, input [") && text.contains("stays in float:"), "{text}");

    let report = bench.json(&format!("run @{MODEL} --input @digits_png/00.png -o %y.npy"));
    assert_eq!(report["shape"], serde_json::json!([1, 10]));
    let top = report["images"][0]["top"].as_array().unwrap();
    assert_eq!(top.len(), 5);
    assert!(bench.path("y.npy").exists());
    let text = bench.accepts(&format!("run @{MODEL} --input @digits_png/00.png"));
    assert!(text.starts_with("00.png\n  class  probability\n"), "{text}");
}

#[test]
fn help_and_version_are_results() {
    let bench = Bench::new();
    for (line, part) in [
        ("--help", "Examples:"),
        ("quantize --help", "--calib"),
        ("inspect --help", "Example"),
        ("check --help", "--min-agreement"),
        ("run --help", "--sites"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let text = bench.accepts(line);
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    let binary = env!("CARGO_BIN_EXE_onnx-ptq4vit");
    let model = fixture(MODEL);
    // The reader is gone before the first byte is written.
    let script = "{ sleep 1; \"$0\" inspect \"$1\"; echo \"code $?\" >&2; } | true";
    let output = Command::new("sh").args(["-c", script, binary]).arg(model).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "code 0\n");
}

#[cfg(unix)]
#[test]
fn an_interrupted_quantization_leaves_its_scales_alone_and_goes_on() {
    let bench = Bench::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-ptq4vit"));
    command.arg("quantize").arg(fixture(MODEL)).arg("--calib").arg(fixture("digits_calib.npz"));
    command.args(["--search", "exhaustive"]).arg("--save-calibration").arg(bench.path("c.json"));
    command.arg("-o").arg(bench.path("q.onnx"));
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    while !bench.path("c.json").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had found a scale");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let kill = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(bench.files(), ["c.json"]);

    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 32");
    let again = bench.run(&format!("{quantize} --save-calibration %c.json -o %q.onnx"));
    assert!(String::from_utf8_lossy(&again.stderr).contains("sites were calibrated before"));
    bench.accepts(&format!("{quantize} -o %whole.onnx"));
    let bytes = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(bytes("q.onnx"), bytes("whole.onnx"));
}

#[test]
fn a_model_is_quantized_checked_and_run() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 8");
    let report = bench.json(&format!("{quantize} --save-calibration %c.json -o %q.onnx"));
    assert_eq!(report["options"]["metric"], "hessian");
    assert!(report["bytes_after"].as_u64().unwrap() < report["bytes_before"].as_u64().unwrap());
    assert_eq!(bench.files(), ["c.json", "q.onnx"]);

    // The same bytes on any number of threads, and from the saved scales.
    for again in [
        format!("{quantize} --threads 1 -o %q1.onnx"),
        format!("{quantize} --threads 2 -o %q1.onnx"),
        format!("quantize @{MODEL} --calibration %c.json -o %q1.onnx"),
    ] {
        let text = bench.accepts(&again);
        assert!(text.contains("quantized: 1 patch"), "{text}");
        assert_eq!(
            std::fs::read(bench.path("q.onnx")).unwrap(),
            std::fs::read(bench.path("q1.onnx")).unwrap()
        );
    }

    let inspected = bench.json("inspect %q.onnx");
    assert_eq!(inspected["quantized"], true);
    assert_eq!(inspected["sites"].as_array().unwrap().len() as u64, report["sites"].as_u64().unwrap());

    let check =
        format!("check @{MODEL} %q.onnx --data @digits_test.npz --layers --min-agreement 90 --max-drop 5");
    let figures = bench.json(&check);
    assert_eq!(figures["verdict"]["passed"], true);
    assert!(figures["sqnr_db"].as_f64().unwrap() > 10.0);
    assert_eq!(figures["layers"].as_array().unwrap().len() as u64, report["sites"].as_u64().unwrap());
    assert_eq!(
        bench.accepts(&format!("{check} --threads 1 --json")),
        bench.accepts(&format!("{check} --threads 2 --json"))
    );

    bench.accepts("run %q.onnx --input @digits_test.npz -o %y.npy --sites %sites");
    for file in ["0.json", "0_in0.npy", "0_out.npy"] {
        assert!(bench.path("sites").join(file).exists(), "{file}");
    }
    let speed = bench.json(&format!("bench %q.onnx --against @{MODEL} --seconds 0 --batch 3 --profile"));
    assert_eq!(speed["models"][1]["kind"], "float");
    assert!(speed["ratio"].as_f64().unwrap() > 0.0);
    assert!(speed["profile"].as_array().unwrap().iter().any(|time| time["operator"] == "Attention"));
    bench.refuses(
        "quantize %q.onnx --calib @digits_calib.npz -o %out.onnx",
        3,
        &["already quantized", "node `"],
    );
}

#[test]
fn the_bar_decides_the_exit_code() {
    let bench = Bench::new();
    let quantize =
        format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 --method base --bits w2a2");
    bench.accepts(&format!("{quantize} -o %q.onnx"));
    let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz");
    let text = bench.accepts(&check);
    assert!(text.starts_with("top-1 "), "{text}");
    let output = bench.run(&format!("{check} --min-agreement 99.9"));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("FAIL: top-1 agreement "), "{text}");

    // Labels that do not fit, and other networks.
    bench.bytes("labels.csv", format!("label\n{}", "10\n".repeat(40)).as_bytes());
    let line = format!("check @{MODEL} %q.onnx --data @digits_png --labels %labels.csv");
    bench.refuses(&line, 3, &["00.png", "label 10", "classes 0 to 9"]);
    let line = format!("check @{MODEL} %q.onnx --data @digits_png --max-drop 1");
    bench.refuses(&line, 2, &["--max-drop needs labels"]);
    bench.model("other.onnx", |model| {
        let graph = model.proto.graph.as_mut().unwrap();
        let output = graph.output[0].name().to_string();
        for node in &mut graph.node {
            for made in node.output.iter_mut().filter(|made| **made == output) {
                *made = "logits_once".into();
            }
        }
        let concat = node::node("Concat", "twice", ["logits_once", "logits_once"], [output.as_str()]);
        graph.node.push(concat.with(onnx_ptq4vit::onnx::AttributeProto::int("axis", 1)));
        graph.output[0].r#type = None;
    });
    let line = "check %other.onnx %q.onnx --data @digits_test.npz --limit 2";
    bench.refuses(line, 3, &["[1, 20]", "[1, 10]"]);
}
