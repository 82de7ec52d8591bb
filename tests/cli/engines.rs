//! Another engine than our own, as far as it can be seen without it: `scripts/runtime_check.sh` runs models in it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::{fixture_path, unless_it_hangs};
use super::{Bench, MODEL};

/// What a library that is asked for is an error well within.
const PATIENCE: Duration = Duration::from_secs(5);

const HELP: [&str; 2] = ["the library of ONNX Runtime: ", "pip install onnxruntime"];

fn with_quantized() -> Bench {
    let bench = Bench::new();
    bench.accepts(&format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2 -o %q.onnx"));
    bench
}

/// Compiles a library.
fn with_library(bench: &Bench, name: &str, code: &str) {
    bench.bytes("code.rs", code.as_bytes());
    let compiled = bench.shell(&format!("rustc --edition 2024 --crate-type cdylib -o {name} code.rs"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::remove_file(bench.path("code.rs")).unwrap();
}

/// The code of a library that is known as version `version` of ONNX Runtime.
fn of_version(version: &str) -> String {
    format!(
        r#"use std::ptr::null;
        #[repr(C)] pub struct Base {{ api: extern "system" fn(u32) -> *const u8, version: extern "system" fn() -> *const u8 }}
        extern "system" fn api(_: u32) -> *const u8 {{ null() }}
        extern "system" fn version() -> *const u8 {{ c"{version}".as_ptr().cast() }}
        #[unsafe(no_mangle)] pub extern "system" fn OrtGetApiBase() -> *const Base {{ &Base {{ api, version }} }}"#
    )
}

#[test]
fn a_library_that_cannot_be_used_is_an_error() {
    unless_it_hangs("a command", || {
        let bench = with_quantized();
        bench.bytes("text.so", b"no library");
        assert!(bench.shell("mkfifo pipe.so && mkdir folder.so").status.success());
        with_library(&bench, "other.so", "#[unsafe(no_mangle)] pub extern \"C\" fn f() {}");
        with_library(&bench, "old.so", &of_version("1.16.3"));
        with_library(&bench, "odd.so", &of_version("1.99.0"));
        for (library, why) in [
            ("absent.so", "No such file"),
            ("text.so", "text.so: "),
            ("pipe.so", "is a pipe"),
            ("folder.so", "is a folder"),
            ("other.so", "it is not ONNX Runtime"),
            ("old.so", "it is version 1.16.3, which is too old: 1.17 or later is needed"),
            ("odd.so", "has not the functions of 1.17"),
        ] {
            for line in [
                "run %q.onnx --input @digits_test.npz --engine onnxruntime".to_string(),
                format!("check @{MODEL} %q.onnx --data @digits_test.npz --engine onnxruntime"),
                "bench %q.onnx --engine onnxruntime".to_string(),
                "bench %q.onnx --against-engine onnxruntime --seconds 0".to_string(),
            ] {
                let start = Instant::now();
                let line = format!("{line} --onnxruntime-library %{library}");
                bench.refuses(&line, 2, &[HELP[0], library, why, HELP[1]]);
                assert!(start.elapsed() < PATIENCE, "{line}: {:?}", start.elapsed());
            }
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_library_is_looked_for_where_it_may_be() {
    let bench = with_quantized();
    let folder = "lib/python3.11/site-packages/onnxruntime/capi";
    bench.bytes(&format!("venv/{folder}/libonnxruntime.so.1.32.0"), b"no library");
    bench.bytes("system/libonnxruntime.so", b"no library");
    bench.bytes("named.so", b"no library");
    let variables = "ORT_DYLIB_PATH= VIRTUAL_ENV= CONDA_PREFIX= LD_LIBRARY_PATH=system";
    for (more, found) in [
        ("", "the library of ONNX Runtime: libonnxruntime.so: system/libonnxruntime.so: "),
        (
            "VIRTUAL_ENV=$PWD/venv",
            "/venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0: ",
        ),
        ("CONDA_PREFIX=$PWD/venv", "/venv/lib/python3.11/"),
        ("VIRTUAL_ENV=$PWD/venv ORT_DYLIB_PATH=named.so", "/named.so: "),
        ("ORT_DYLIB_PATH=absent.so", "absent.so: No such file"),
    ] {
        let run = "$BIN run q.onnx --input $DATA --engine onnxruntime";
        let output = bench.shell(&format!("env {variables} {more} {run}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{more}\n{said}");
        assert!(said.contains(found) && HELP.iter().all(|part| said.contains(part)), "{more}\n{said}");
    }
}

#[test]
fn what_another_engine_cannot_do_is_refused_first() {
    let bench = Bench::new();
    for (line, why) in [
        (format!("check @{MODEL} %absent.onnx --data %absent --sites"), "--sites needs --engine builtin"),
        (format!("run @{MODEL} --input %absent --sites %sites"), "--sites needs --engine builtin"),
        (format!("bench @{MODEL} --profile"), "--profile needs --engine builtin"),
        ("check --merge %absent.json".to_string(), "'--engine <ENGINE>'"),
    ] {
        bench.refuses(&format!("{line} --engine onnxruntime"), 2, &[why]);
    }
    bench.refuses(&format!("bench @{MODEL} --engine fast"), 2, &["builtin, onnxruntime"]);
}

#[test]
fn parts_of_different_engines_are_not_put_together() {
    let bench = with_quantized();
    let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz --shard 1/2 --save %part.json");
    assert_eq!(bench.json(&check)["engines"], json!(["builtin", "builtin"]));
    let mut part: Value = serde_json::from_slice(&std::fs::read(bench.path("part.json")).unwrap()).unwrap();
    part["subject"]["engines"][1] = json!("ONNX Runtime 1.32.0");
    bench.bytes("other.json", part.to_string().as_bytes());
    let why = ["not of one comparison", "engines"];
    bench.refuses("check --merge %part.json %other.json", 3, &why);
    bench.refuses(&check.replace("part.json", "other.json"), 2, &why);
    // A part that does not say it is of the engines of this program.
    part["subject"].as_object_mut().unwrap().remove("engines");
    bench.bytes("other.json", part.to_string().as_bytes());
    bench.refuses("check --merge %part.json %other.json", 3, &["is in two of them"]);
}

#[test]
fn an_engine_beside_ours_may_be_ours() {
    let bench = Bench::new();
    let report = bench.json(&format!("bench @{MODEL} --against-engine builtin --seconds 0"));
    let models = report["models"].as_array().unwrap();
    let path = fixture_path(MODEL);
    assert_eq!(models.len(), 2);
    for model in models {
        assert_eq!((&model["engine"], &model["model"]), (&json!("builtin"), &json!(path.to_str().unwrap())));
    }
}

/// Every kernel of this CPU finds the same scales and gives the same results; the name of another one is an error.
#[test]
#[cfg(unix)]
fn the_environment_names_a_kernel() {
    let bench = Bench::new();
    let refused = bench.shell("ONNX_PTQ4VIT_KERNEL=abacus \"$BIN\" inspect \"$MODEL\"");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    let (_, names) = said.trim().rsplit_once(" are ").expect(&said);
    let mut results = Vec::new();
    for kernel in names.split(", ").filter(|&name| name != "reference") {
        for bits in ["w8a8", "w6a6"] {
            let script = format!(
                "export ONNX_PTQ4VIT_KERNEL={kernel}
                \"$BIN\" --version | grep -q 'kernel: {kernel}$' &&
                \"$BIN\" quantize \"$MODEL\" --calib \"$DATA\" --calib-limit 4 --bits {bits} -o {kernel}.{bits}.onnx -q &&
                \"$BIN\" run {kernel}.{bits}.onnx --input \"$DATA\" -o {kernel}.{bits}.npy -q"
            );
            let done = bench.shell(&script);
            assert!(done.status.success(), "{kernel}: {}", String::from_utf8_lossy(&done.stderr));
            let read =
                |suffix: &str| std::fs::read(bench.path(&format!("{kernel}.{bits}.{suffix}"))).unwrap();
            results.push((bits, read("onnx"), read("npy")));
        }
    }
    for bits in ["w8a8", "w6a6"] {
        let mut of_kernels = results.iter().filter(|(of, ..)| *of == bits);
        let first = of_kernels.next().expect("there is a portable kernel");
        assert!(of_kernels.all(|other| other == first), "{bits}");
    }
}
