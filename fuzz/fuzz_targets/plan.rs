//! A model through the index, normalization and the plan, or as a quantized file to its sites.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_ptq4vit::integer;
use onnx_ptq4vit::normalize::Normalized;
use onnx_ptq4vit::onnx::{Graph, Model};
use onnx_ptq4vit::plan::plan;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::decode(bytes.to_vec().into()) else { return };
    let _ = integer::sites(&model);
    let Ok(normalized) = Normalized::new(model) else { return };
    if let Ok(graph) = Graph::new(&normalized.model) {
        let _ = plan(&graph, &[]);
    }
    let mut model = normalized.model.clone();
    let _ = normalized.restore_types(&mut model);
});
