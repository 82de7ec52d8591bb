//! A small model of every architecture by every exporter (`scripts/make_zoo.py`): its sites, its output and gradients
//! against `PyTorch`, and the way through calibration, export and the integer runner.

use std::fs::File;
use std::io::Read as _;

use flate2::read::GzDecoder;
use ndarray::{Array4, ArrayD, ArrayViewD, Axis, Slice};
use onnx_ptq4vit::calibrate::{Calibration, Gradient, Method, Options, Run, calibrate};
use onnx_ptq4vit::check::Sqnr;
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection, write_npy};
use onnx_ptq4vit::export::{TwinForm, export};
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::normalize::Normalized;
use onnx_ptq4vit::onnx::{DataType, Graph, Model};
use onnx_ptq4vit::plan::{Plan, SiteKind, plan};
use onnx_ptq4vit::session::{FloatModel, Session, input_spec, outputs};

const EXPORTERS: &[&str] = &["ts13", "ts17", "dynamo18", "dynamo20", "dynamo23"];
/// Against `PyTorch` in f64: relative to the largest output, and to the norm of a gradient.
const TOLERANCE: f64 = 1e-4;

/// The kinds of its sites, in order, and the side of its images; in parentheses what stays float.
fn architecture(name: &str, exporter: &str) -> (String, usize) {
    let fused = "qkv scores values proj fc1 fc2 ";
    let apart = "q k v scores values proj fc1 fc2 ";
    let gated = "q k v scores values proj linear linear linear ";
    let swin = |block: &str| format!("patch {}linear {}head", block.repeat(2), block.repeat(2));
    match name {
        "vit" => (format!("patch {}head", fused.repeat(2)), 8),
        "deit_distilled" | "hf_deit" => {
            let block = if name == "hf_deit" { apart } else { fused };
            (format!("patch {}head head", block.repeat(2)), 8)
        }
        "hf_vit" | "hf_beit" => (format!("patch {}head", apart.repeat(2)), 8),
        "hf_dinov2" | "hf_clip" => (format!("patch {}", apart.repeat(2)), 8),
        "hf_dinov2_swiglu" => (format!("patch {}", gated.repeat(2)), 8),
        "hf_siglip" => {
            // TorchScript computes the place of K's and V's weight in another from shapes, if the batch is open.
            let kv = if exporter == "ts13" { "(linear)" } else { "linear" };
            // The query of the pooling head is a constant.
            (format!("patch {}{kv} (scores) values proj fc1 fc2", apart.repeat(2)), 8)
        }
        "swin" => (swin(fused), 16),
        "hf_swin" => (swin(apart), 16),
        _ => panic!("unknown architecture {name}"),
    }
}

/// What `PyTorch` says.
#[derive(serde::Deserialize)]
struct Golden {
    output: Vec<f64>,
    sites: Vec<Sketch>,
}

/// The norm of a gradient, and the share of it along `cos(i)` of the element's number.
#[derive(serde::Deserialize, Debug)]
struct Sketch {
    norm: f64,
    along: f64,
}

impl Sketch {
    fn of(gradient: &ArrayViewD<f32>) -> Self {
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let along = gradient.iter().enumerate().map(|(i, &g)| f64::from(g) * (i as f64).cos()).sum::<f64>();
        Self { norm, along: along / norm }
    }
}

