//! From a float file and images to a quantized file and its accuracy, on the trained fixture.

use std::path::Path;

use ndarray::{ArrayD, Axis};
use onnx_ptq4vit::calibrate::{Calibration, Method, Options, Run, WeightScales, calibrate};
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
use onnx_ptq4vit::export::{TwinForm, export};
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::onnx::{Graph, Model, dump};
use onnx_ptq4vit::plan::{LhsSource, Plan, plan};
use onnx_ptq4vit::quant::Bits;
use onnx_ptq4vit::session::FloatModel;

const EXPORTS: &[&str] = &["ts13", "ts17", "dynamo18", "dynamo20", "tanh17", "outlier17"];

fn data(name: &str, limit: Option<usize>) -> Dataset {
    let path = format!("fixtures/{name}.npz");
    Dataset::open(path.as_ref(), &Preprocess::timm_vit(8), Selection { limit, seed: 0 }).unwrap()
}

fn fixture(name: &str) -> (Model, Plan) {
    let model = Model::read(Path::new(&format!("fixtures/{name}.onnx"))).unwrap();
    let plan = plan(&Graph::new(&model).unwrap(), &[]).unwrap();
    (model, plan)
}

fn options(weight_bits: u8, activation_bits: u8) -> Options {
    let bits = |k| Bits::new(k).unwrap();
    Options {
        weight_bits: bits(weight_bits),
        activation_bits: bits(activation_bits),
        ..Options::new(Method::Ptq4vit)
    }
}

fn calibrated(model: &Model, plan: &Plan, options: &Options) -> Calibration {
    calibrate(model, plan, &data("digits_calib", Some(16)), options, Run::default(), &()).unwrap()
}

