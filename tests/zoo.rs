//! A small model of every architecture by every exporter (`scripts/make_zoo.py`): its sites, its output and gradients
//! against `PyTorch`, and the way through calibration, export and the integer runner.

mod common;

use std::fs::File;
use std::io::Read as _;

use common::{Planned, dataset, float_output, kinds, planned, quantized, runner, session, taps};
use flate2::read::GzDecoder;
use ndarray::{Array4, ArrayD, ArrayViewD, Axis, Slice};
use onnx_ptq4vit::calibrate::{Calibration, Gradient, Options, Preset};
use onnx_ptq4vit::check::Sqnr;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::engine::Engine as _;
use onnx_ptq4vit::export::TwinForm;
use onnx_ptq4vit::kernel;
use onnx_ptq4vit::onnx::{DataType, Graph, Model};
use onnx_ptq4vit::plan::SiteKind;

const EXPORTERS: &[&str] = &["ts13", "ts17", "dynamo18", "dynamo20", "dynamo23"];
/// Against `PyTorch` in f64: relative to the largest output, and to the norm of a gradient.
const TOLERANCE: f64 = 1e-4;

/// The kinds of its sites, in order, and the side of its images; in parentheses what stays float, with a tilde what has its
/// axes in another order than in `PyTorch`.
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
        "hybrid" => {
            let convolutions = "(conv) linear (conv) fc2~ conv";
            let talking_heads = "qkv scores linear linear values proj";
            let attentions = "qkv scores values proj qkv product product linear";
            (format!("{convolutions} {talking_heads} {attentions} head"), 16)
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

fn original(name: &str) -> Model {
    Model::decode(read(&format!("{name}.onnx")).into()).unwrap()
}

fn model(name: &str) -> Planned {
    planned(original(name)).unwrap()
}

/// `sin(i)` of the element's number.
fn images(side: usize) -> Array4<f32> {
    let values = (0..2 * 3 * side * side).map(|i| f64::from(i as u32).sin() as f32).collect();
    Array4::from_shape_vec((2, 3, side, side), values).unwrap()
}

fn one(images: &Array4<f32>) -> Array4<f32> {
    images.slice_axis(Axis(0), Slice::from(..1)).to_owned()
}

/// Sites, output and gradients.
fn check_float(architecture_name: &str, exporter: &str) {
    let name = format!("{architecture_name}_{exporter}");
    let model = model(&name);
    let (wanted, side) = architecture(architecture_name, exporter);
    let visible = |kind: &&str| !kind.starts_with('(');
    let of_sites: Vec<&str> = wanted.split_whitespace().filter(visible).collect();
    let plain: Vec<&str> = of_sites.iter().map(|kind| kind.trim_end_matches('~')).collect();
    assert_eq!(kinds(&model), plain, "{name}");

    let mut golden: Golden = serde_json::from_slice(&read(&format!("{architecture_name}.json"))).unwrap();
    let mut of_site = wanted.split_whitespace();
    golden.sites.retain(|_| of_site.next().as_ref().is_some_and(visible));
    let session = session(&model, [3, side, side]).unwrap();
    let recorded = session.forward(one(&images(side)).into_dyn(), &[]).unwrap();
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
    let sites = &model.plan.sites;
    assert_eq!(sites.len(), golden.sites.len(), "{name}");
    let compare = |site: usize, gradients: &ArrayD<f32>| {
        let (found, expected) = (Sketch::of(&gradients.index_axis(Axis(0), 0)), &golden.sites[site]);
        // Exporters multiply by the scale of attention before the scores or after them.
        let same_norm = sites[site].kind == SiteKind::Scores
            || (found.norm - expected.norm).abs() <= TOLERANCE * expected.norm;
        let same_direction =
            of_sites[site].ends_with('~') || (found.along - expected.along).abs() <= TOLERANCE;
        assert!(same_norm && same_direction, "{name} {}: {found:?}, PyTorch {expected:?}", sites[site].name);
        Ok(())
    };
    recorded.gradients(seeds, &taps(&model), compare).unwrap();
}

fn calibrated(model: &Planned, side: usize) -> Calibration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    write_npy(&path, &images(side).into_dyn()).unwrap();
    let options = Options { gradient: Gradient::Fisher(1), ..Options::new(Preset::Best) };
    common::calibrated(model, &dataset(&path, side as u32, None), &options)
}

