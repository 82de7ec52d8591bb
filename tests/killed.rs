//! `quantize`, killed at any moment, leaves the old output or the new one.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const KILLS: u32 = 40;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn quantize(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_onnx-ptq4vit"))
        .arg("quantize")
        .arg(fixture("digits_vit_ts17.onnx"))
        .arg("--calib")
        .arg(fixture("digits_calib.npz"))
        .args(["--calib-limit", "4", "--threads", "1"])
        .arg("--save-calibration")
        .arg(folder.join("scales.json"))
        .arg("-o")
        .arg(folder.join("out.onnx"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_quantization_leaves_the_old_output_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (out, scales) = (folder.path().join("out.onnx"), folder.path().join("scales.json"));
    let start = Instant::now();
    assert!(quantize(folder.path()).wait().unwrap().success());
    let whole = start.elapsed();
    let new = std::fs::read(&out).unwrap();
    let old = b"what was there before";

    let mut replaced = 0;
    // Most of the kills fall into the last part, where files are written.
    for i in 0..KILLS {
        std::fs::write(&out, old).unwrap();
        let _ = std::fs::remove_file(&scales);
        let mut child = quantize(folder.path());
        let share =
            if i < KILLS / 4 { f64::from(i) / 10.0 } else { 0.7 + f64::from(i) / f64::from(KILLS) * 0.5 };
        std::thread::sleep(whole.mul_f64(share));
        let _ = child.kill();
        child.wait().unwrap();

        let left = std::fs::read(&out).unwrap();
        assert!(left == old || left == new, "kill {i} left {} bytes of neither", left.len());
        replaced += u32::from(left == new);
        if let Ok(json) = std::fs::read(&scales) {
            onnx_ptq4vit::calibrate::Calibration::from_json(&json)
                .unwrap_or_else(|why| panic!("kill {i}: {why}"));
        }
    }
    // The test looks at both sides of the replacement.
    assert!((1..KILLS).contains(&replaced), "{replaced} of {KILLS} came too late");
}