fn classes(logits: &ArrayD<f32>) -> Vec<usize> {
    let best =
        |row: ndarray::ArrayView1<f32>| (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    logits.rows().into_iter().map(best).collect()
}

/// (share of images on which float and quantized agree, accuracy of float, accuracy of quantized).
fn accuracy(model: &Model, quantized: &Model) -> (f64, f64, f64) {
    let test = data("digits_test", None);
    let images = test.batch(0..test.len()).unwrap();
    let output = model.graph().output[0].name().to_string();
    let float = FloatModel::new(model, [1, 3, 8, 8], &[output]).unwrap();
    let logits: Vec<ArrayD<f32>> = images
        .axis_iter(Axis(0))
        .map(|p| float.run(p.insert_axis(Axis(0)).to_owned().into_dyn()).unwrap().remove(0))
        .collect();
    let views: Vec<_> = logits.iter().map(|l| l.view()).collect();
    let float = classes(&ndarray::concatenate(Axis(0), &views).unwrap());
    let quantized = classes(&Runner::new(quantized).unwrap().run(&images.view()).unwrap());
    let labels: Vec<usize> = test.labels.unwrap().iter().map(|&l| l as usize).collect();
    let share =
        |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
    (share(&float, &quantized), share(&float, &labels), share(&quantized, &labels))
}

#[test]
fn every_exporter_has_the_same_sites() {
    let block = ["qkv", "scores", "values", "proj", "fc1", "fc2"];
    for (depth, names) in [
        (2, EXPORTS.iter().map(|e| format!("digits_vit_{e}")).collect::<Vec<_>>()),
        (12, vec!["depth12_ts17".into(), "depth12_dynamo18".into()]),
    ] {
        let expected: Vec<&str> = ["patch"]
            .into_iter()
            .chain(std::iter::repeat_n(block, depth).flatten())
            .chain(["head"])
            .collect();
        for name in names {
            let (_, plan) = fixture(&name);
            let kinds: Vec<&str> = plan.sites.iter().map(|site| site.kind.name()).collect();
            assert_eq!(kinds, expected, "{name}");
            for site in &plan.sites {
                match site.kind.name() {
                    "values" => assert_eq!(site.a_kind, LhsSource::Softmax, "{name} {}", site.name),
                    "fc2" => {
                        assert!(matches!(site.a_kind, LhsSource::Activation(_)), "{name} {}", site.name);
                    }
                    _ => assert_eq!(site.a_kind, LhsSource::Plain, "{name} {}", site.name),
                }
            }
        }
    }
}

#[test]
fn quantized_models_classify_as_the_float_model() {
    for (bits, least_agreement) in [((8, 8), 0.98), ((6, 6), 0.93), ((4, 8), 0.85)] {
        for export_name in EXPORTS {
            let (model, plan) = fixture(&format!("digits_vit_{export_name}"));
            let calibration = calibrated(&model, &plan, &options(bits.0, bits.1));
            let quantized = export(&model, &plan, &calibration, TwinForm::Function).unwrap();
            let (agreement, float, _) = accuracy(&model, &quantized);
            assert!(float >= 0.97, "{export_name}: the float model has {float}");
            assert!(agreement >= least_agreement, "{export_name} w{}a{}: {agreement}", bits.0, bits.1);
        }
    }
}

/// Windows, shifted windows with their masks, relative positions and patch merging.
#[test]
fn a_quantized_swin_classifies_as_the_float_model() {
    let (model, plan) = fixture("digits_swin_dynamo18");
    assert_eq!(plan.sites.len(), 27);
    for (bits, least_agreement) in [((8, 8), 0.98), ((6, 6), 0.93)] {
        let calibration = calibrated(&model, &plan, &options(bits.0, bits.1));
        let quantized = export(&model, &plan, &calibration, TwinForm::Function).unwrap();
        let (agreement, float, _) = accuracy(&model, &quantized);
        assert!(float >= 0.97, "the float model has {float}");
        assert!(agreement >= least_agreement, "w{}a{}: {agreement}", bits.0, bits.1);
    }
}

#[test]
fn twins_are_worth_their_price_at_four_bits() {
    let (model, plan) = fixture("digits_vit_ts17");
    let share = |options: Options| {
        let calibration = calibrated(&model, &plan, &options);
        accuracy(&model, &export(&model, &plan, &calibration, TwinForm::Inline).unwrap()).0
    };
    let with = share(options(4, 4));
    let without = share(Options { softmax_twin: false, gelu_twin: false, ..options(4, 4) });
    assert!(with > without, "agreement {with} with twins, {without} without");
}

#[test]
fn outlier_channels_stay_float_and_nothing_else_does() {
    let (model, plan) = fixture("digits_vit_outlier17");
    let calibration = calibrated(&model, &plan, &options(6, 6));
    let quantized = export(&model, &plan, &calibration, TwinForm::Function).unwrap();
    let of_site: Vec<(&str, &[usize])> = calibration
        .sites
        .iter()
        .filter(|site| !site.outliers.is_empty())
        .map(|site| (site.name.as_str(), site.outliers.as_slice()))
        .collect();
    let expected: [(&str, &[usize]); 2] =
        [("/blocks/blocks.0/mlp/fc1/MatMul", &[5]), ("/blocks/blocks.1/mlp/fc2/MatMul", &[5])];
    assert_eq!(of_site, expected);
    for site in onnx_ptq4vit::integer::sites(&quantized).unwrap() {
        assert_eq!(site.outliers, calibration.site(&site.name).unwrap().outliers, "{}", site.name);
    }

    let without = calibrated(&model, &plan, &Options { outliers: false, ..options(6, 6) });
    assert!(without.sites.iter().all(|site| site.outliers.is_empty()));
    let without = export(&model, &plan, &without, TwinForm::Function).unwrap();
    let (with, without) = (accuracy(&model, &quantized).0, accuracy(&model, &without).0);
    assert!(with > without, "agreement {with} with float outliers, {without} without");
}

#[test]
fn both_twin_forms_and_all_switches_run_the_same_numbers() {
    let (model, plan) = fixture("digits_vit_ts17");
    let images = data("digits_test", Some(8));
    let images = images.batch(0..8).unwrap();
    let base = Options::new(Method::Base);
    let per_channel = Options { weights: WeightScales::PerChannel, ..options(6, 5) };
    let one_twin = Options { softmax_twin: false, ..options(8, 8) };
    for options in [options(8, 8), options(2, 3), per_channel, one_twin, base] {
        let calibration = calibrated(&model, &plan, &options);
        let run = |form| {
            let quantized = export(&model, &plan, &calibration, form).unwrap();
            // Through bytes: what is run is what a file would hold.
            let quantized = Model::decode(quantized.encode().into()).unwrap();
            Runner::new(&quantized).unwrap().run(&images.view()).unwrap()
        };
        assert_eq!(run(TwinForm::Function), run(TwinForm::Inline), "{options:?}");
    }
}

#[test]
fn the_reader_finds_the_quantizers_that_were_written() {
    let (model, plan) = fixture("digits_vit_dynamo20");
    for k in 2..=8 {
        let calibration = calibrated(&model, &plan, &options(8, k));
        for form in [TwinForm::Function, TwinForm::Inline] {
            let quantized = export(&model, &plan, &calibration, form).unwrap();
            let sites = onnx_ptq4vit::integer::sites(&quantized).unwrap();
            assert_eq!(sites.len(), plan.sites.len());
            for (found, site) in sites.iter().zip(&plan.sites) {
                let written = calibration.site(&site.name).unwrap();
                assert_eq!(found.name, site.name);
                assert_eq!(found.a, written.a, "k={k} {form:?} {}", site.name);
            }
        }
    }
}

#[test]
fn the_same_bytes_come_out_on_any_number_of_threads() {
    let (model, plan) = fixture("digits_vit_ts17");
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let calibration = calibrated(&model, &plan, &options(6, 6));
            export(&model, &plan, &calibration, TwinForm::Function).unwrap().encode()
        })
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(5), "the file depends on the number of threads");
}

