//! What ends a run from outside: a reader that leaves, an interrupt, a kill.

use std::process::{Child, Command, Stdio};

use onnx_ptq4vit::calibrate::Calibration;

use super::common::{fixture_path, until};
use super::{BINARY, Bench, MODEL};

#[test]
fn a_closed_pipe_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        Command::new(BINARY).arg("inspect").arg(fixture_path(MODEL)).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

/// Starts a run that writes `c.json` and `q.onnx`.
fn quantize(bench: &Bench, options: &[&str]) -> Child {
    Command::new(BINARY)
        .arg("quantize")
        .arg(fixture_path(MODEL))
        .arg("--calib")
        .arg(fixture_path("digits_calib.npz"))
        .arg("--checkpoint")
        .arg(bench.path("c.json"))
        .arg("-o")
        .arg(bench.path("q.onnx"))
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_interrupted_quantization_leaves_its_scales_alone_and_goes_on() {
    let bench = Bench::new();
    let mut child = quantize(&bench, &["--search", "exhaustive"]);
    assert!(until(&mut child, || bench.path("c.json").exists()), "it ended before it had found a scale");
    let kill = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(bench.files(), ["c.json"]);

    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 32");
    let again = bench.run(&format!("{quantize} --checkpoint %c.json -o %q.onnx"));
    assert!(String::from_utf8_lossy(&again.stderr).contains("sites were calibrated before"));
    bench.accepts(&format!("{quantize} -o %whole.onnx"));
    let bytes = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(bytes("q.onnx"), bytes("whole.onnx"));
}

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many sites are saved.
    Sites(usize),
    /// The temporary file of the output has been seen so many times. How far the writing is then differs.
    Writing(usize),
    /// The output has its name.
    Written,
}

#[test]
fn a_killed_quantization_leaves_the_old_output_or_the_new_one() {
    const OLD: &[u8] = b"what was there before";
    let short = ["--calib-limit", "4", "--threads", "1"];
    let read = |bench: &Bench| std::fs::read(bench.path("q.onnx")).unwrap();
    let saved = |bench: &Bench| match std::fs::read(bench.path("c.json")) {
        Ok(json) => Calibration::from_json(&json).unwrap().sites.len(),
        Err(_) => 0,
    };
    let whole = Bench::new();
    assert!(quantize(&whole, &short).wait().unwrap().success());
    let new = read(&whole);

    let sites = (0..=saved(&whole)).map(Moment::Sites);
    let writing = (0..10).map(|i| Moment::Writing(1 << i));
    let moments: Vec<_> = sites.chain(writing).chain([Moment::Written]).collect();
    let mut replaced = 0;
    for &moment in &moments {
        let bench = Bench::new();
        std::fs::write(bench.path("q.onnx"), OLD).unwrap();
        let mut seen = 0;
        let mut now = || match moment {
            Moment::Sites(count) => saved(&bench) >= count,
            Moment::Writing(times) => {
                seen += usize::from(bench.files().iter().any(|name| name.starts_with(".onnx-ptq4vit-")));
                seen >= times || read(&bench) != OLD
            }
            Moment::Written => read(&bench) != OLD,
        };
        let mut child = quantize(&bench, &short);
        until(&mut child, &mut now);
        child.kill().unwrap();
        child.wait().unwrap();

        let left = read(&bench);
        assert!(left == OLD || left == new, "{moment:?}: {} bytes of neither", left.len());
        replaced += usize::from(left == new);
        saved(&bench); // which is whole
    }
    // The test looks at both sides of the replacement.
    assert!((1..moments.len()).contains(&replaced), "{replaced} of {} came too late", moments.len());
}
