//! From a float file and images to a quantized file and its accuracy, on the trained fixture.

mod common;

use common::{
    Planned, digits_calib, digits_test, fixture, float_output, kinds, options, quantized, quantized_output,
};
use ndarray::ArrayD;
use onnx_ptq4vit::calibrate::{Calibration, Options, Preset, WeightScales};
use onnx_ptq4vit::export::{TwinForm, export, pack};
use onnx_ptq4vit::onnx::Model;
use onnx_ptq4vit::plan::{LhsSource, RhsOperand};

const EXPORTS: &[&str] = &["ts13", "ts17", "dynamo18", "dynamo20", "tanh17", "outlier17"];

fn calibrated(of: &Planned, options: &Options) -> Calibration {
    common::calibrated(of, &digits_calib(16), options)
}

fn classes(logits: &ArrayD<f32>) -> Vec<usize> {
    let best =
        |row: ndarray::ArrayView1<f32>| (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    logits.rows().into_iter().map(best).collect()
}

/// (share of images on which float and quantized agree, accuracy of float, accuracy of quantized).
fn accuracy(of: &Planned, quantized: &Model) -> (f64, f64, f64) {
    let test = digits_test(None);
    let images = test.batch(0..test.len()).unwrap();
    let float = classes(&float_output(of, &images.view()).unwrap());
    let quantized = classes(&quantized_output(quantized, &images.view()));
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
            let fixture = fixture(&name);
            assert_eq!(kinds(&fixture), expected, "{name}");
            for site in &fixture.plan.sites {
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
            let fixture = fixture(&format!("digits_vit_{export_name}"));
            let calibration = calibrated(&fixture, &options(bits.0, bits.1));
            let quantized = quantized(&fixture, &calibration, TwinForm::Function);
            let (agreement, float, _) = accuracy(&fixture, &quantized);
            assert!(float >= 0.97, "{export_name}: the float model has {float}");
            assert!(agreement >= least_agreement, "{export_name} w{}a{}: {agreement}", bits.0, bits.1);
        }
    }
}

/// Windows, shifted windows with their masks, relative positions and patch merging.
#[test]
fn a_quantized_swin_classifies_as_the_float_model() {
    let fixture = fixture("digits_swin_dynamo18");
    assert_eq!(fixture.plan.sites.len(), 27);
    for (bits, least_agreement) in [((8, 8), 0.98), ((6, 6), 0.93)] {
        let calibration = calibrated(&fixture, &options(bits.0, bits.1));
        let quantized = quantized(&fixture, &calibration, TwinForm::Function);
        let (agreement, float, _) = accuracy(&fixture, &quantized);
        assert!(float >= 0.97, "the float model has {float}");
        assert!(agreement >= least_agreement, "w{}a{}: {agreement}", bits.0, bits.1);
    }
}

#[test]
fn twins_are_worth_their_price_at_four_bits() {
    let fixture = fixture("digits_vit_ts17");
    let share = |options: Options| {
        let calibration = calibrated(&fixture, &options);
        accuracy(&fixture, &quantized(&fixture, &calibration, TwinForm::Inline)).0
    };
    let with = share(options(4, 4));
    let without = share(Options { softmax_twin: false, gelu_twin: false, ..options(4, 4) });
    assert!(with > without, "agreement {with} with twins, {without} without");
}

#[test]
fn outlier_channels_stay_float_and_nothing_else_does() {
    let fixture = fixture("digits_vit_outlier17");
    let calibration = calibrated(&fixture, &Options { outliers: true, ..options(6, 6) });
    let quantized = quantized(&fixture, &calibration, TwinForm::Function);
    let of_site: Vec<(&str, &[usize])> = calibration
        .sites
        .iter()
        .filter(|site| !site.outliers.is_empty())
        .map(|site| (site.name.as_str(), site.outliers.as_slice()))
        .collect();
    let expected: [(&str, &[usize]); 2] =
        [("/blocks/blocks.0/mlp/fc1/MatMul", &[5]), ("/blocks/blocks.1/mlp/fc2/MatMul", &[5])];
    assert_eq!(of_site, expected);
    for site in common::sites(&quantized).unwrap() {
        assert_eq!(site.outliers, calibration.site(&site.name).unwrap().outliers, "{}", site.name);
    }

    let without = calibrated(&fixture, &Options { outliers: false, ..options(6, 6) });
    assert!(without.sites.iter().all(|site| site.outliers.is_empty()));
    let without = common::quantized(&fixture, &without, TwinForm::Function);
    let (with, without) = (accuracy(&fixture, &quantized).0, accuracy(&fixture, &without).0);
    assert!(with > without, "agreement {with} with float outliers, {without} without");
}

