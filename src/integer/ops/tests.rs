//! Each op against naive loops over quantized floats, written from the recipes rather than from `quant`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::integer::site::{Outliers, Weight};
use crate::onnx::AttributeProto;
use crate::onnx::node::node;
use crate::quant::{Bits, Quantizer, Scale, TwinScale};
use crate::windows::Windows;

/// One f32 rounding of the scale and one of the sum, relative to the largest result.
const TOLERANCE: f64 = 1e-6;

fn bits(k: u8) -> Bits {
    Bits::new(k).unwrap()
}

fn bytes(codes: &[i8]) -> bytes::Bytes {
    codes.iter().map(|&code| code as u8).collect()
}

fn scale(delta: f32) -> Scale {
    Scale::new(delta).unwrap()
}

fn floats(rng: &mut ChaCha8Rng, len: usize, range: std::ops::Range<f32>) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(range.clone())).collect()
}

/// `QuantizeLinear` with saturation at `low` and `high`, then `DequantizeLinear`, exactly.
fn qdq(x: f32, delta: f32, low: f32, high: f32) -> f64 {
    f64::from((x / delta).round_ties_even().clamp(low, high)) * f64::from(delta)
}

/// The value that stands for `x` according to the recipes.
fn naive(q: Quantizer, x: f32) -> f64 {
    let half = f32::from(1u8 << (q.bits().get() - 1));
    match q {
        Quantizer::Uniform { scale, .. } => qdq(x, scale.get(), -half, half - 1.0),
        Quantizer::TwinGelu { scale, .. } if x < 0.0 => qdq(x, scale.fine.get(), 1.0 - half, 0.0),
        Quantizer::TwinSoftmax { scale, .. } if x / (half * scale.fine.get()) < 1.0 => {
            qdq(x, scale.fine.get(), 0.0, half - 1.0)
        }
        Quantizer::TwinGelu { scale, .. } | Quantizer::TwinSoftmax { scale, .. } => {
            qdq(x, scale.fine.get() * 2f32.powi(scale.shift.into()), 0.0, half - 1.0)
        }
    }
}

/// `Σ_k a[m, k]·b[k, n]` of values.
fn product(a: &[f64], b: &[f64], k: usize, n: usize) -> Vec<f64> {
    let element = |i: usize| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum();
    (0..a.len() / k * n).map(element).collect()
}

#[track_caller]
fn check(op: Compute, inputs: &[(&[usize], &[f32])], expected: &[f64], case: &str) {
    let op = SiteOp::of(vec![0], op);
    let tensors: Vec<Tensor> =
        inputs.iter().map(|(shape, x)| Tensor::from_shape(shape, x).unwrap()).collect();
    let dims: Vec<TVec<TDim>> = inputs
        .iter()
        .map(|(shape, _)| shape.iter().map(tract_core::prelude::ToDim::to_dim).collect())
        .collect();
    let shapes: Vec<&[TDim]> = dims.iter().map(|shape| &shape[..]).collect();
    let promised = op.output_shape(&shapes).unwrap();
    let inputs = tensors.into_iter().map(IntoTValue::into_tvalue).collect();
    let output = op.eval(&EvalContext::out_of_plan(), inputs).unwrap().remove(0);
    assert_eq!(
        promised,
        output.shape().iter().map(tract_core::prelude::ToDim::to_dim).collect::<TVec<_>>(),
        "{case}"
    );
    let output = output.to_plain_array_view::<f32>().unwrap();
    assert_eq!(output.len(), expected.len(), "{case}");
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    assert!(largest > 0.0, "{case}: nothing to compare");
    for (found, expected) in output.iter().zip(expected) {
        assert!(
            (f64::from(*found) - expected).abs() <= TOLERANCE * largest,
            "{case}: {found}, expected {expected}"
        );
    }
}

/// One quantizer of each kind; the twins with shifts on both sides of what i16 holds.
fn quantizers(k: u8) -> Vec<Quantizer> {
    let mut all = vec![Quantizer::Uniform { scale: scale(1.7 / f32::from(1u8 << (k - 1))), bits: bits(k) }];
    for j in [0, 4, 10] {
        all.push(Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits(k), j), bits: bits(k) });
    }
    for shift in [0, 3, 9] {
        let fine = scale(0.9 / f32::from(1u8 << (k - 1)) / 2f32.powi(shift.into()));
        all.push(Quantizer::TwinGelu { scale: TwinScale { fine, shift }, bits: bits(k) });
    }
    all
}

