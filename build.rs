//! Compiles `proto/onnx.proto` to Rust (pure Rust: no `protoc` is needed), and finds the commit for `--version`.

use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let schema = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // `Bytes` lets a weight stay a slice of the memory-mapped file.
    prost_build::Config::new().bytes([".onnx.TensorProto.raw_data"]).compile_fds(schema)?;
    if let Some(commit) = commit() {
        println!("cargo:rustc-env=ONNX_PTQ4VIT_COMMIT={commit}");
    }
    Ok(())
}

/// The commit that is built: from the package's own note of it, else from Git if this is a repository.
fn commit() -> Option<String> {
    const DIGITS: usize = 10;
    let root = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if let Ok(note) = std::fs::read_to_string(Path::new(&root).join(".cargo_vcs_info.json")) {
        let digits = note.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
        return Some(digits.chars().take(DIGITS).collect());
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    // A repository around the package says nothing of it.
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?
        != Path::new(&root).canonicalize().ok()?
    {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    let log = Path::new(&root).join(log);
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])
}
