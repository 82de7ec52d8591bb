//! What the commands do.

use ndarray::Array4;
use ndarray_npy::NpzWriter;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, DataType, Model};

use super::{Bench, MODEL};

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
        ("-V", "kernel: "),
    ] {
        let text = bench.accepts(line);
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn help_fits_a_screen() {
    let bench = Bench::new();
    for command in ["quantize", "inspect", "check", "analyze", "diff", "run", "bench", "manual"] {
        let text = bench.accepts(&format!("{command} --help"));
        assert!(text.lines().count() <= 50, "{} lines: {text}", text.lines().count());
        assert!(text.contains(&format!("  onnx-ptq4vit {command} ")), "{command} has an example");
        let all = bench.accepts(&format!("{command} --help-all"));
        assert!(all.contains("--config") && all.contains("--verbose"), "{all}");
    }
}

#[test]
fn every_option_is_documented() {
    let (bench, page) = (Bench::new(), include_str!("../../docs/command-line.md"));
    for command in ["quantize", "check", "analyze", "diff", "run", "bench"] {
        let help = bench.accepts(&format!("{command} --help-all"));
        let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let words = options.flat_map(|line| line.split([' ', ',', '=', '.', ';', '`', ')', ']']));
        let mut count = 0;
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            assert!(page.contains(option), "{command}: {option} is not in docs/command-line.md");
            count += 1;
        }
        assert!(count > 10, "{command}: {count} options");
    }
}

/// The form of each target, and how it is said that the file is loaded there.
#[test]
fn a_target_chooses_the_form_and_says_how_to_load_it() {
    let bench = Bench::new();
    bench.accepts(&format!(
        "quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 --bits w4a8 --checkpoint %c.json -o %q.onnx"
    ));
    for (target, functions, codes, words, load) in [
        ("generic", false, true, true, "onnxruntime.InferenceSession("),
        ("onnxruntime", true, true, true, "onnxruntime.InferenceSession("),
        ("openvino", false, true, true, "openvino.compile_model("),
        ("web", false, true, false, "ort.InferenceSession.create("),
        ("tensorrt", false, false, false, "trtexec --stronglyTyped"),
    ] {
        let line = format!("quantize @{MODEL} --calibration %c.json --target {target} -o %q.onnx");
        let report = bench.json(&line);
        let lines = report["load"].as_array().unwrap();
        assert!(
            lines.len() == 3 && lines.iter().any(|line| line.as_str().unwrap().contains(load)),
            "{lines:?}"
        );
        assert!(bench.accepts(&line).trim_end().ends_with(lines[2].as_str().unwrap()), "{target}");

        let model = Model::read(&bench.path("q.onnx")).unwrap();
        let has = |wanted: DataType| {
            let code = i32::from(wanted);
            model.graph().initializer.iter().any(|tensor| tensor.data_type() == code)
        };
        assert_eq!(!model.proto.functions.is_empty(), functions, "{target}");
        // In the function form the zero points are in the functions.
        assert_eq!(has(DataType::Uint8) || functions, codes, "{target}");
        assert_eq!(has(DataType::Uint32), words, "{target}");
        let checked = bench.json(&format!("check @{MODEL} %q.onnx --data @digits_test.npz --limit 64"));
        assert!(checked["classifier"]["agreement"].as_f64().unwrap() > 90.0, "{target}");
    }
}

#[test]
fn man_pages_and_completions_are_written() {
    let bench = Bench::new();
    bench.accepts("manual %out --completions bash --completions fish");
    let read = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    assert!(
        read("onnx-ptq4vit.1").contains("quantize") && read("onnx-ptq4vit-check.1").contains("max\\-drop")
    );
    assert!(read("onnx-ptq4vit.bash").contains("--min-agreement"));
    assert!(read("onnx-ptq4vit.fish").contains("exclude-kind"));
}

#[test]
fn nothing_but_warnings_is_said_if_asked() {
    let bench = Bench::new();
    bench.array("zero.npy", [2, 3, 8, 8]);
    let said = |line: &str| String::from_utf8(bench.run(line).stderr).unwrap();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2 -o %q.onnx");
    assert!(said(&quantize).contains("search scales"));
    assert_eq!(said(&format!("{quantize} -q")), "");
    let constant = format!(
        "quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2 --exclude-blocks 0 -o %q.onnx -q"
    );
    let text = said(&constant);
    assert!(text.lines().all(|line| line.starts_with("warning: ")) && !text.is_empty(), "{text}");
}