fn read(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(format!("fixtures/zoo/{name}.gz")).unwrap_or_else(|e| panic!("{name}: {e}"));
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn model(name: &str) -> Model {
    Normalized::new(Model::decode(read(&format!("{name}.onnx")).into()).unwrap()).unwrap().model
}

/// `sin(i)` of the element's number.
fn images(side: usize) -> Array4<f32> {
    let values = (0..2 * 3 * side * side).map(|i| f64::from(i as u32).sin() as f32).collect();
    Array4::from_shape_vec((2, 3, side, side), values).unwrap()
}

fn one(images: &Array4<f32>) -> ArrayD<f32> {
    images.slice_axis(Axis(0), Slice::from(..1)).to_owned().into_dyn()
}

/// Sites, output and gradients.
fn check_float(architecture_name: &str, exporter: &str) {
    let name = format!("{architecture_name}_{exporter}");
    let model = model(&name);
    let graph = Graph::new(&model).unwrap();
    let plan = plan(&graph, &[]).unwrap();
    let (kinds, side) = architecture(architecture_name, exporter);
    let visible = |kind: &&str| !kind.starts_with('(');
    let found: Vec<&str> = plan.sites.iter().map(|site| site.kind.name()).collect();
    assert_eq!(found, kinds.split_whitespace().filter(visible).collect::<Vec<_>>(), "{name}");

    let mut golden: Golden = serde_json::from_slice(&read(&format!("{architecture_name}.json"))).unwrap();
    let mut of_site = kinds.split_whitespace();
    golden.sites.retain(|_| of_site.next().as_ref().is_some_and(visible));
    let outputs = outputs(&graph).unwrap();
    let taps: Vec<&str> = plan.sites.iter().map(|site| site.output.as_str()).collect();
    let shape = input_spec(&graph).unwrap().shape_for([3, side, side]).unwrap();
    let session = Session::new(&model, shape, &outputs.names, &taps).unwrap();
    let recorded = session.forward(one(&images(side)), &[]).unwrap();
    let values = recorded.outputs().unwrap();
    let largest = golden.output.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert_eq!(values[0].len(), golden.output.len(), "{name}");
    for (found, expected) in values[0].iter().zip(&golden.output) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= TOLERANCE * largest, "{name}: output {found}, PyTorch {expected}");
    }

    let wave = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i as f64).cos() as f32).collect();
        ArrayD::from_shape_vec(shape, values).unwrap()
    };
    let seeds = values.iter().map(|output| wave(output.shape()).insert_axis(Axis(0))).collect();
    assert_eq!(plan.sites.len(), golden.sites.len(), "{name}");
    let compare = |site: usize, gradients: &ArrayD<f32>| {
        let (found, expected) = (Sketch::of(&gradients.index_axis(Axis(0), 0)), &golden.sites[site]);
        // Exporters multiply by the scale of attention before the scores or after them.
        let same_norm = plan.sites[site].kind.name() == "scores"
            || (found.norm - expected.norm).abs() <= TOLERANCE * expected.norm;
        assert!(
            same_norm && (found.along - expected.along).abs() <= TOLERANCE,
            "{name} {}: {found:?}, PyTorch {expected:?}",
            plan.sites[site].name
        );
        Ok(())
    };
    recorded.gradients(seeds, &taps, compare).unwrap();
}

fn calibrated(model: &Model, plan: &Plan, side: usize) -> Calibration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    write_npy(&path, &images(side).into_dyn()).unwrap();
    let selection = Selection { limit: None, seed: 0 };
    let data = Dataset::open(&path, &Preprocess::timm_vit(side as u32), selection).unwrap();
    let options = Options { gradient: Gradient::Fisher(1), ..Options::new(Method::Ptq4vit) };
    calibrate(model, plan, &data, &options, Run::default(), &()).unwrap()
}

