//! What ends a run from outside: a reader that leaves, an interrupt, a kill.

use std::process::{Child, Command, Stdio};

use onnx_ptq4vit::calibrate::Calibration;
use onnx_ptq4vit::onnx::{Model, Storage};

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
    const OLD: &[u8] = b"\x08what was there before";
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

/// Whenever a run is asked to end, its temporary files end with it.
#[test]
fn signals_leave_the_old_output_or_the_new_one_and_nothing_else() {
    let whole = Bench::new();
    assert!(quantize(&whole, &["--calib-limit", "2"]).wait().unwrap().success());
    let new = std::fs::read(whole.path("q.onnx")).unwrap();
    for (i, signal) in ["TERM", "INT", "HUP"].into_iter().cycle().take(12).enumerate() {
        let bench = Bench::new();
        std::fs::write(bench.path("q.onnx"), b"\x08old").unwrap();
        let mut child = quantize(&bench, &["--calib-limit", "2"]);
        let mut seen = 0;
        until(&mut child, || {
            seen += usize::from(bench.files().iter().any(|name| name.starts_with(".onnx-ptq4vit-")));
            bench.path("c.json").exists() && seen > i * 2
        });
        assert!(Command::new("kill").args(["-s", signal]).arg(child.id().to_string()).status().is_ok());
        let code = child.wait().unwrap().code();
        let expected = [Some(0), Some(128 + [15, 2, 1][i % 3])];
        assert!(expected.contains(&code), "{signal}: {code:?}");
        assert_eq!(bench.files(), ["c.json", "q.onnx"], "{signal}");
        let left = std::fs::read(bench.path("q.onnx")).unwrap();
        assert!(left == b"\x08old" || left == new, "{signal}: {} bytes of neither", left.len());
    }
}

#[test]
fn what_the_caller_ignores_stays_ignored() {
    let bench = Bench::new();
    let script = "trap '' HUP; $BIN quantize $MODEL --calib $DATA --calib-limit 8 -o q.onnx & sleep 0.1; kill -HUP $!; \
                  wait $!";
    let said = bench.shell(script);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(bench.files(), ["q.onnx"]);
}

/// A disk that is full, and one that cannot be written to.
#[test]
fn what_cannot_be_written_leaves_the_old_output() {
    let bench = Bench::new();
    std::fs::write(bench.path("q.onnx"), b"\x08old").unwrap();
    let quantize = "$BIN quantize $MODEL --calib $DATA --calib-limit 2";
    for (script, part) in [
        (format!("ulimit -f 16; {quantize} -o q.onnx"), "File too large"),
        (format!("{quantize} -o /proc/q.onnx"), "/proc/q.onnx"),
        (format!("{quantize} -o /proc/self/q.onnx"), "/proc/self/q.onnx"),
    ] {
        let said = bench.shell(&script);
        let err = String::from_utf8(said.stderr).unwrap();
        assert!(said.status.code() == Some(3) && err.contains(part), "{script}: {:?} {err}", said.status);
        assert!(std::fs::read(bench.path("q.onnx")).unwrap() == b"\x08old", "{script}");
        assert_eq!(bench.files(), ["q.onnx"], "{script}");
    }
}

/// Every limit is enough, or said to be too small.
#[test]
fn a_limited_address_space_gives_the_same_file_or_none() {
    let bench = Bench::new();
    let quantize = "$BIN quantize $MODEL --calib $DATA --calib-limit 4 --threads 2";
    assert!(bench.shell(&format!("{quantize} -o free.onnx")).status.success());
    let free = std::fs::read(bench.path("free.onnx")).unwrap();
    let mut made = 0;
    for kib in [50_000, 100_000, 200_000, 400_000, 800_000, 4_000_000] {
        let said = bench.shell(&format!("ulimit -v {kib}; {quantize} -o q.onnx"));
        let err = String::from_utf8_lossy(&said.stderr);
        match said.status.code() {
            Some(0) => {
                assert_eq!(std::fs::read(bench.path("q.onnx")).unwrap(), free, "{kib}");
                std::fs::remove_file(bench.path("q.onnx")).unwrap();
                made += 1;
            }
            code => {
                assert!(code == Some(2) && err.contains("memory budget") || kib < 100_000, "{kib}: {said:?}");
            }
        }
        assert_eq!(bench.files(), ["free.onnx"], "{kib}");
    }
    assert!((1..6).contains(&made), "{made} of 6 are enough");
}

/// Of two runs with one output, all files are of the same run.
#[test]
fn runs_at_once_do_not_mix() {
    let bench = Bench::new();
    let model = Model::read(&fixture_path(MODEL)).unwrap();
    model.write(&bench.path("m.onnx"), Storage::External).unwrap();
    let quantize = |bits: &str, output: &str| {
        let line =
            format!("--calib {} --calib-limit 2 --bits {bits}", fixture_path("digits_calib.npz").display());
        let mut command = Command::new(BINARY);
        command
            .arg("quantize")
            .arg(bench.path("m.onnx"))
            .args(line.split(' '))
            .arg("-o")
            .arg(bench.path(output));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let pair = |name: &str| {
        [name.to_string(), format!("{name}.data")].map(|name| std::fs::read(bench.path(&name)).unwrap())
    };
    // The location of the data is in the file, so that the name must be the same.
    let alone = ["w8a8", "w4a4"].map(|bits| {
        assert!(quantize(bits, "q.onnx").wait().unwrap().success());
        pair("q.onnx")
    });
    assert_ne!(alone[0][1], alone[1][1]);
    for _ in 0..4 {
        let mut both = ["w8a8", "w4a4"].map(|bits| quantize(bits, "q.onnx"));
        assert!(both.iter_mut().all(|run| run.wait().unwrap().success()));
        assert!(alone.contains(&pair("q.onnx")));
    }
    assert_eq!(bench.files(), ["m.onnx", "m.onnx.data", "q.onnx", "q.onnx.data"]);
}
