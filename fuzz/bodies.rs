//! What each fuzz target does with its bytes; `tests/fuzz_corpus.rs` does the same with the corpus that is kept.

use ndarray::ArrayD;
use onnx_ptq4vit::calibrate::Calibration;
use onnx_ptq4vit::integer::{self, Runner};
use onnx_ptq4vit::onnx::{Graph, Model};
use onnx_ptq4vit::plan;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::runtime::Session;

/// Of what a target looks at; more only costs time.
const LARGEST_INPUT: usize = 1 << 20;
const LARGEST_TENSOR: usize = 64 << 20;

/// Bytes to a validated model and back.
pub(crate) fn decode(bytes: &[u8]) {
    if let Ok(model) = Model::decode(bytes.to_vec().into()) {
        // What was accepted is written so that it is accepted again.
        Model::decode(model.encode().into()).expect("our own bytes");
    }
}

/// A model through the index, normalization and the plan, or as a quantized file to its sites.
pub(crate) fn plan(bytes: &[u8]) {
    let Ok(model) = Model::decode(bytes.to_vec().into()) else { return };
    if let Ok(graph) = Graph::new(model.clone()) {
        let _ = integer::contents(&graph);
    }
    let Ok(model) = Prepared::new(model) else { return };
    let _ = plan::plan(&model, &[]);
    let _ = model.restore_border(&mut model.model().clone());
}

/// A model into tract and through one forward pass, as a float model and as a quantized one.
pub(crate) fn import(bytes: &[u8]) {
    if let Ok(mut model) = Model::decode(bytes.to_vec().into()) {
        model.limits.tensor_bytes = LARGEST_TENSOR;
        let _ = load(model);
    }
}

fn load(model: Model) -> onnx_ptq4vit::Result<()> {
    let model = Prepared::new(model)?;
    let input = model.input()?;
    let size = |axis: usize| input.dims[axis].unwrap_or(8);
    let image = [size(1), size(2), size(3)];
    let shape = input.shape_for(image)?;
    if shape.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)).is_none_or(|len| len > LARGEST_INPUT) {
        return Ok(());
    }
    let _ = Runner::with_image(&model, image);
    let names = model.outputs()?.names;
    let session = Session::new(model.model(), shape, &names, &[])?;
    session.forward(ArrayD::zeros(&shape[..]), &[])?;
    Ok(())
}

/// The text of a calibration file.
pub(crate) fn calibration(text: &[u8]) {
    if let Ok(calibration) = Calibration::from_json(text) {
        let written = serde_json::to_vec(&calibration).expect("plain data has a JSON form");
        assert_eq!(Calibration::from_json(&written).expect("our own text"), calibration);
    }
}