#[test]
fn a_saved_calibration_writes_the_same_file_and_fits_no_other_model() {
    let (model, plan) = fixture("digits_vit_ts17");
    let calibration = calibrated(&model, &plan, &options(8, 8));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scales.json");
    calibration.write(&path).unwrap();
    let read = Calibration::read(&path).unwrap();
    assert_eq!(read, calibration);
    let broken = std::fs::read_to_string(&path).unwrap().replacen("\"shift\": ", "\"shift\": 2", 1);
    std::fs::write(&path, broken).unwrap();
    assert!(Calibration::read(&path).unwrap_err().to_string().contains("shift 2"));
    let (other, other_plan) = fixture("digits_vit_tanh17");
    let error = export(&other, &other_plan, &read, TwinForm::Function).unwrap_err();
    assert_eq!(error.to_string(), "calibration: it was made for another model");
}

/// The structure of one block as it is written; the numbers, which depend on the last bit of float sums, are left out.
#[test]
fn an_emitted_block_looks_so() {
    let (model, plan) = fixture("digits_vit_ts17");
    let calibration = calibrated(&model, &plan, &options(8, 8));
    for (name, form) in [("function", TwinForm::Function), ("inline", TwinForm::Inline)] {
        let text = dump(&export(&model, &plan, &calibration, form).unwrap());
        let of_block = |line: &&str| {
            line.contains("blocks.0")
                && line.contains(" = ")
                && ["_ptq", "ai.ptq4vit"].iter().any(|new| line.contains(new))
        };
        let without_attributes = |line: &str| {
            let (before, after) = line.split_once('<').unwrap_or((line, ""));
            let after = after.rsplit_once('>').map_or("", |(_, after)| after);
            format!("{before}{after}").trim().to_string()
        };
        let lines: Vec<String> = text.lines().filter(of_block).map(without_attributes).collect();
        insta::assert_snapshot!(format!("block_{name}"), lines.join("\n"));
    }
}