/// Through the whole pipeline: a file in either form that gives nearly what the float model gives.
fn check_quantized(architecture_name: &str, exporter: &str) {
    let name = format!("{architecture_name}_{exporter}");
    let model = model(&name);
    let graph = Graph::new(&model).unwrap();
    let plan = plan(&graph, &[]).unwrap();
    let (_, side) = architecture(architecture_name, exporter);
    let calibration = calibrated(&model, &plan, side);

    let run = |form| {
        let quantized = export(&model, &plan, &calibration, form).unwrap();
        let runner = Runner::new(&Model::decode(quantized.encode().into()).unwrap()).unwrap();
        assert_eq!(runner.sites().len(), plan.sites.len(), "{name}");
        let image: Array4<f32> = one(&images(side)).into_dimensionality().unwrap();
        let output = runner.run(&image.view()).unwrap();
        assert_eq!(output, runner.run_sites(&image.view()).unwrap().0, "{name}: fused and site by site");
        let profile = runner.profile(&image.view()).unwrap();
        let nodes = |wanted: fn(&str) -> bool| -> usize {
            profile.iter().filter(|time| wanted(&time.operator)).map(|time| time.nodes).sum()
        };
        let scores = plan.sites.iter().filter(|site| site.kind == SiteKind::Scores).count();
        assert_eq!(nodes(|op| op == "Attention"), scores, "{name}: every attention is one node");
        assert_eq!(nodes(|op| op.contains("Softmax")) + scores, softmaxes(&graph), "{name}");
        output
    };
    let quantized = run(TwinForm::Function);
    assert_eq!(quantized, run(TwinForm::Inline), "{name}");
    let output = &outputs(&graph).unwrap().names[..1];
    let float = FloatModel::new(&model, [1, 3, side, side], output).unwrap();
    let expected = float.run(one(&images(side))).unwrap().remove(0);
    let sqnr = Sqnr::of(&expected, &quantized).db().unwrap();
    assert!(sqnr > 20.0, "{name}: {sqnr} dB");
}

/// FLOAT16 and BFLOAT16 models: the same sites, nearly the same output, and the same types at the border.
#[test]
fn half_precision_keeps_the_types_of_its_border() {
    for (name, expected) in [("vit_half17", DataType::Float16), ("vit_bfloat23", DataType::Bfloat16)] {
        let original = Model::decode(read(&format!("{name}.onnx")).into()).unwrap();
        let border = |model: &Model| {
            let graph = Graph::new(model).unwrap();
            let [input, output] = [&model.graph().input[0], &model.graph().output[0]];
            [input, output].map(|info| graph.data_type(info.name()).unwrap())
        };
        assert_eq!(border(&original), [expected; 2], "{name}");

        let normalized = Normalized::new(original).unwrap();
        let graph = Graph::new(&normalized.model).unwrap();
        assert_eq!(border(&normalized.model), [DataType::Float; 2], "{name}");
        let plan = plan(&graph, &[]).unwrap();
        let kinds: Vec<&str> = plan.sites.iter().map(|site| site.kind.name()).collect();
        let (wanted, side) = architecture("vit", name);
        assert_eq!(kinds, wanted.split_whitespace().collect::<Vec<_>>(), "{name}");

        let calibration = calibrated(&normalized.model, &plan, side);
        let mut quantized = export(&normalized.model, &plan, &calibration, TwinForm::Function).unwrap();
        normalized.restore_types(&mut quantized).unwrap();
        let quantized = Model::decode(quantized.encode().into()).unwrap();
        assert_eq!(border(&quantized), [expected; 2], "{name}");
        let runner = Runner::new(&quantized).unwrap();
        for (found, site) in runner.sites().iter().zip(&plan.sites) {
            assert_eq!(found.output, site.output, "{name}: layers are compared by name");
        }
        let found = runner.run(&one(&images(side)).view().into_dimensionality().unwrap()).unwrap();
        let golden: Golden = serde_json::from_slice(&read("vit.json")).unwrap();
        let expected: Vec<f32> = golden.output.iter().map(|&x| x as f32).collect();
        let sqnr = Sqnr::of(&expected, &found).db().unwrap();
        assert!(sqnr > 20.0, "{name}: {sqnr} dB");
    }
}

fn softmaxes(graph: &Graph) -> usize {
    graph.nodes().filter(|(_, node)| node.is_op("Softmax")).count()
}

macro_rules! architectures {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn float() {
                for exporter in super::EXPORTERS {
                    super::check_float(stringify!($name), exporter);
                }
            }

            #[test]
            fn quantized() {
                for exporter in super::EXPORTERS {
                    super::check_quantized(stringify!($name), exporter);
                }
            }
        }
    )*};
}

architectures! {
    vit deit_distilled swin hf_vit hf_deit hf_swin hf_beit hf_dinov2 hf_dinov2_swiglu hf_clip hf_siglip
}