/// Inputs of the kind that the quantizer expects, with values on the border of a twin's ranges.
fn inputs(rng: &mut ChaCha8Rng, q: Quantizer, len: usize) -> Vec<f32> {
    let range = match q {
        Quantizer::Uniform { .. } => -2.0..2.0,
        Quantizer::TwinSoftmax { .. } => 0.0..1.0,
        Quantizer::TwinGelu { .. } => -0.2..1.0,
    };
    let mut x = floats(rng, len, range);
    x[0] = 0.0;
    x[1] = f32::from(1u8 << (q.bits().get() - 1)) * q.scale();
    x[2] = x[1] * 2.5 / f32::from(1u8 << (q.bits().get() - 1));
    x
}

#[test]
fn linear_is_the_product_of_what_qdq_makes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for q in (2..=8).flat_map(quantizers) {
        let (m, k, n) = (7, 37, 19);
        let codes: Vec<i8> = (0..k * n).map(|_| rng.random_range(-128..=127)).collect();
        let x = inputs(&mut rng, q, m * k);
        for scales in [vec![0.013], (0..n).map(|i| 0.01 + i as f32 * 0.001).collect()] {
            let at = |i: usize| f64::from(if scales.len() == 1 { scales[0] } else { scales[i % n] });
            let b: Vec<f64> = codes.iter().enumerate().map(|(i, &c)| f64::from(c) * at(i)).collect();
            let a: Vec<f64> = x.iter().map(|&x| naive(q, x)).collect();
            let case = format!("{q:?}, {} scales", scales.len());
            let weight = Weight { codes: bytes(&codes), k, n, scales };
            let op = Compute::Linear(Linear::new("fc", q, &weight).unwrap());
            check(op, &[(&[1, m, k], &x)], &product(&a, &b, k, n), &case);
        }
    }
}

#[test]
fn heads_have_their_own_quantizers() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (heads, m, k, n) = (3, 5, 11, 6);
    for (kind, width) in (0..7).flat_map(|kind| (2..=8).map(move |width| (kind, width))) {
        for shared in [false, true] {
            let base = quantizers(width)[kind];
            let count = if shared { 1 } else { heads };
            let a_quantizers: Vec<Quantizer> = (0..count as u8).map(|h| shifted(base, h)).collect();
            let b_quantizers: Vec<Quantizer> = (1..=count)
                .map(|h| Quantizer::Uniform { scale: scale(0.02 * h as f32), bits: bits(width) })
                .collect();
            let a = inputs(&mut rng, base, 2 * heads * m * k);
            let b = floats(&mut rng, 2 * heads * k * n, -1.0..1.0);
            let mut expected = Vec::new();
            for (i, (a, b)) in a.chunks(m * k).zip(b.chunks(k * n)).enumerate() {
                let a: Vec<f64> = a.iter().map(|&x| naive(a_quantizers[i % count], x)).collect();
                let b: Vec<f64> = b.iter().map(|&x| naive(b_quantizers[i % count], x)).collect();
                expected.extend(product(&a, &b, k, n));
            }
            let case = format!("{base:?}, {count} scales");
            let op = Compute::Heads(Heads::new(a_quantizers, b_quantizers));
            check(op, &[(&[2, heads, m, k], &a), (&[2, heads, k, n], &b)], &expected, &case);
        }
    }
}

/// Another head's quantizer of the same kind.
fn shifted(q: Quantizer, head: u8) -> Quantizer {
    match q {
        Quantizer::Uniform { scale: s, bits } => {
            Quantizer::Uniform { scale: scale(s.get() * (1.0 + f32::from(head) / 4.0)), bits }
        }
        Quantizer::TwinSoftmax { scale, bits } => {
            Quantizer::TwinSoftmax { scale: TwinScale::softmax(bits, scale.shift - 1 + head), bits }
        }
        Quantizer::TwinGelu { scale: s, bits } => {
            Quantizer::TwinGelu { scale: TwinScale { fine: s.fine, shift: s.shift + head }, bits }
        }
    }
}

