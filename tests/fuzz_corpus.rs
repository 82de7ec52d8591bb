//! The fuzz targets over the inputs that are kept in `fixtures/fuzz`: what once went wrong, and what reaches furthest.

#[allow(dead_code)] // some targets make their inputs themselves: tests/mutations.rs
#[path = "../fuzz/bodies.rs"]
mod bodies;
mod common;

fn run(target: &str, body: fn(&[u8])) {
    let folder = common::fixture_path("fuzz").join(target);
    let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        common::unless_it_hangs(&input.display().to_string(), move || body(&bytes));
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

#[test]
fn config() {
    run("config", bodies::config);
}
