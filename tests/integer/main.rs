//! Whole files of one site on the integer runner, against their own nodes evaluated in floats.

#[path = "../common/mod.rs"]
mod common;
mod interpreter;
mod recipes;
mod refusals;

use common::{quantized_output, runner, sites};
use interpreter::interpret;
use ndarray::{Array4, ArrayD, Axis, s};
use onnx_ptq4vit::engine::{Engine as _, Tapped};
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::onnx::{Model, ModelProto};
use onnx_ptq4vit::prepare::Prepared;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recipes::{File, HEADS, SIZE};

/// Of float sums against one integer sum, relative to the largest result.
const TOLERANCE: f32 = 1e-6;

fn images(count: usize, range: std::ops::Range<f32>) -> Array4<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    Array4::from_shape_simple_fn((count, HEADS, SIZE, SIZE), || rng.random_range(range.clone()))
}

fn run(model: ModelProto, x: &Array4<f32>) -> ArrayD<f32> {
    quantized_output(&Model::new(model).unwrap(), &x.view())
}

/// The integer runner and the file's own nodes agree, and the reader finds `op` with `k` bits.
#[track_caller]
fn check(model: ModelProto, range: std::ops::Range<f32>, op: &str, k: u32) -> ArrayD<f32> {
    let x = images(2, range);
    let model = Model::new(model).unwrap();
    let found = sites(&model).unwrap();
    let [site] = &found[..] else { panic!("{} sites", found.len()) };
    assert_eq!((site.op, u32::from(site.a_bits.get()), u32::from(site.b_bits.get())), (op, k, k));
    assert_eq!((&site.inputs[0][..], &site.output[..]), ("x", "y"));
    let output = quantized_output(&model, &x.view());
    let expected = interpret(&model, &x.into_dyn());
    assert_eq!(output.shape(), expected.shape());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let difference = (&output - &expected).iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(largest > 0.0 && difference <= TOLERANCE * largest, "{op}, k = {k}: {difference} of {largest}");
    output
}

#[test]
fn linear_layers_agree_with_their_nodes() {
    for k in 2..=8 {
        for per_column in [false, true] {
            check(File::new(1).linear(k, per_column), -1.5..1.5, "MatMul", k);
        }
    }
}

#[test]
fn outliers_are_added_in_float() {
    for (site, op, range) in [
        (File::new(1).linear(6, true), "MatMul", -1.5..1.5),
        (File::new(1).twin_gelu(6, 3, false, false), "TwinGeluMatMul", -0.2..1.0),
    ] {
        let plain = check(site.clone(), range.clone(), op, 6);
        let with = recipes::with_outliers(site);
        assert_eq!(sites(&Model::new(with.clone()).unwrap()).unwrap()[0].outliers, [4, 1]);
        assert_ne!(check(with, range, op, 6), plain);
    }
    let function = recipes::with_outliers(File::new(1).twin_gelu(6, 3, true, false));
    let inline = recipes::with_outliers(File::new(1).twin_gelu(6, 3, false, false));
    assert_eq!(run(function, &images(2, -0.2..1.0)), run(inline, &images(2, -0.2..1.0)));
}

#[test]
fn patch_convolutions_agree_with_their_nodes() {
    check(File::new(1).conv(), -1.5..1.5, "Conv", 8);
}

#[test]
fn products_of_heads_agree_with_their_nodes() {
    for k in 2..=8 {
        check(File::new(1).scores(k), -1.5..1.5, "MatMul", k);
    }
}

#[test]
fn post_gelu_twins_agree_with_their_nodes_in_both_forms() {
    let range = || -0.2..1.0;
    for (k, shift) in (2..=8).flat_map(|k| [0, 3, 9].map(|shift| (k, shift))) {
        for per_column in [false, true] {
            let inline =
                check(File::new(1).twin_gelu(k, shift, false, per_column), range(), "TwinGeluMatMul", k);
            let function = run(File::new(1).twin_gelu(k, shift, true, per_column), &images(2, range()));
            assert_eq!(function, inline, "k = {k}, m = {shift}");
        }
    }
}

#[test]
fn post_softmax_twins_agree_with_their_nodes_in_both_forms() {
    for (k, step) in (2..=8).flat_map(|k| [0, 5, 8].map(|step| (k, step))) {
        let inline = check(File::new(1).twin_softmax(k, step, false), 0.0..1.0, "TwinSoftmaxMatMul", k);
        let function = run(File::new(1).twin_softmax(k, step, true), &images(2, 0.0..1.0));
        assert_eq!(function, inline, "k = {k}, step {step}");
    }
}

#[test]
fn functions_and_their_bodies_are_the_same_sites() {
    let found = |model| sites(&Model::new(model).unwrap()).unwrap();
    assert_eq!(
        found(File::new(1).twin_gelu(6, 3, true, true)),
        found(File::new(1).twin_gelu(6, 3, false, true))
    );
    assert_eq!(found(File::new(1).twin_softmax(6, 1, true)), found(File::new(1).twin_softmax(6, 1, false)));
}

#[test]
fn each_image_has_its_result_on_any_number_of_threads() {
    let runner = runner(&Model::new(File::new(1).twin_softmax(8, 2, true)).unwrap()).unwrap();
    assert_eq!(runner.input_shape(), [1, HEADS, SIZE, SIZE]);
    let x = images(5, 0.0..1.0);
    let together = runner.run(&x.view()).unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| runner.run(&x.view())).unwrap(), together, "{threads} threads");
    }
    for i in 0..5 {
        let alone = runner.run(&x.slice(s![i..=i, .., .., ..])).unwrap();
        assert_eq!(alone.index_axis(Axis(0), 0), together.index_axis(Axis(0), i), "image {i}");
    }
}

#[test]
fn recorded_sites_are_those_of_the_run() {
    let runner = runner(&Model::new(File::new(1).twin_softmax(8, 2, false)).unwrap()).unwrap();
    let x = images(3, 0.0..1.0);
    let Tapped { output, values } = runner.run_tapped(&x.view(), &["y", "x", "v"]).unwrap();
    assert_eq!(output, runner.run(&x.view()).unwrap());
    assert_eq!(runner.sites()[0].inputs, ["x", "v"]);
    assert_eq!(runner.sites().len(), 1);
    assert_eq!(values[0], output);
    assert_eq!(values[1], x.view().into_dyn());
    assert!(runner.run_tapped(&x.view(), &["p_lo_dq"]).unwrap_err().to_string().contains("`p_lo_dq`"));
    assert_eq!(values[2], x.mapv(|x| x - 0.5).permuted_axes([0, 1, 3, 2]).into_dyn());
}

#[test]
fn images_must_fit() {
    let runner = runner(&Model::new(File::new(1).linear(8, false)).unwrap()).unwrap();
    assert!(runner.run(&Array4::zeros((1, HEADS, SIZE, SIZE + 1)).view()).is_err());
    assert!(runner.run(&Array4::zeros((0, HEADS, SIZE, SIZE)).view()).is_err());
    let model = Prepared::new(Model::new(File::new(1).linear(8, false)).unwrap()).unwrap();
    assert!(Runner::with_image(&model, [HEADS, SIZE, SIZE]).is_ok());
    assert!(Runner::with_image(&model, [HEADS, SIZE, 8]).is_err());
}
