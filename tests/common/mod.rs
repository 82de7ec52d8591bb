//! What the integration tests share: fixtures and the way from them to results, ONNX messages by hand, and events.
#![allow(dead_code)] // every test file uses its part

pub(crate) mod dump;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ndarray::{ArrayD, ArrayView4};
use onnx_ptq4vit::Result;
use onnx_ptq4vit::calibrate::{Calibration, Options, Preset, Run};
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
use onnx_ptq4vit::engine::Engine as _;
use onnx_ptq4vit::export::{TwinForm, export};
use onnx_ptq4vit::integer::{self, Runner, SiteInfo};
use onnx_ptq4vit::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_ptq4vit::onnx::proto::{OperatorSetIdProto, TensorShapeProto, TypeProto, type_proto};
use onnx_ptq4vit::onnx::{DataType, Graph, GraphProto, Model, ModelProto, ValueInfoProto};
use onnx_ptq4vit::plan::{Plan, plan};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::quant::Bits;
use onnx_ptq4vit::runtime::{FloatEngine, Session};

/// A float model and the plan of its sites.
pub(crate) struct Planned {
    pub(crate) model: Prepared,
    pub(crate) plan: Plan,
}

pub(crate) fn planned(model: Model) -> Result<Planned> {
    let model = Prepared::new(model)?;
    let plan = plan(&model, &[])?;
    Ok(Planned { model, plan })
}

/// The float model `fixtures/<name>.onnx`.
pub(crate) fn fixture(name: &str) -> Planned {
    planned(Model::read(&fixture_path(&format!("{name}.onnx"))).unwrap()).unwrap()
}

pub(crate) fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The kinds of the sites, in order.
pub(crate) fn kinds(of: &Planned) -> Vec<&'static str> {
    of.plan.sites.iter().map(|site| site.kind.name()).collect()
}

/// The first `limit` images of `side` × `side` pixels in a file.
pub(crate) fn dataset(path: &Path, side: u32, limit: Option<usize>) -> Dataset {
    Dataset::open(path, &Preprocess::timm_vit(side), Selection { limit, seed: 0, skip: 0 }).unwrap()
}

/// The images that the fixtures are calibrated on.
pub(crate) fn digits_calib(limit: usize) -> Dataset {
    dataset(&fixture_path("digits_calib.npz"), 8, Some(limit))
}

/// The images that the fixtures are tested on.
pub(crate) fn digits_test(limit: Option<usize>) -> Dataset {
    dataset(&fixture_path("digits_test.npz"), 8, limit)
}

/// PTQ4ViT with these bits.
pub(crate) fn options(weights: u8, activations: u8) -> Options {
    let [weight_bits, activation_bits] = [weights, activations].map(|k| Bits::new(k).unwrap());
    Options { weight_bits, activation_bits, ..Options::new(Preset::Paper) }
}

pub(crate) fn calibrate(
    of: &Planned,
    images: &Dataset,
    options: &Options,
    run: Run,
    progress: &dyn Progress,
) -> Result<Calibration> {
    onnx_ptq4vit::calibrate::calibrate(&of.model, &of.plan, images, options, run, progress)
}

pub(crate) fn calibrated(of: &Planned, images: &Dataset, options: &Options) -> Calibration {
    calibrate(of, images, options, Run::default(), &()).unwrap()
}

/// The quantized model through bytes: what a file would hold.
pub(crate) fn quantized(of: &Planned, calibration: &Calibration, form: TwinForm) -> Model {
    let model = export(&of.model, &of.plan, calibration, form).unwrap();
    Model::decode(model.encode().into()).unwrap()
}

/// The sites of a quantized model.
pub(crate) fn sites(model: &Model) -> Result<Vec<SiteInfo>> {
    Ok(integer::contents(&Graph::new(model.clone())?)?.sites)
}

/// The integer runner of a quantized model.
pub(crate) fn runner(model: &Model) -> Result<Runner> {
    Runner::new(&Prepared::new(model.clone())?)
}

/// What a quantized model gives for `images`.
pub(crate) fn quantized_output(model: &Model, images: &ArrayView4<f32>) -> ArrayD<f32> {
    runner(model).unwrap().run(images).unwrap()
}

/// What the float model gives for `images`.
pub(crate) fn float_output(of: &Planned, images: &ArrayView4<f32>) -> Result<ArrayD<f32>> {
    let (_, channels, height, width) = images.dim();
    float_engine(of, [channels, height, width])?.run(images)
}

/// The float engine for images of `[C, H, W]`.
pub(crate) fn float_engine(of: &Planned, image: [usize; 3]) -> Result<FloatEngine> {
    of.model.float_engine(image)
}

/// All outputs and [`taps`], for images of `[C, H, W]`.
pub(crate) fn session(of: &Planned, image: [usize; 3]) -> Result<Session> {
    Session::new(of.model.model(), shape(of, image)?, &of.model.outputs()?.names, &taps(of))
}

/// `[N, C, H, W]` of one run on images of `[C, H, W]`.
pub(crate) fn shape(of: &Planned, image: [usize; 3]) -> Result<[usize; 4]> {
    of.model.input()?.shape_for(image)
}

/// The outputs of the sites.
pub(crate) fn taps(of: &Planned) -> Vec<&str> {
    of.plan.sites.iter().map(|site| site.output.as_str()).collect()
}

/// A value of unknown type.
pub(crate) fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

/// A FLOAT value `[N, C, H, W]`; `None` leaves a size open.
pub(crate) fn image_value(name: &str, dims: [Option<i64>; 4]) -> ValueInfoProto {
    let size =
        |dim: Option<i64>| dim.map_or(dimension::Value::DimParam("N".into()), dimension::Value::DimValue);
    let dim = dims.map(|dim| Dimension { value: Some(size(dim)), ..Default::default() });
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float.into()),
        shape: Some(TensorShapeProto { dim: dim.into() }),
    };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { r#type: Some(TypeProto { value, ..Default::default() }), ..self::value(name) }
}

pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

/// A file of `graph` at opset 17.
pub(crate) fn file_of(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(graph),
        ..Default::default()
    }
}

/// Looks again and again until `event` has happened; whether it did before `child` ended.
pub(crate) fn until(child: &mut Child, mut event: impl FnMut() -> bool) -> bool {
    loop {
        let ended = child.try_wait().unwrap().is_some();
        if event() || ended {
            return !ended;
        }
        std::thread::yield_now();
    }
}

/// What `body` gives; panics if it hangs. The clock is for that alone: no sound run comes near the limit.
pub(crate) fn unless_it_hangs<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    const PATIENCE: Duration = Duration::from_mins(2);
    let (running, ended) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let _running = running; // dropped at the end, and by a panic
        body()
    });
    let waited = ended.recv_timeout(PATIENCE);
    assert_ne!(waited, Err(RecvTimeoutError::Timeout), "{what} hangs");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