#[test]
fn conv_is_a_linear_layer_on_patches() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let ([c, h, w], [kh, kw], m) = ([3, 7, 8], [2, 4], 5);
    let k = c * kh * kw;
    let q = Quantizer::Uniform { scale: scale(0.021), bits: bits(8) };
    let codes: Vec<i8> = (0..k * m).map(|_| rng.random_range(-128..=127)).collect();
    let x = floats(&mut rng, 2 * c * h * w, -2.0..2.0);
    let bias = floats(&mut rng, m, -1.0..1.0);
    let mut expected = Vec::new();
    for (image, out) in (0..2).flat_map(|p| (0..m).map(move |m| (p, m))) {
        for (row, column) in (0..h / kh).flat_map(|r| (0..w / kw).map(move |c| (r, c))) {
            let mut sum = f64::from(bias[out]);
            for i in 0..k {
                let (channel, y, z) = (i / (kh * kw), i / kw % kh, i % kw);
                let at = ((image * c + channel) * h + row * kh + y) * w + column * kw + z;
                sum += naive(q, x[at]) * f64::from(codes[i * m + out]) * f64::from(0.01f32);
            }
            expected.push(sum);
        }
    }
    let windows = windows(&[m, c, kh, kw], &[("strides", &[2, 4])]);
    let weight = Weight { codes: bytes(&codes), k, n: m, scales: vec![0.01] };
    let op = Compute::Conv(Conv::new("patch", q, &weight, windows, Some(&bias), None).unwrap());
    check(op, &[(&[2, c, h, w], &x)], &expected, "conv");
}

fn windows(weight: &[usize], attributes: &[(&str, &[i64])]) -> Windows {
    let conv = attributes.iter().fold(node("Conv", "c", ["x", "w"], ["y"]), |node, (name, ints)| {
        node.with(AttributeProto::int_list(name, ints))
    });
    Windows::of(&conv, weight).unwrap()
}

#[test]
fn windows_may_overlap_and_groups_see_their_channels() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (of_group, groups, h, w, n) = (3, 2, 6, 5, 4);
    let (kh, kw, c, m) = (3, 2, of_group * groups, groups * n);
    let k = of_group * kh * kw;
    let (q, output) = (Quantizer::Uniform { scale: scale(0.021), bits: bits(6) }, scale(0.07));
    let codes: Vec<i8> = (0..k * m).map(|_| rng.random_range(-128..=127)).collect();
    let scales = floats(&mut rng, m, 0.001..0.01);
    let (x, bias) = (floats(&mut rng, c * h * w, -2.0..2.0), floats(&mut rng, m, -1.0..1.0));
    let attributes: [(&str, &[i64]); 4] =
        [("strides", &[2, 1]), ("pads", &[1, 0, 2, 2]), ("dilations", &[1, 2]), ("kernel_shape", &[3, 2])];
    let group = AttributeProto::int("group", groups as i64);
    let conv =
        attributes.iter().fold(node("Conv", "c", ["x", "w"], ["y"]).with(group), |node, (name, ints)| {
            node.with(AttributeProto::int_list(name, ints))
        });
    let windows = Windows::of(&conv, &[m, of_group, kh, kw]).unwrap();
    let (rows, columns) = ((h + 3 - 3) / 2 + 1, w + 2 - 3 + 1);
    let mut expected = Vec::new();
    for (out, row, column) in
        (0..m).flat_map(|m| (0..rows).flat_map(move |r| (0..columns).map(move |c| (m, r, c))))
    {
        let mut sum = f64::from(bias[out]);
        for i in 0..k {
            let (channel, ky, kx) = (out / n * of_group + i / (kh * kw), i / kw % kh, i % kw);
            let (y, z) = ((row * 2 + ky) as i64 - 1, column + 2 * kx);
            if (0..h as i64).contains(&y) && z < w {
                let at = (channel * h + y as usize) * w + z;
                sum += naive(q, x[at]) * f64::from(codes[i * m + out]) * f64::from(scales[out]);
            }
        }
        expected.push((sum as f32 / output.get()).round_ties_even().clamp(-128.0, 127.0) * output.get());
    }
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    let weight = Weight { codes: bytes(&codes), k, n: m, scales };
    let output = Some(Quantizer::Uniform { scale: output, bits: bits(8) });
    let op = Compute::Conv(Conv::new("conv", q, &weight, windows, Some(&bias), output).unwrap());
    check(op, &[(&[1, c, h, w], &x)], &expected, "conv");
}