#[test]
fn a_model_is_quantized_checked_and_run() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 8");
    let report = bench.json(&format!("{quantize} --checkpoint %c.json -o %q.onnx"));
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
        format!("check @{MODEL} %q.onnx --data @digits_test.npz --sites --min-agreement 90 --max-drop 5");
    let figures = bench.json(&check);
    assert_eq!(figures["verdict"]["passed"], true);
    assert!(figures["sqnr_db"].as_f64().unwrap() > 10.0);
    assert_eq!(figures["sites"].as_array().unwrap().len() as u64, report["sites"].as_u64().unwrap());
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
fn inputs_beside_the_images_come_by_name() {
    let bench = Bench::new();
    bench.model("gated.onnx", |model| {
        let graph = model.proto.graph.as_mut().unwrap();
        let mut gate = graph.input[0].clone();
        gate.name = Some("gate".into());
        graph.input[0].name = Some("pixels".into());
        graph.input.push(gate);
        graph.node.insert(0, node("Mul", "", ["pixels", "gate"], ["images"]));
    });
    bench.array("half.npy", [1, 1, 1, 1]);
    let images = Array4::<f32>::from_shape_fn((3, 3, 8, 8), |(n, c, h, w)| {
        ((n * 31 + c * 7 + h * 5 + w) % 13) as f32 / 6.5 - 1.0
    });
    let mut npz = NpzWriter::new(std::fs::File::create(bench.path("x.npz")).unwrap());
    npz.add_array("pixels", &images).unwrap();
    npz.add_array("gate", &Array4::<f32>::from_elem((3, 1, 1, 1), 0.5)).unwrap();
    npz.finish().unwrap();
    write_npy(&bench.path("x.npy"), &images.into_dyn()).unwrap();

    // By the archive, or by a flag: the same file. Without either, the default is said.
    bench.accepts("quantize %gated.onnx --calib %x.npz -o %a.onnx");
    bench.accepts("quantize %gated.onnx --calib %x.npy --input gate=0.5 -o %b.onnx");
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("a.onnx"), read("b.onnx"));
    let said = String::from_utf8(bench.run("quantize %gated.onnx --calib %x.npy -o %c.onnx").stderr).unwrap();
    assert!(said.contains("warning: input `gate` is taken to be all 0"), "{said}");
    assert_ne!(read("a.onnx"), read("c.onnx"));

    let line = "run %a.onnx --input gate=0.5 --input %x.npy";
    assert_eq!(bench.json(line), bench.json("run %a.onnx --input %x.npy --input gate=5e-1"));
    let report = bench.json("check %gated.onnx %a.onnx --data %x.npz");
    assert_eq!(report["classifier"]["agreement"], 100.0);
    for (line, part) in [
        ("run %a.onnx --input gate=0.5", "one path to images"),
        ("run %a.onnx --input %x.npy --input mask=1", "no input `mask`"),
        ("run %a.onnx --input %x.npy --input gate=much", "a number, true, false, or a .npy file"),
    ] {
        bench.refuses(line, 2, &[part]);
    }
}

#[test]
fn the_task_is_found_or_given() {
    let bench = Bench::new();
    let report = bench.json(&format!("inspect @{MODEL}"));
    assert_eq!(report["task"], "classify, by the logits `logits`");
    let quantize =
        format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2 -o %q.onnx --task multilabel");
    let said = String::from_utf8(bench.run(&quantize).stderr).unwrap();
    bench.array("y.npy", [4, 3, 8, 8]);
    assert!(said.contains("task: multilabel, by the logits of labels `logits`"), "{said}");
    let report = bench.json(&format!("check @{MODEL} %q.onnx --data %y.npy --task regress"));
    assert!(report["numbers"]["largest_error"].as_f64().unwrap() > 0.0 && report["classifier"].is_null());
    bench.refuses(&format!("inspect @{MODEL} --task guess"), 2, &["unexpected argument"]);
    bench.refuses(&format!("{quantize}s"), 2, &["classify, multilabel, regress, embed, dense, detect"]);
}

#[test]
fn thresholds_decide_the_exit_code() {
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
        let concat = node("Concat", "twice", ["logits_once", "logits_once"], [output.as_str()]);
        graph.node.push(concat.with(AttributeProto::int("axis", 1)));
        graph.output[0].r#type = None;
    });
    let line = "check %other.onnx %q.onnx --data @digits_test.npz --limit 2";
    bench.refuses(line, 3, &["[1, 20]", "[1, 10]"]);
}
