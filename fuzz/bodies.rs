//! What each fuzz target does with its bytes; `tests/fuzz_corpus.rs` does the same with the corpus that is kept.

#[path = "mutate.rs"]
mod mutate;

use std::path::PathBuf;
use std::sync::OnceLock;

use ndarray::{Array4, ArrayD};
use onnx_ptq4vit::calibrate::{Calibration, Gradient, Metric, Options, Preset, Run, calibrate};
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
use onnx_ptq4vit::engine::Engine as _;
use onnx_ptq4vit::export::{TwinForm, export};
use onnx_ptq4vit::integer::{self, Runner};
use onnx_ptq4vit::onnx::{Graph, Model};
use onnx_ptq4vit::plan;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::quant::Bits;
use onnx_ptq4vit::runtime::Session;

use mutate::{Choices, mutate};

/// Of what a target looks at; more only costs time.
const LARGEST_INPUT: usize = 1 << 20;
const LARGEST_TENSOR: usize = 64 << 20;

/// Panics that the library turns into errors are no faults: libFuzzer's hook would end the process at them.
pub(crate) fn let_guarded_panics_pass() {
    let other = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !onnx_ptq4vit::error::is_guarded() {
            other(panic);
        }
    }));
}

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

/// Small models that the target `quantize` changes.
const MODELS: [&[u8]; 4] = [
    include_bytes!("../fixtures/digits_vit_ts17.onnx"),
    include_bytes!("../fixtures/digits_vit_dynamo20.onnx"),
    include_bytes!("../fixtures/digits_swin_dynamo18.onnx"),
    include_bytes!("../fixtures/digits_vit_outlier17.onnx"),
];

/// A small model, changed as the bytes say, quantized with two images, and run; or changed after it was quantized, and
/// run.
pub(crate) fn quantize(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let fixture = choices.below(MODELS.len());
    let (changed_first, options) = (choices.below(3) > 0, options(&mut choices));
    quantize_changed(MODELS[fixture], changed_first, options, &mut choices);
}

fn options(choices: &mut Choices) -> Options {
    let method = [Preset::Best, Preset::Paper, Preset::Base, Preset::Base][choices.below(4)];
    let metrics = [Metric::Hessian, Metric::Mse, Metric::Cosine, Metric::Pearson];
    let metric = metrics[choices.below(metrics.len())];
    let weight_bits = Bits::new([8, 4][choices.below(2)]).expect("they are in range");
    Options { metric, weight_bits, gradient: Gradient::Fisher(1), ..Options::new(method) }
}

fn quantize_changed(model: &[u8], changed_first: bool, options: Options, choices: &mut Choices) {
    static QUANTIZED: [OnceLock<Vec<u8>>; MODELS.len()] = [const { OnceLock::new() }; MODELS.len()];
    if changed_first {
        if let Ok(file) = changed(model, choices).and_then(|model| quantized(model, &options)) {
            let mut model = Model::decode(file.into()).expect("our own file");
            model.limits.tensor_bytes = LARGEST_TENSOR;
            let _ = run(model);
        }
        return;
    }
    let fixture = MODELS.iter().position(|other| *other == model).expect("it is one of them");
    let file = QUANTIZED[fixture].get_or_init(|| {
        let options = Options { metric: Metric::Mse, ..Options::new(Preset::Paper) };
        quantized(Model::decode(model.to_vec().into()).expect("a fixture"), &options).expect("a fixture")
    });
    if let Ok(model) = changed(file, choices) {
        let _ = run(model);
    }
}

fn changed(file: &[u8], choices: &mut Choices) -> onnx_ptq4vit::Result<Model> {
    let mut proto = Model::decode(file.to_vec().into()).expect("a sound file").proto;
    mutate(&mut proto, choices);
    let mut model = Model::new(proto)?;
    model.limits.tensor_bytes = LARGEST_TENSOR;
    Ok(model)
}

/// The bytes of `model`, quantized.
fn quantized(model: Model, options: &Options) -> onnx_ptq4vit::Result<Vec<u8>> {
    let model = Prepared::new(model)?;
    let plan = plan::plan(&model, &[])?;
    let images = Dataset::of_array(noise(&model)?);
    let calibration = calibrate(&model, &plan, &images, options, Run::default(), &())?;
    Ok(export(&model, &plan, &calibration, TwinForm::Function)?.encode())
}

fn run(model: Model) -> onnx_ptq4vit::Result<()> {
    let model = Prepared::new(model)?;
    let noise = noise(&model)?;
    let (_, channels, height, width) = noise.dim();
    Runner::with_image(&model, [channels, height, width])?.run(&noise.view())?;
    Ok(())
}

/// Images for a model, if they are small.
fn noise(model: &Prepared) -> onnx_ptq4vit::Result<Array4<f32>> {
    let input = model.input()?;
    let size = |axis: usize| input.dims[axis].unwrap_or(8);
    let [batch, channels, height, width] = input.shape_for([size(1), size(2), size(3)])?;
    let len = [2, batch, channels, height, width].iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
    if len.is_none_or(|len| len > LARGEST_INPUT) {
        return Err(onnx_ptq4vit::Error::usage("too large for this"));
    }
    let value = |(n, c, h, w)| ((n * 31 + c * 17 + h * 7 + w * 3) % 23) as f32 / 11.0 - 1.0;
    Ok(Array4::from_shape_fn([2 * batch, channels, height, width], value))
}

/// A file with this content and a name that ends so; the same for all calls of one process and thread.
fn file(bytes: &[u8], extension: &str) -> PathBuf {
    let name = format!("fuzz-{}-{:?}.{extension}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).expect("the folder for temporary files takes one");
    path
}

fn load_data(bytes: &[u8], extension: &str) {
    let path = file(bytes, extension);
    if let Ok(data) =
        Dataset::open(&path, &Preprocess::timm_vit(8), Selection { limit: Some(4), seed: 0, skip: 0 })
    {
        let _ = data.load(0);
        let _ = data.statistics();
    }
    let _ = std::fs::remove_file(path);
}

/// A file that says how images are prepared, or a part of a comparison.
pub(crate) fn config(bytes: &[u8]) {
    for size in [None, Some([8, 8]), Some([7, 31])] {
        if let Ok(Some(preprocess)) = onnx_ptq4vit::preprocessing::of_json(bytes, size) {
            let image =
                concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/images/rgb.png").replace("/fuzz/", "/");
            if preprocess.crop.iter().all(|side| *side <= 64) {
                let data = Dataset::open(image.as_ref(), &preprocess, Selection::default());
                let _ = data.expect("it was checked").load(0);
            }
        }
    }
    if let Ok(part) = onnx_ptq4vit::check::Part::from_json(bytes) {
        let _ = part.so_far();
        let _ = part.comparison();
    }
}

/// An image file of any format.
pub(crate) fn images(bytes: &[u8]) {
    load_data(bytes, "img");
}

/// An array, an archive of arrays, or a CSV file.
pub(crate) fn arrays(bytes: &[u8]) {
    let extension = match bytes.first() {
        Some(b'P') => "npz",
        Some(0x93) => "npy",
        _ => "csv",
    };
    load_data(bytes, extension);
}