/// Through the whole pipeline: a file in either form that gives nearly what the float model gives.
fn check_quantized(architecture_name: &str, exporter: &str) {
    let name = format!("{architecture_name}_{exporter}");
    let model = model(&name);
    let (_, side) = architecture(architecture_name, exporter);
    let calibration = calibrated(&model, side);
    let image = one(&images(side));

    let run = |form| {
        let runner = runner(&quantized(&model, &calibration, form)).unwrap();
        assert_eq!(runner.sites().len(), model.plan.sites.len(), "{name}");
        let output = runner.run(&image.view()).unwrap();
        let first = &*model.plan.sites[0].output;
        let tapped = runner.run_tapped(&image.view(), &[first]).unwrap();
        assert_eq!(output, tapped.output, "{name}: fused and site by site");
        let profile = runner.profile(&image.view()).unwrap();
        let nodes = |wanted: fn(&str) -> bool| -> usize {
            profile.iter().filter(|time| wanted(&time.operator)).map(|time| time.nodes).sum()
        };
        let scores = model.plan.sites.iter().filter(|site| site.kind == SiteKind::Scores).count();
        // Talking heads have linear layers between scores and values, and channels are no rows of what a projection makes.
        let whole = if architecture_name == "hybrid" { 0 } else { scores };
        assert_eq!(nodes(|op| op == "Attention"), whole, "{name}: every attention is one node");
        assert_eq!(nodes(|op| op.contains("Softmax")) + whole, softmaxes(model.model.model()), "{name}");
        // What is between convolutions is no row; a gate is multiplied with its activation before the next layer.
        let gated = ["hybrid", "hf_dinov2_swiglu"].contains(&architecture_name);
        let mlps = model.plan.sites.iter().filter(|site| site.kind == SiteKind::Fc2).count();
        let bytes = kernel::best().byte_layout().is_some();
        let expected = if gated || !bytes { 0 } else { mlps };
        assert_eq!(nodes(|op| op.matches("Linear").count() == 2), expected, "{name}: every MLP is one node");
        let pieces = nodes(|op| ["Erf", "Tanh", "Sigmoid"].contains(&op));
        assert_eq!(pieces, 0, "{name}: activations are one operator");
        output
    };
    let found = run(TwinForm::Function);
    assert_eq!(found, run(TwinForm::Inline), "{name}");
    assert_eq!(found, run(TwinForm::Int8), "{name}");
    let sqnr = Sqnr::of(&float_output(&model, &image.view()).unwrap(), &found).db().unwrap();
    assert!(sqnr > 20.0, "{name}: {sqnr} dB");
}

/// FLOAT16 and BFLOAT16 models: the same sites, nearly the same output, and the same types at the border.
#[test]
fn half_precision_keeps_the_types_of_its_border() {
    for (name, expected) in [("vit_half17", DataType::Float16), ("vit_bfloat23", DataType::Bfloat16)] {
        let original = original(name);
        let border = |model: &Model| {
            let graph = Graph::new(model.clone()).unwrap();
            let [input, output] = [&model.graph().input[0], &model.graph().output[0]];
            [input, output].map(|info| graph.data_type(info.name()).unwrap())
        };
        assert_eq!(border(&original), [expected; 2], "{name}");

        let model = planned(original).unwrap();
        assert_eq!(border(model.model.model()), [DataType::Float; 2], "{name}");
        let (wanted, side) = architecture("vit", name);
        assert_eq!(kinds(&model), wanted.split_whitespace().collect::<Vec<_>>(), "{name}");

        let calibration = calibrated(&model, side);
        let quantized = quantized(&model, &calibration, TwinForm::Function);
        assert_eq!(border(&quantized), [expected; 2], "{name}");
        let runner = runner(&quantized).unwrap();
        for (found, site) in runner.sites().iter().zip(&model.plan.sites) {
            assert_eq!(found.output, site.output, "{name}: sites are compared by name");
        }
        let found = runner.run(&one(&images(side)).view()).unwrap();
        let golden: Golden = serde_json::from_slice(&read("vit.json")).unwrap();
        let expected: Vec<f32> = golden.output.iter().map(|&x| x as f32).collect();
        let sqnr = Sqnr::of(&expected, &found).db().unwrap();
        assert!(sqnr > 20.0, "{name}: {sqnr} dB");
    }
}

fn softmaxes(model: &Model) -> usize {
    model.graph().node.iter().filter(|node| node.is_op("Softmax")).count()
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
    hybrid
}
