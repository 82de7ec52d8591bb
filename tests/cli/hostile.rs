//! What is neither a model nor an image, what a terminal would obey, and what is in the way of an output.

use onnx_ptq4vit::onnx::{Model, NodeProto};

use super::common::{fixture_path, unless_it_hangs};
use super::{Bench, MODEL};

/// A bench with a pipe, a folder, a device if the user may make one, and links.
fn with_odd_files() -> (Bench, Vec<&'static str>) {
    let bench = Bench::new();
    bench.bytes("kept/file", b"kept");
    assert!(bench.shell("mkfifo pipe pipe.npz pipe.npy pipe.csv pipe.png").status.success());
    let mut odd = vec!["pipe"];
    if bench.shell("mknod device c 1 5 && test -r device").status.success() {
        odd.push("device");
    }
    (bench, odd)
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    unless_it_hangs("a command", || {
        let (bench, mut odd) = with_odd_files();
        odd.extend(["kept", "/dev/zero"]);
        bench.accepts(&format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 1 -o %q.onnx"));
        for odd in odd {
            let path = if odd.starts_with('/') { odd.to_string() } else { format!("%{odd}") };
            for line in [
                format!("inspect {path}"),
                format!("quantize @{MODEL} --calibration {path} -o %out.onnx"),
                format!("check @{MODEL} %q.onnx --data @digits_test.npz --labels {path}"),
            ] {
                bench.refuses(&line, 3, &[odd, "not a regular file"]);
            }
        }
        for data in ["%pipe", "%pipe.npz", "%pipe.npy", "%pipe.csv", "%pipe.png", "/dev/zero"] {
            let why = ["a pipe, not a regular file", "a device, not a regular file"];
            let why = why[usize::from(data.starts_with('/'))];
            bench.refuses(&format!("run @{MODEL} --input {data}"), 3, &[why]);
        }
    });
}

#[test]
fn outputs_replace_regular_files_alone() {
    let (bench, odd) = with_odd_files();
    bench.shell("ln -s kept/file link; ln -s kept link-to-folder; ln -s absent dangling");
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2");
    bench.accepts(&format!("{quantize} -o %kept/q.onnx"));
    for output in [&odd[..], &["kept", "link", "link-to-folder", "dangling"]].concat() {
        let why = if output.contains("lin") { "is a symbolic link" } else { "not a regular file" };
        bench.refuses(&format!("run @{MODEL} --input @digits_test.npz -o %{output}"), 2, &[output, why]);
        bench.refuses(&format!("{quantize} -o %{output}"), 2, &[output, why]);
        bench.refuses(&format!("{quantize} -o %out.onnx --checkpoint %{output}"), 2, &[output, why]);
        if output != "kept" {
            let why = if output.contains("lin") { "is a symbolic link" } else { "not a folder" };
            let line = format!("run %kept/q.onnx --input @digits_test.npz --sites %{output}");
            bench.refuses(&line, 2, &[output, why]);
        }
    }
    bench.shell("mkdir sites; ln -s ../kept/file sites/0.json");
    let line = "run %kept/q.onnx --input @digits_test.npz --sites %sites";
    bench.refuses(line, 2, &["0.json", "is a symbolic link"]);
    assert_eq!(std::fs::read(bench.path("kept/file")).unwrap(), b"kept");
}

/// Each of these does something to a terminal, or to who reads it.
const OBEYED: &str = "\u{1b}[2J\u{1b}]0;title\u{7}\r\u{9b}31m\u{202e}\u{2066}\u{200b}\n  forged line";

fn name(model: &mut Model, op: &str, name: &str) {
    let nodes = &mut model.proto.graph.as_mut().unwrap().node;
    let is = |node: &&mut NodeProto| node.op_type() == op;
    nodes.iter_mut().find(is).unwrap().name = Some(name.into());
}

#[track_caller]
fn assert_harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let obeyed = |c: char| c != '\n' && OBEYED.contains(c) && !c.is_ascii_graphic() && c != ' ';
    assert!(!text.contains(obeyed), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("  forged")), "{text}");
    text
}