#[test]
fn shapes_that_disagree_are_refused() {
    let q = Quantizer::Uniform { scale: scale(0.1), bits: bits(8) };
    let dims = |shape: &[usize]| shape.iter().map(tract_core::prelude::ToDim::to_dim).collect::<Vec<_>>();
    let linear =
        || Linear::new("fc", q, &Weight { codes: bytes(&[1; 6]), k: 3, n: 2, scales: vec![0.1] }).unwrap();
    assert!(linear().output_shape(&dims(&[1, 2])).is_err());
    assert!(linear().output_shape(&[]).is_err());
    let heads = Heads::new(vec![q; 3], vec![q; 3]);
    assert!(heads.output_shape(&dims(&[1, 3, 4, 5]), &dims(&[1, 3, 5, 6])).is_ok());
    assert!(heads.output_shape(&dims(&[1, 2, 4, 5]), &dims(&[1, 2, 5, 6])).is_err());
    assert!(heads.output_shape(&dims(&[2, 4, 5]), &dims(&[2, 5, 6])).is_err());
    assert!(heads.output_shape(&dims(&[1, 3, 4, 5]), &dims(&[1, 3, 4, 6])).is_err());
    let pixels = Weight { codes: bytes(&[1; 6]), k: 3, n: 2, scales: vec![0.1] };
    let conv = Conv::new("conv", q, &pixels, windows(&[2, 3, 1, 1], &[]), None, None).unwrap();
    assert!(conv.output_shape(&dims(&[1, 4, 2, 2])).is_err());
}

#[test]
fn sums_that_might_overflow_are_refused_at_load() {
    let q = Quantizer::Uniform { scale: scale(0.1), bits: bits(8) };
    let k = (i32::MAX / (128 * 128)) as usize + 1;
    let long =
        |k: usize| Linear::new("fc", q, &Weight { codes: bytes(&vec![-128; k]), k, n: 1, scales: vec![0.1] });
    assert!(long(k - 1).is_ok());
    assert!(long(k).is_err());
}

/// The shape and the values of the output of `op`.
fn evaluated(op: &SiteOp, inputs: &[(&[usize], &[f32])]) -> (Vec<usize>, Vec<f32>) {
    let inputs =
        inputs.iter().map(|(shape, x)| Tensor::from_shape(shape, x).unwrap().into_tvalue()).collect();
    let output = op.eval(&EvalContext::out_of_plan(), inputs).unwrap().remove(0);
    (output.shape().to_vec(), output.to_plain_array_view::<f32>().unwrap().iter().copied().collect())
}

#[test]
fn what_follows_a_linear_layer_changes_no_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (m, k, n) in [(1, 5, 3), (7, 37, 19), (300, 12, 33)] {
        let codes: Vec<i8> = (0..k * n).map(|_| rng.random_range(-128..=127)).collect();
        let x = floats(&mut rng, m * k, -2.0..2.0);
        let (bias, residual) = (floats(&mut rng, n, -1.0..1.0), floats(&mut rng, m * n, -1.0..1.0));
        let outliers = Outliers { channels: vec![0, 4], rows: floats(&mut rng, 2 * n, -1.0..1.0) };
        let q = quantizers(8)[0];
        for outliers in [Outliers::default(), outliers] {
            let weight = Weight { codes: bytes(&codes), k, n, scales: vec![0.01] };
            let linear = Linear::new("fc", q, &weight).unwrap().with_outliers(outliers);
            let plain = SiteOp::of(vec![0], Compute::Linear(linear));
            let (shape, mut expected) = evaluated(&plain, &[(&[1, m, k], &x)]);
            expected.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
            crate::integer::math::activate(&mut expected, Activation::Gelu);
            expected.iter_mut().zip(&residual).for_each(|(y, residual)| *y += residual);

            let fused = plain.then_bias(&bias).unwrap().then_activation(Activation::Gelu).unwrap();
            let fused = fused.then_residual().unwrap();
            assert!(fused.then_bias(&bias).is_none() && fused.then_activation(Activation::Gelu).is_none());
            let found = evaluated(&fused, &[(&[1, m, k], &x), (&[1, m, n], &residual)]);
            assert_eq!(found, (shape, expected), "{m}x{k}x{n}");
        }
    }
}

