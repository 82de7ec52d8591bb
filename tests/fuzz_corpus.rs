//! The fuzz targets over the inputs that are kept in `fixtures/fuzz`: what once went wrong, and what reaches furthest.

use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../fuzz/bodies.rs"]
mod bodies;

const PATIENCE: Duration = Duration::from_secs(10);

fn run(target: &str, body: fn(&[u8])) {
    let folder = Path::new("fixtures/fuzz").join(target);
    let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        let start = Instant::now();
        body(&bytes);
        assert!(start.elapsed() < PATIENCE, "{}: {:?}", input.display(), start.elapsed());
    }
}

#[test]
fn decode() {
    run("decode", bodies::decode);
}

#[test]
fn plan() {
    run("plan", bodies::plan);
}

#[test]
fn import() {
    run("import", bodies::import);
}

#[test]
fn calibration() {
    run("calibration", bodies::calibration);
}
