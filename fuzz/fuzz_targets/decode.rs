//! Bytes to a validated model and back, and its text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_ptq4vit::onnx::{Model, dump};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::decode(bytes.to_vec().into()) {
        let _ = dump(&model);
        // What was accepted is written so that it is accepted again.
        Model::decode(model.encode().into()).expect("our own bytes");
    }
});
