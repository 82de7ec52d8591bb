//! A model into tract and through one forward pass, as a float model and as a quantized one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ndarray::ArrayD;
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::normalize::Normalized;
use onnx_ptq4vit::onnx::{Graph, Model};
use onnx_ptq4vit::session::{Session, input_spec, outputs};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut model) = Model::decode(bytes.to_vec().into()) else { return };
    model.limits.tensor_bytes = 64 << 20;
    let _ = load(model);
});

fn load(model: Model) -> onnx_ptq4vit::Result<()> {
    let model = Normalized::new(model)?.model;
    let graph = Graph::new(&model)?;
    let input = input_spec(&graph)?;
    let size = |axis: usize| input.dims[axis].unwrap_or(8);
    let picture = [size(1), size(2), size(3)];
    let _ = Runner::with_picture(&model, picture);
    let shape = input.shape_for(picture)?;
    if shape.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)).is_none_or(|len| len > 1 << 20) {
        return Ok(());
    }
    let names = outputs(&graph)?.names;
    let session = Session::new(&model, shape, &names, &[])?;
    session.forward(ArrayD::zeros(&shape[..]), &[])?;
    Ok(())
}
