#![no_main]

#[allow(dead_code)]
#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::let_guarded_panics_pass(),
    |bytes: &[u8]| bodies::plan(bytes)
);
