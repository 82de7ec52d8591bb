//! The binary: its exit codes, what it says, and what it leaves behind.

mod commands;
#[path = "../common/mod.rs"]
mod common;
mod detections;
#[cfg(unix)]
mod endings;
#[cfg(unix)]
mod engines;
#[cfg(unix)]
mod hostile;
mod images;
mod refusals;
mod reports;
mod sensitivity;
mod verdicts;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::fixture_path;
use ndarray::{Array4, ArrayD};
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::{Model, Storage};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_onnx-ptq4vit");
const MODEL: &str = "digits_vit_ts17.onnx";

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
        let mut model = Model::read(&fixture_path(MODEL)).unwrap();
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

    /// Runs a command line, words separated by spaces: `@x` is fixture x, `%x` is x in the folder.
    fn run(&self, line: &str) -> Output {
        let words = line.split(' ').map(|word| match word.split_at(1) {
            ("@", name) => fixture_path(name).into_os_string(),
            ("%", name) => self.path(name).into_os_string(),
            _ => word.into(),
        });
        Command::new(BINARY).args(words).output().unwrap()
    }

    /// Runs a shell script in which `$BIN` is the binary, `$MODEL` the fixture's model and `$DATA` its calibration set, in the
    /// folder.
    #[cfg(unix)]
    fn shell(&self, script: &str) -> Output {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).current_dir(self.folder.path()).env("BIN", BINARY);
        command.env("MODEL", fixture_path(MODEL)).env("DATA", fixture_path("digits_calib.npz"));
        command.output().unwrap()
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
