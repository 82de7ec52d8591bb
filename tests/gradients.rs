//! Whole-model gradients against torch autograd (`scripts/golden.py`), for every exporter's file of one model.

mod common;

use std::fs::File;

use common::{fixture, session, taps};
use ndarray::{ArrayD, ArrayViewD, Axis, stack};
use ndarray_npy::NpzReader;
use onnx_ptq4vit::calibrate::loss;

/// Against gradients computed in f64: relative to the largest of the tensor.
const GRADIENT_TOLERANCE: f32 = 1e-4;
const LOGIT_TOLERANCE: f32 = 1e-5;

fn golden() -> impl FnMut(&str) -> ArrayD<f32> {
    let mut npz = NpzReader::new(File::open("fixtures/digits_vit_golden.npz").unwrap()).unwrap();
    move |name| npz.by_name(name).or_else(|_| npz.by_name(&format!("{name}.npy"))).unwrap()
}

/// The golden names of the sites, in order.
fn site_names(blocks: usize) -> Vec<String> {
    let block = |i| ["qkv", "qk", "pv", "proj", "fc1", "fc2"].map(|site| format!("blocks.{i}.{site}"));
    let blocks = (0..blocks).flat_map(block);
    std::iter::once("patch".into()).chain(blocks).chain(["head".into()]).collect()
}

fn largest_difference(a: &ArrayViewD<f32>, b: &ArrayViewD<f32>) -> (f32, f32) {
    let b = b.to_shape(a.shape()).expect("the same shape but for axes of one");
    let difference = a.iter().zip(b.iter()).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    (difference, b.iter().fold(0f32, |m, x| m.max(x.abs())))
}

fn check(file: &str) {
    let fixture = fixture(file);
    let names = site_names(2);
    let taps = taps(&fixture);
    assert_eq!(taps.len(), names.len(), "{file}");
    let session = session(&fixture, [3, 8, 8]).unwrap();

    let mut calib = NpzReader::new(File::open("fixtures/digits_calib.npz").unwrap()).unwrap();
    let images: ArrayD<f32> = calib.by_name("images").or_else(|_| calib.by_name("images.npy")).unwrap();
    let mut golden = golden();
    for image in 0..2 {
        let input = images.index_axis(Axis(0), image).insert_axis(Axis(0)).to_owned();
        let recorded = session.forward(input, &[]).unwrap();
        let logits = recorded.outputs().unwrap()[0].to_owned();
        let expected = golden("logits");
        let expected = expected.index_axis(Axis(0), image).insert_axis(Axis(0));
        let (difference, largest) = largest_difference(&logits.view(), &expected);
        assert!(difference <= LOGIT_TOLERANCE * largest, "{file}: logits differ by {difference}");

        let signs = golden("fisher_v").index_axis(Axis(0), image).insert_axis(Axis(0)).to_owned();
        let seeds = [
            ("ce", loss::pseudo_label(&logits.view(), Axis(1))),
            ("fisher", loss::fisher(&logits.view(), &signs, Axis(1))),
        ];
        let losses = seeds.each_ref().map(|(loss, _)| *loss);
        let seeds = stack(Axis(0), &seeds.each_ref().map(|(_, seed)| seed.view())).unwrap();
        let mut found = 0;
        let compare = |site: usize, gradients: &ArrayD<f32>| {
            found += 1;
            for (loss, gradient) in losses.iter().zip(gradients.outer_iter()) {
                let name = format!("{loss}/{}", names[site]);
                let expected = golden(&name);
                let expected = expected.index_axis(Axis(0), image).insert_axis(Axis(0));
                let (difference, largest) = largest_difference(&gradient, &expected);
                assert!(
                    difference <= GRADIENT_TOLERANCE * largest,
                    "{file} {name}: {difference} of {largest}"
                );
            }
            Ok(())
        };
        recorded.gradients(vec![seeds], &taps, compare).unwrap();
        assert_eq!(found, names.len(), "{file}");
    }
}

#[test]
fn gradients_of_every_site_agree_with_torch() {
    for file in ["ts13", "ts17", "dynamo18", "dynamo20"] {
        check(&format!("digits_vit_{file}"));
    }
}
