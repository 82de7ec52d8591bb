//! What calibration spends its time on, each part beside its plain reference: `cargo bench`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use onnx_ptq4vit::calibrate::search::{LhsKind, Matrix, Problem, Rhs, Settings};
use onnx_ptq4vit::calibrate::{Metric, Options, Preset, Run, Search, calibrate};
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
use onnx_ptq4vit::kernel::{self, ByteLhs, Bytes, PANEL, PackedB, PackedTarget};
use onnx_ptq4vit::plan::plan;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::quant::{Bits, Quantizer, Scale};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of a full row block; K and N of fc1 in a ViT-S.
const SHAPE: [usize; 3] = [48, 384, 1536];

fn floats(len: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-1.0f32..1.0).powi(3)).collect()
}

/// Products per second of the integer kernels, in words and in bytes, alone and with the weighted error; and of floats, by
/// ndarray.
fn gemm(c: &mut Criterion) {
    let [m, k, n] = SHAPE;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let a: Vec<i16> = (0..m * k).map(|_| random.random_range(-128..128)).collect();
    let b: Vec<i8> = (0..k * n).map(|_| random.random()).collect();
    let packed = PackedB::pack(&b, k, n);
    let reference = floats(m * n, 2);
    let target =
        PackedTarget::pack(m, n, |row| (&reference[row * n..][..n], Some(&reference[row * n..][..n])));

    let mut group = c.benchmark_group("gemm 48x384x1536");
    group.throughput(Throughput::Elements((m * k * n) as u64));
    for kernel in kernel::all() {
        let mut product = vec![0; m * n];
        group.bench_function(kernel.name(), |b| b.iter(|| kernel.gemm(&a, m, &packed, &mut product)));
        let mut sums = vec![0.0; m];
        let name = format!("{} with errors", kernel.name());
        group.bench_function(name, |b| b.iter(|| kernel.errors(&a, &packed, 1e-4, &target, &mut sums)));
        let Some(layout) = kernel.byte_layout() else { continue };
        let mut fine = Bytes::new(layout);
        fine.set(&a, k);
        let mut product = vec![[0; PANEL]; fine.padded_len() * packed.panels()];
        let name = format!("{} in bytes", kernel.name());
        group.bench_function(name, |b| b.iter(|| kernel.byte_panels(&fine, &packed, 0, &mut product)));
        let lhs = ByteLhs { fine, coarse: None };
        let name = format!("{} in bytes with errors", kernel.name());
        group
            .bench_function(name, |b| b.iter(|| kernel.byte_errors(&lhs, &packed, 1e-4, &target, &mut sums)));
    }
    let a = Array2::from_shape_vec((m, k), floats(m * k, 3)).expect("the shape fits");
    let b = Array2::from_shape_vec((k, n), floats(k * n, 4)).expect("the shape fits");
    group.bench_function("float", |bench| bench.iter(|| black_box(a.dot(&b))));
    group.finish();
}

/// A slice at a time, and a value at a time.
fn fake_quantize(c: &mut Criterion) {
    let values = floats(1 << 16, 5);
    let bits = Bits::new(8).expect("8 bits are in range");
    let quantizer = Quantizer::Uniform { scale: Scale::new(0.01).expect("a positive scale"), bits };
    let mut group = c.benchmark_group("quantize 65536 values");
    group.throughput(Throughput::Elements(values.len() as u64));
    group.bench_function("slice", |b| b.iter(|| black_box(quantizer.codes(&values, i32::MAX))));
    group.bench_function("one by one", |b| {
        b.iter(|| black_box(values.iter().map(|&x| quantizer.fake_quant(x)).collect::<Vec<f32>>()));
    });
    group.finish();
}

/// A linear layer of 8 images, with a few tokens that weigh most.
fn problem() -> Problem {
    let (images, m, k, n) = (8, 50, 64, 128);
    let matrix = |rows, columns, seed| {
        Matrix::from_shape_vec((rows, columns), floats(rows * columns, seed)).expect("the shape fits")
    };
    let curvature = |seed| {
        let mut matrix = matrix(m, n, seed);
        for (i, mut row) in matrix.rows_mut().into_iter().enumerate() {
            row.mapv_inplace(|x| x * x / (1 + i * i) as f32);
        }
        matrix
    };
    Problem {
        a: (0..images).map(|i| matrix(m, k, 10 + i)).collect(),
        a_kind: LhsKind::Uniform,
        b: Rhs::Weight(matrix(k, n, 6)),
        groups: std::iter::once(0..n).collect(),
        curvature: (0..images).map(|i| curvature(30 + i)).collect(),
        units: vec![],
    }
}

fn search(c: &mut Criterion) {
    let problem = problem();
    let bits = Bits::new(8).expect("8 bits are in range");
    let settings = Settings {
        metric: Metric::Hessian,
        a_bits: bits,
        b_bits: bits,
        alpha: 0.0,
        beta: 1.2,
        candidates: 100,
        rounds: 3,
        share: 1.0,
    };
    let mut group = c.benchmark_group("search of one site");
    group.sample_size(10);
    for (name, search) in [("pruned", Search::Pruned), ("exhaustive", Search::Exhaustive)] {
        group.bench_function(name, |b| b.iter(|| search.run(problem.clone(), &settings)));
    }
    group.finish();
}

fn model(c: &mut Criterion) {
    let model = Prepared::open("fixtures/digits_vit_ts17.onnx").expect("the fixture is there");
    let plan = plan(&model, &[]).expect("a vision transformer");
    let selection = Selection { limit: Some(16), seed: 0, skip: 0 };
    let images = Dataset::open("fixtures/digits_calib.npz".as_ref(), &Preprocess::timm_vit(8), selection)
        .expect("arrays");
    let options = Options::new(Preset::Paper);
    let mut group = c.benchmark_group("calibration of a small model");
    group.sample_size(10);
    for (name, search) in [("pruned", Search::Pruned), ("exhaustive", Search::Exhaustive)] {
        group.bench_function(name, |b| {
            b.iter(|| calibrate(&model, &plan, &images, &options, Run { search, ..Run::default() }, &()));
        });
    }
    group.finish();
}

criterion_group!(benches, gemm, fake_quantize, search, model);
criterion_main!(benches);
