//! The forms in which a result is given, and options from a file.

use serde_json::Value;

use super::common::fixture_path;
use super::{Bench, MODEL};

/// The schema that is published for the JSON of a command.
fn schema(name: &str) -> jsonschema::Validator {
    let path = format!("{}/docs/schemas/{name}.json", env!("CARGO_MANIFEST_DIR"));
    jsonschema::validator_for(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).unwrap()
}

#[track_caller]
fn fits(name: &str, json: &[u8]) -> Value {
    let value: Value = serde_json::from_slice(json).unwrap();
    let faults: Vec<String> = schema(name).iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    value
}

#[test]
fn one_command_quantizes_checks_and_reports() {
    let bench = Bench::new();
    let quantize = format!(
        "quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 -o %q.onnx --check @digits_test.npz --max-drop 5"
    );
    let output = bench.run(&format!("{quantize} --json --report %r.html --checkpoint %c.json"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let result = fits("quantize", &output.stdout);
    assert_eq!(result["check"]["verdict"]["passed"], true);
    assert_eq!(result["check"]["images"], 360);
    let page = std::fs::read_to_string(bench.path("r.html")).unwrap();
    for part in [
        "<strong>PASS</strong>",
        "Top-1 accuracy",
        "data:image/jpeg;base64,",
        "points of the twin",
        "--max-drop 5",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for part in ["http://", "https://", "src=\"/", "@import", "url("] {
        assert!(!page.contains(part), "the page asks for something: {part}");
    }
    assert!(page.len() < 1_000_000, "{} bytes", page.len());

    let output = bench
        .run(&format!("{} --bits w2a2 --max-drop 0 --format junit", quantize.replace(" --max-drop 5", "")));
    assert_eq!(output.status.code(), Some(1), "a missed threshold is the exit code");
    let xml = String::from_utf8(output.stdout).unwrap();
    for part in ["tests=\"3\"", "failures=\"1\"", "<failure message=\"top-1 drop", "name=\"quantize\""] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let analyze = format!("analyze @{MODEL} --calibration %c.json --data @digits_test.npz --limit 4");
    fits(
        "analyze",
        bench.accepts(&format!("{analyze} --json --report %a.html --task-loss *blocks.0*fc1*")).as_bytes(),
    );
    let page = std::fs::read_to_string(bench.path("a.html")).unwrap();
    assert_eq!(
        page.matches("distance of the model&#39;s output").count()
            + page.matches("distance of the model's output").count(),
        1
    );
    bench.refuses(
        &format!("{analyze} --report %b.html --task-loss nothing"),
        2,
        &["--task-loss: no site is called `nothing`"],
    );
    assert!(!bench.path("b.html").exists());
}

/// A long calibration is not for nothing.
#[test]
fn what_a_check_lacks_is_told_before_the_calibration() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz -o %q.onnx");
    let refuses = |rest: &str, code, part: &str| {
        let output = bench.run(&format!("{quantize} {rest}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && !said.contains("search scales"), "{said}");
        assert!(!bench.path("q.onnx").exists());
    };
    refuses("--check %none", 3, "none");
    bench.array("x.npy", [2, 3, 8, 8]);
    refuses("--check %x.npy --max-drop 1", 2, "--max-drop needs labels");
    refuses("--check @digits_test.npz --labels %none.csv", 3, "none.csv");
    refuses("--check @digits_test.npz --report %none/r.html", 3, "none");
    refuses("--check @digits_test.npz --engine onnxruntime --onnxruntime-library %none.so", 2, "none.so");
    refuses("--max-drop 1", 2, "--check");
}

#[test]
fn a_check_has_every_form() {
    let bench = Bench::new();
    bench.accepts(&format!(
        "quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 --bits w4a4 -o %q.onnx"
    ));
    let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz --limit 40 --max-drop 50 --sites");
    fits("check", bench.accepts(&format!("{check} --json")).as_bytes());
    assert_eq!(bench.accepts(&format!("{check} --format text")), bench.accepts(&check));
    let markdown = bench.accepts(&format!("{check} --format markdown"));
    assert!(markdown.starts_with("### PASS: top-1 drop"), "{markdown}");
    assert!(markdown.contains("| top-1 accuracy |") && markdown.contains("| --- | ---: |"), "{markdown}");
    let junit = bench.accepts(&format!("{check} --format junit"));
    assert!(junit.starts_with("<?xml") && junit.contains("failures=\"0\""), "{junit}");
    bench.refuses(&format!("{check} --json --format junit"), 2, &["cannot be used with"]);
    bench.accepts(&format!("{check} --report %r.html"));
    let page = std::fs::read_to_string(bench.path("r.html")).unwrap();
    assert!(page.contains("SQNR in dB") && page.contains("Images to look at"));
    bench.bytes("kept.html", b"<!DOCTYPE html>kept");
    bench.refuses(
        &format!("check @{MODEL} @{MODEL} --data @digits_test.npz --report %kept.html"),
        2,
        &["is not quantized"],
    );
    assert_eq!(std::fs::read(bench.path("kept.html")).unwrap(), b"<!DOCTYPE html>kept");
}

#[test]
fn options_come_from_a_file_too() {
    let bench = Bench::new();
    let [model, calib] = [MODEL, "digits_calib.npz"].map(|name| fixture_path(name).display().to_string());
    let output = bench.path("q.onnx").display().to_string();
    let file = format!(
        "threads = 1\n[quantize]\nmodel = '{model}'\ncalib = '{calib}'\ncalib-limit = 4\noutput = '{output}'\nbits = 'w6a6'\n\
         [check]\nmax-drop = 1.5\n"
    );
    bench.bytes("ptq.toml", file.as_bytes());
    let bits = |line: &str| {
        let found: Value = serde_json::from_str(&bench.accepts(line)).unwrap();
        found["options"]["weight_bits"].clone()
    };
    assert_eq!(bits("quantize --config %ptq.toml --json"), 6);
    assert_eq!(
        bits("--config %ptq.toml quantize --json --bits w8a8"),
        8,
        "the command line overrides the file"
    );
    let printed = bench.accepts("quantize --config %ptq.toml --print-config");
    bench.bytes("again.toml", printed.as_bytes());
    assert_eq!(bench.accepts("quantize --config %again.toml --print-config"), printed);
    assert!(printed.contains("bits = \"w6a6\""), "{printed}");
    bench.bytes("bad.toml", b"[quantize]\nbitz = 'w8a8'\n");
    bench.refuses("quantize --config %bad.toml", 2, &["`bitz` is no option of quantize"]);
    bench.bytes("bad.json", b"{\"bits\": ");
    bench.refuses("quantize --config %bad.json", 3, &["bad.json"]);
    bench.refuses("quantize --config %none.toml", 3, &["none.toml"]);
}

#[test]
fn steps_are_said_on_request() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 -o %q.onnx");
    let said = |line: &str| String::from_utf8(bench.run(line).stderr).unwrap();
    let verbose = said(&format!("{quantize} -v"));
    assert!(
        verbose.contains("search scales: ") && verbose.contains("  /blocks/blocks.0/attn/qkv"),
        "{verbose}"
    );
    assert!(!said(&quantize).contains("search scales: "));
    bench.refuses(&format!("{quantize} -v -q"), 2, &["cannot be used with"]);
    assert!(bench.accepts(&quantize).contains("next: onnx-ptq4vit check "));
}

#[test]
fn files_of_other_kinds_are_not_overwritten() {
    let bench = Bench::new();
    bench.bytes("labels.csv", b"path,label\na,1\n");
    bench.array("x.npy", [2, 3, 8, 8]);
    let quantize = format!("quantize @{MODEL} --calib %x.npy");
    bench.accepts(&format!("{quantize} -o %q.onnx --report %r.html"));
    let refuses = |line: &str, part: &str| bench.refuses(line, 2, &[part, "it is not overwritten"]);
    refuses(&format!("{quantize} -o %labels.csv"), "labels.csv: exists and is no ONNX model");
    refuses(&format!("{quantize} -o %r.html"), "r.html: exists and is no ONNX model");
    refuses(&format!("{quantize} -o %o.onnx --report %labels.csv"), "labels.csv: exists and is no HTML page");
    let check = format!("check @{MODEL} %q.onnx --data %x.npy");
    refuses(&format!("{check} --report %x.npy"), "x.npy: exists and is no HTML page");
    refuses(
        &format!("analyze @{MODEL} --calib %x.npy --report %q.onnx"),
        "q.onnx: exists and is no HTML page",
    );
    refuses("run %q.onnx --input %x.npy -o %labels.csv", "labels.csv: exists and is no .npy array");
    bench.refuses(&format!("{quantize} -o %none/q.onnx"), 3, &["none/q.onnx: its folder does not exist"]);
    // A former result of the same kind is.
    bench.accepts(&format!("{quantize} -o %q.onnx --report %r.html"));
    bench.accepts("run %q.onnx --input %x.npy -o %y.npy");
    bench.accepts("run %q.onnx --input %x.npy -o %y.npy");
}

#[test]
fn doubts_fail_a_test_and_lead_the_verdict() {
    let bench = Bench::new();
    bench.accepts(&format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 -o %q.onnx"));
    let csv = |shift: i64| {
        let labels = super::verdicts::digits().1;
        labels.iter().fold("label\n".to_string(), |text, label| text + &format!("{}\n", label + shift))
    };
    bench.bytes("one.csv", csv(1).as_bytes());
    let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz --labels %one.csv --limit 200");
    let output = bench.run(&format!("{check} --format junit"));
    let xml = String::from_utf8(output.stdout).unwrap();
    // A label 10 is an error of its own; without one, the doubt is.
    if output.status.success() {
        assert!(xml.contains("failures=\"1\"") && xml.contains("off by one"), "{xml}");
    } else {
        bench.bytes("one.csv", csv(-1).replace("-1", "0").as_bytes());
        let xml = bench.accepts(&format!("{check} --format junit"));
        assert!(xml.contains("failures=\"1\"") && xml.contains("off by one"), "{xml}");
    }
    let failed = bench.run(&format!("{check} --max-drop 50"));
    let text = String::from_utf8(failed.stdout).unwrap();
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(text.starts_with("FAIL: the figures cannot be trusted, top-1 drop"), "{text}");
}

#[test]
fn images_that_are_squashed_pass_nothing() {
    let bench = Bench::new();
    let quantize =
        format!("quantize @{MODEL} --calib @digits_png --calib-limit 8 -o %q.onnx --mean 0 --std 1");
    bench.accepts(&format!("{quantize} --resize 8"));
    let check = format!("check @{MODEL} %q.onnx --data @digits_png --max-kl 10");
    bench.accepts(&check);
    let output = bench.run(&format!("{check} --resize 8x8"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("squashed to one proportion"), "{text}");
    let output = bench.run(&format!("{check} --interpolation nearest"));
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("warning: images are prepared otherwise than at the calibration"), "{said}");
}