#[test]
fn names_do_nothing_to_a_terminal() {
    let bench = Bench::new();
    bench.model("named.onnx", |model| name(model, "MatMul", OBEYED));
    let said = bench.run("inspect %named.onnx");
    assert!(assert_harmless(&said.stdout).contains("\\u{1b}[2J"));
    let report = bench.run("inspect %named.onnx --json");
    let json: serde_json::Value = serde_json::from_str(&assert_harmless(&report.stdout)).unwrap();
    assert!(json["sites"].as_array().unwrap().iter().any(|site| site["name"] == OBEYED));
    // On the way through a calibration, in an error, and in paths.
    let line = "quantize %named.onnx --calib @digits_calib.npz --calib-limit 2 --no-outliers -o %q.onnx";
    let said = bench.run(line);
    assert_harmless(&said.stderr);
    assert_harmless(&said.stdout);
    bench.model("broken.onnx", |model| {
        name(model, "MatMul", OBEYED);
        let nodes = &mut model.proto.graph.as_mut().unwrap().node;
        nodes.iter_mut().find(|node| node.name() == OBEYED).unwrap().op_type = Some("Det".into());
    });
    let said = bench.run("run %broken.onnx --input @digits_test.npz");
    assert_eq!(said.status.code(), Some(4));
    assert!(assert_harmless(&said.stderr).contains("\\u{1b}[2J"));
    let path = OBEYED.replace(' ', "");
    bench.bytes(&format!("images/{path}.png"), &std::fs::read(fixture_path("digits_png/00.png")).unwrap());
    bench.bytes(&format!("{path}.onnx"), b"");
    for (line, code) in [
        (format!("inspect %{path}"), 3),
        (format!("inspect %{path}.onnx"), 3),
        (format!("run @{MODEL} --input %images"), 0),
        (format!("run @{MODEL} --input @digits_test.npz -o %{path}/x"), 3),
    ] {
        let said = bench.run(&line);
        assert_eq!(said.status.code(), Some(code), "{said:?}");
        let [out, err] = [said.stdout, said.stderr].map(|bytes| assert_harmless(&bytes));
        assert!((out + &err).contains("\\u{1b}[2J"));
    }
}

#[test]
fn long_names_are_cut() {
    let bench = Bench::new();
    let long = "n".repeat(100_000);
    bench.model("long.onnx", |model| name(model, "MatMul", &long));
    let text = bench.accepts("inspect %long.onnx");
    assert!(text.contains("nn[… 99400 characters …]nn") && text.len() < 50_000, "{text}");
    let json = bench.json("inspect %long.onnx");
    assert!(json["sites"].as_array().unwrap().iter().any(|site| site["name"] == long.as_str()));
    bench.model("broken.onnx", |model| {
        name(model, "MatMul", &long);
        model.proto.graph.as_mut().unwrap().initializer.clear();
    });
    let said = bench.run("inspect %broken.onnx");
    assert!(said.status.code() == Some(3) && said.stderr.len() < 3000);
}

#[test]
fn files_of_other_kinds_are_told() {
    let bench = Bench::new();
    bench.bytes("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    bench.bytes("model.pt", b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl");
    bench.refuses("inspect %pointer.onnx", 3, &["pointer.onnx", "git lfs pull"]);
    bench.refuses("inspect %model.pt", 3, &["model.pt", "torch.onnx.export"]);
    let model = Model::read(&fixture_path(MODEL)).unwrap();
    model.write(&bench.path("m.onnx"), onnx_ptq4vit::onnx::Storage::External).unwrap();
    std::fs::copy(bench.path("pointer.onnx"), bench.path("m.onnx.data")).unwrap();
    bench.refuses("inspect %m.onnx", 3, &["m.onnx.data", "git lfs pull"]);
}

#[test]
fn a_checkpoint_of_something_else_is_kept() {
    let bench = Bench::new();
    let quantize = |model: &str, options: &str| {
        format!("quantize {model} --calib @digits_calib.npz {options} --checkpoint %c.json -o %q.onnx")
    };
    let own = format!("@{MODEL}");
    bench.accepts(&quantize(&own, "--calib-limit 2"));
    let made = std::fs::read(bench.path("c.json")).unwrap();
    let seeded =
        format!("quantize {own} --calib @digits_png --calib-limit 2 --checkpoint %c.json -o %q.onnx");
    for (line, part) in [
        (quantize(&own, "--calib-limit 2 --bits w6a6"), "with other options"),
        (quantize(&own, "--calib-limit 2 --method base"), "with other options"),
        (quantize(&own, "--calib-limit 3"), "on other images"),
        (quantize(&own, "--calib-limit 2 --exclude /head/Gemm"), "for other sites"),
        (quantize("@digits_vit_dynamo18.onnx", "--calib-limit 2"), "for another model"),
        (seeded, "on other images"),
    ] {
        let line = line.replace("/head/Gemm", &head());
        bench.refuses(&line, 2, &["c.json", part, "it is not overwritten", "--checkpoint"]);
        assert_eq!(std::fs::read(bench.path("c.json")).unwrap(), made, "{line}");
    }
    bench.accepts(&quantize(&own, "--calib-limit 2"));
}

/// The first site of the model.
fn head() -> String {
    let report = Bench::new().json(&format!("inspect @{MODEL}"));
    report["sites"][0]["name"].as_str().unwrap().to_string()
}

/// The same end, whichever search: the scales cannot be found, and the site is named.
#[test]
fn finite_weights_that_overflow_are_an_error_of_both_searches() {
    let bench = Bench::new();
    for value in [1e22, 1e30, f32::MAX] {
        bench.model("huge.onnx", |model| drop(super::refusals::spoil(model, value)));
        for search in ["pruned", "exhaustive"] {
            for weights in ["per-tensor", "per-channel"] {
                let line = format!(
                    "quantize %huge.onnx --calib @digits_calib.npz --calib-limit 2 --search {search} --weights {weights} \
                     -o %out.onnx"
                );
                bench.refuses(&line, 3, &["site `"]);
            }
        }
    }
}