#[test]
fn all_twin_forms_and_all_switches_run_the_same_numbers() {
    let fixture = fixture("digits_vit_ts17");
    let images = digits_test(Some(8)).batch(0..8).unwrap();
    let base = Options::new(Preset::Base);
    let per_channel = Options { weights: WeightScales::PerChannel, ..options(6, 5) };
    let one_twin = Options { softmax_twin: false, ..options(8, 8) };
    for options in [options(8, 8), options(2, 3), per_channel, one_twin, base] {
        let calibration = calibrated(&fixture, &options);
        let run = |form| quantized_output(&quantized(&fixture, &calibration, form), &images.view());
        let function = run(TwinForm::Function);
        for form in [TwinForm::Inline, TwinForm::Int8] {
            assert_eq!(function, run(form), "{form:?} {options:?}");
        }
    }
}

#[test]
fn packed_weights_run_the_same_numbers_in_a_smaller_file() {
    let fixture = fixture("digits_vit_ts17");
    let images = digits_test(Some(8)).batch(0..8).unwrap();
    for bits in [2, 4, 6] {
        let calibration = calibrated(&fixture, &options(bits, 8));
        let weights: usize = fixture
            .plan
            .sites
            .iter()
            .map(|site| match &site.b {
                RhsOperand::Weight { .. } => site.weight(fixture.model.graph()).unwrap().len(),
                RhsOperand::Activation { .. } => 0,
            })
            .sum();
        for form in [TwinForm::Function, TwinForm::Inline] {
            let plain = quantized(&fixture, &calibration, form);
            let packed = Model::decode(pack(plain.clone()).unwrap().encode().into()).unwrap();
            let gain = plain.encode().len() - packed.encode().len();
            let ideal = weights * usize::from(8 - bits) / 8;
            assert!(gain > ideal * 3 / 5, "{bits} bits: {gain} of {ideal} bytes saved");
            let run = |model| quantized_output(model, &images.view());
            assert_eq!(run(&plain), run(&packed), "{bits} bits, {form:?}");
        }
    }
}

#[test]
fn the_reader_finds_the_quantizers_that_were_written() {
    let fixture = fixture("digits_vit_dynamo20");
    for k in 2..=8 {
        let calibration = calibrated(&fixture, &options(8, k));
        for form in [TwinForm::Function, TwinForm::Inline, TwinForm::Int8] {
            let quantized = quantized(&fixture, &calibration, form);
            let sites = common::sites(&quantized).unwrap();
            assert_eq!(sites.len(), fixture.plan.sites.len());
            for (found, site) in sites.iter().zip(&fixture.plan.sites) {
                let written = calibration.site(&site.name).unwrap();
                assert_eq!(found.name, site.name);
                assert_eq!(found.a, written.a, "k={k} {form:?} {}", site.name);
            }
        }
    }
}

#[test]
fn the_same_bytes_come_out_on_any_number_of_threads() {
    let fixture = fixture("digits_vit_ts17");
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let calibration = calibrated(&fixture, &options(6, 6));
            quantized(&fixture, &calibration, TwinForm::Function).encode()
        })
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(5), "the file depends on the number of threads");
}

#[test]
fn a_saved_calibration_writes_the_same_file_and_fits_no_other_model() {
    let fixture = fixture("digits_vit_ts17");
    let calibration = calibrated(&fixture, &options(8, 8));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scales.json");
    calibration.write(&path).unwrap();
    let read = Calibration::read(&path).unwrap();
    assert_eq!(read, calibration);
    let broken = std::fs::read_to_string(&path).unwrap().replacen("\"shift\": ", "\"shift\": 2", 1);
    std::fs::write(&path, broken).unwrap();
    assert!(Calibration::read(&path).unwrap_err().to_string().contains("shift 2"));
    let other = common::fixture("digits_vit_tanh17");
    let error = export(&other.model, &other.plan, &read, TwinForm::Function).unwrap_err();
    assert_eq!(error.to_string(), "calibration: it was made for another model");
}

/// The structure of one block as it is written; the numbers, which depend on the last bit of float sums, are left out.
#[test]
fn an_emitted_block_looks_so() {
    let fixture = fixture("digits_vit_ts17");
    let calibration = calibrated(&fixture, &options(8, 8));
    let forms = [("function", TwinForm::Function), ("inline", TwinForm::Inline), ("int8", TwinForm::Int8)];
    for (name, form) in forms {
        let text = common::dump::dump(&quantized(&fixture, &calibration, form));
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