/// Q, K and V are in one `[batch, token, 3, head, depth]`, as a fused projection leaves them.
#[test]
fn attention_is_its_parts_to_the_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let [batch, heads, tokens, depth] = [2, 3, 131, 8];
    let qkv = floats(&mut rng, batch * tokens * 3 * heads * depth, -2.0..2.0);
    let at = |b: usize, t: usize, part: usize, h: usize, d: usize| {
        (((b * tokens + t) * 3 + part) * heads + h) * depth + d
    };
    let factor = 0.35;
    let rows = |part: usize, factor: f32| -> Vec<f32> {
        let all = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..tokens).map(move |t| (b, h, t))));
        all.flat_map(|(b, h, t)| (0..depth).map(move |d| (b, h, t, d)))
            .map(|(b, h, t, d)| qkv[at(b, t, part, h, d)] * factor)
            .collect()
    };
    let (q, k, v) = (rows(0, factor), rows(1, 1.0), rows(2, 1.0));
    let transposed = |x: &[f32]| -> Vec<f32> {
        let one =
            |x: &[f32]| (0..depth * tokens).map(|i| x[i % tokens * depth + i / tokens]).collect::<Vec<_>>();
        x.chunks(tokens * depth).flat_map(one).collect()
    };
    let bias = floats(&mut rng, heads * tokens * tokens, -1.0..1.0);

    for kind in [0, 1, 3] {
        let per_head = |base: Quantizer| (0..heads as u8).map(|h| shifted(base, h)).collect::<Vec<_>>();
        let uniform = per_head(quantizers(8)[0]);
        let scores = SiteOp::of(vec![0], Compute::Heads(Heads::new(uniform.clone(), uniform.clone())));
        let probabilities = if kind == 0 { uniform.clone() } else { per_head(quantizers(8)[kind]) };
        let values = SiteOp::of(vec![1], Compute::Heads(Heads::new(probabilities, uniform)));

        let dims: &[usize] = &[batch, heads, tokens, depth];
        let (_, mut p) = evaluated(&scores, &[(dims, &q), (&[batch, heads, depth, tokens], &transposed(&k))]);
        p.iter_mut().enumerate().for_each(|(i, p)| *p = *p * 0.5 + bias[i % bias.len()]);
        p.chunks_mut(tokens).for_each(|row| crate::integer::math::softmax(row, false));
        let (_, expected) = evaluated(&values, &[(&[batch, heads, tokens, tokens], &p), (dims, &v)]);

        let operand = |part: usize, factor| {
            let strides = [at(1, 0, 0, 0, 0), at(0, 0, 0, 1, 0), at(0, 1, 0, 0, 0)];
            Operand { offset: at(0, 0, part, 0, 0), strides, factor }
        };
        let before = vec![ScoreOp::Scale(0.5), ScoreOp::Add { bias: bias.clone().into(), batch: 1, heads }];
        let softmax = Softmax { before, or_zero: false };
        let sizes = Sizes { batch, heads, rows: tokens, keys: tokens, depth, width: depth };
        let operands = [operand(0, Some(factor)), operand(1, None), operand(2, None)];
        let op = SiteOp::attention(&scores, &values, operands, softmax, sizes).unwrap();
        let (shape, found) = evaluated(&op, &[(&[qkv.len()][..], &qkv[..]); 3]);
        assert_eq!(shape, [batch, tokens, heads, depth]);
        for (i, expected) in expected.into_iter().enumerate() {
            let [b, h, t, d] =
                [i / (depth * tokens * heads), i / (depth * tokens) % heads, i / depth % tokens, i % depth];
            assert_eq!(
                found[((b * tokens + t) * heads + h) * depth + d],
                expected,
                "kind {kind}, {b} {h} {t} {d}"
            );
        }
    }
}
