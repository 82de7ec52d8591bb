use std::mem::MaybeUninit;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// The true product, in i64 and from the unpacked operands.
fn product(a: &[i16], b: &[i8], [m, k, n]: [usize; 3]) -> Vec<i64> {
    let at = |row: usize, column: usize| {
        (0..k).map(|i| i64::from(a[row * k + i]) * i64::from(b[i * n + column])).sum()
    };
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

fn check(a: &[i16], b: &[i8], [m, k, n]: [usize; 3], what: &str) {
    let by_column = PackedB::pack_columns(k, n, |column, codes| {
        codes.iter_mut().zip(b.iter().skip(column).step_by(n)).for_each(|(to, code)| *to = *code);
    });
    let expected: Vec<i32> = product(a, b, [m, k, n]).into_iter().map(|sum| sum as i32).collect();
    for packed in [PackedB::pack(b, k, n), by_column] {
        for kernel in all() {
            let mut c = vec![i32::MIN; m * n];
            kernel.gemm(a, m, &packed, &mut c);
            assert_eq!(c, expected, "{} at {m}x{k}x{n}, {what}", kernel.name());
            if a.iter().all(|code| (-128..128).contains(code)) && k > 0 {
                check_bytes(*kernel, (a, k), &packed, &expected, what);
            }
        }
    }
}

fn check_bytes(kernel: &dyn Kernel, (a, k): (&[i16], usize), b: &PackedB, expected: &[i32], what: &str) {
    let layouts = all().iter().filter_map(|kernel| kernel.byte_layout());
    let own = |layout: &ByteLayout| kernel.byte_layout().is_none_or(|own| own == *layout);
    for layout in layouts.filter(own) {
        let mut bytes = Bytes::new(layout);
        // What an lhs leaves behind must not enter the next.
        bytes.set(&vec![-77; (a.len() / k + 20) * (k + 70)], k + 70);
        bytes.set(a, k);
        for count in 1..=b.panels().min(3) {
            for first in 0..=b.panels() - count {
                let mut c = vec![[i32::MIN; PANEL]; bytes.padded_len() * count];
                kernel.byte_panels(&bytes, b, first, &mut c);
                for (panel, c) in (first..).zip(c.chunks_exact(bytes.padded_len().max(1))) {
                    for (row, c) in c[..bytes.len()].iter().enumerate() {
                        let expected = &expected[row * b.n()..][..b.n()][panel * PANEL..];
                        let width = expected.len().min(PANEL);
                        assert_eq!(
                            c[..width],
                            expected[..width],
                            "{} in bytes, K = {k}, {what}",
                            kernel.name()
                        );
                    }
                }
            }
        }
    }
}

/// Sizes on both sides of every edge: 6, 12, 16 and 32 rows, 16 columns, pairs and 64 of K, blocks of 512 rows of B.
#[test]
fn every_kernel_computes_the_product() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let ms = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 16, 17, 33];
    let ns = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33];
    for m in ms {
        for n in ns {
            for k in [0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65] {
                check_sizes(&mut random, [m, k, n]);
            }
        }
    }
    for k in [511, 512, 513, 514, 1023, 1024, 1025] {
        check_sizes(&mut random, [7, k, 17]);
    }
}

fn check_sizes(random: &mut ChaCha8Rng, [m, k, n]: [usize; 3]) {
    let a: Vec<i16> = (0..m * k).map(|_| random.random()).collect();
    let b: Vec<i8> = (0..k * n).map(|_| random.random()).collect();
    check(&a, &b, [m, k, n], "random codes");
    let a: Vec<i16> = (0..m * k).map(|_| random.random::<i8>().into()).collect();
    check(&a, &b, [m, k, n], "random bytes");
}

/// Codes of few bits, the largest ones included, of which sums of bytes may be taken in 16 bits.
#[test]
fn codes_of_few_bits_are_multiplied_in_bytes() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut in_bytes = 0;
    for (a_bits, b_bits) in (2..=8).flat_map(|a| (2..=8).map(move |b| (a, b))) {
        let (a_half, b_half) = (1i16 << (a_bits - 1), 1i16 << (b_bits - 1));
        for [m, k, n] in [[1, 1, 1], [6, 64, 16], [7, 35, 33], [13, 300, 17]] {
            let ends = |half: i16, negative| if negative { -half } else { half - 1 };
            for case in 0..5 {
                let a: Vec<i16> = match case {
                    0 => (0..m * k).map(|_| random.random_range(-a_half..a_half)).collect(),
                    _ => vec![ends(a_half, case % 2 == 0); m * k],
                };
                let b: Vec<i8> = match case {
                    0 => (0..k * n).map(|_| random.random_range(-b_half..b_half) as i8).collect(),
                    _ => vec![ends(b_half, case > 2) as i8; k * n],
                };
                let packed = PackedB::pack(&b, k, n);
                let expected: Vec<i32> =
                    product(&a, &b, [m, k, n]).into_iter().map(|sum| sum as i32).collect();
                for kernel in all() {
                    let Some(layout) = kernel.byte_layout_for(a_half.into(), &packed) else { continue };
                    in_bytes += 1;
                    let mut bytes = Bytes::new(layout);
                    bytes.set(&a, k);
                    let mut c = vec![[i32::MIN; PANEL]; bytes.padded_len() * packed.panels()];
                    kernel.byte_panels(&bytes, &packed, 0, &mut c);
                    for (i, &expected) in expected.iter().enumerate() {
                        let (row, column) = (i / n, i % n);
                        let found = c[column / PANEL * bytes.padded_len() + row][column % PANEL];
                        assert_eq!(found, expected, "{}: {a_bits} x {b_bits} bits", kernel.name());
                    }
                }
            }
        }
    }
    let avx2 = all().iter().any(|kernel| kernel.name() == "avx2");
    assert!(in_bytes > 0 || !avx2);
}

/// The largest sums that fit, and sums that wrap in the same way in every kernel.
#[test]
fn extreme_codes() {
    for (a, b) in [
        (i16::MAX, i8::MIN),
        (i16::MIN, i8::MIN),
        (i16::MIN, i8::MAX),
        (255, -128),
        (-128, -128),
        (127, -128),
        (-1, -1),
    ] {
        for k in [1, 2, 3, 511, 512, 513, 600] {
            check(&vec![a; 7 * k], &vec![b; k * 17], [7, k, 17], &format!("all {a} and {b}"));
        }
    }
}

/// Every kernel sums in the same order, and the result is near the sum in f64.
#[test]
fn every_kernel_computes_the_same_errors() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for [m, k, n] in [[0, 3, 5], [1, 0, 9], [1, 1, 1], [5, 7, 8], [6, 64, 16], [7, 65, 33], [13, 600, 197]] {
        let a: Vec<i16> = (0..m * k).map(|_| random.random_range(-200..200)).collect();
        let b: Vec<i8> = (0..k * n).map(|_| random.random()).collect();
        let mut floats = |range: std::ops::Range<f32>| -> Vec<f32> {
            (0..m * n).map(|_| random.random_range(range.clone())).collect()
        };
        let (reference, weights) = (floats(-9.0..9.0), floats(0.0..2.0));
        let packed = PackedB::pack(&b, k, n);
        let products = product(&a, &b, [m, k, n]);
        for weighted in [true, false] {
            let target = PackedTarget::pack(m, n, |row| {
                let at = row * n..(row + 1) * n;
                (&reference[at.clone()], weighted.then(|| &weights[at]))
            });
            let all = all().iter().map(|kernel| {
                let mut sums = vec![f32::NAN; m];
                kernel.errors(&a, &packed, 1e-3, &target, &mut sums);
                sums
            });
            let all: Vec<Vec<f32>> = all.collect();
            assert!(all.iter().all(|sums| *sums == all[0]), "{m}x{k}x{n}");
            check_byte_errors(&a, [m, k, n], &packed, &target);
            for (row, &sum) in all[0].iter().enumerate() {
                let term = |i: usize| {
                    let weight = if weighted { f64::from(weights[i]) } else { 1.0 };
                    weight * (products[i] as f64 * 1e-3 - f64::from(reference[i])).powi(2)
                };
                let expected: f64 = (row * n..(row + 1) * n).map(term).sum();
                assert!((f64::from(sum) - expected).abs() <= 1e-4 * expected, "{sum} against {expected}");
            }
        }
    }
}

/// The codes of `a` in bytes, and in the two ranges of a twin, have the errors that words have.
fn check_byte_errors(a: &[i16], [m, k, n]: [usize; 3], b: &PackedB, target: &PackedTarget) {
    if k == 0 {
        return;
    }
    let bytes = |layout, codes: &[i16]| {
        let mut bytes = Bytes::new(layout);
        bytes.set(codes, k);
        bytes
    };
    for shift in [0, 1, 5, 23] {
        let fine: Vec<i16> = a.iter().map(|code| code % 128).collect();
        let coarse: Vec<i16> = a.iter().map(|code| code % 5).collect();
        let (mut fine_sums, mut coarse_sums) = (vec![0; m * n], vec![0; m * n]);
        Reference.gemm(&fine, m, b, &mut fine_sums);
        Reference.gemm(&coarse, m, b, &mut coarse_sums);
        let join = |(fine, coarse): (&i32, &i32)| (i64::from(*fine) + (i64::from(*coarse) << shift)) as f32;
        let (of_fine, of_both): (Vec<f32>, Vec<f32>) = (
            fine_sums.iter().map(|&sum| sum as f32).collect(),
            fine_sums.iter().zip(&coarse_sums).map(join).collect(),
        );
        for (sums, is_twin) in [(of_fine, false), (of_both, true)] {
            let expected = |row: usize| {
                let (values, weights) = target.row(row);
                squared_error(&sums[row * n..][..n], 1e-3, &values, &weights)
            };
            let expected: Vec<f32> = (0..m).map(expected).collect();
            for kernel in all() {
                for layout in all().iter().filter_map(|kernel| kernel.byte_layout()) {
                    if kernel.byte_layout().is_some_and(|own| own != layout) {
                        continue;
                    }
                    let coarse = is_twin.then(|| (bytes(layout, &coarse), shift));
                    let mut found = vec![f32::NAN; m];
                    let a = ByteLhs { fine: bytes(layout, &fine), coarse };
                    kernel.byte_errors(&a, b, 1e-3, target, &mut found);
                    assert_eq!(found, expected, "{} at {m}x{k}x{n}, shift {shift}", kernel.name());
                }
            }
        }
    }
}

/// Whole panels and parts of them, with and without each addend; what is beside the columns stays.
#[test]
#[allow(unsafe_code)]
fn every_kernel_scales_sums_alike() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let (m, width) = (7, 40);
    let mut sums = || -> Vec<[i32; PANEL]> { (0..m).map(|_| random.random()).collect() };
    let (fine, coarse) = (sums(), sums());
    let scales: [f32; PANEL] = std::array::from_fn(|i| 1e-4 * (i + 1) as f32);
    let bias: [f32; PANEL] = std::array::from_fn(|i| i as f32 * 0.37 - 2.0);
    let addends: Vec<f32> = (0..m * width).map(|i| i as f32 * 0.013 - 1.0).collect();
    for columns in [0..16, 16..32, 32..40, 3..19, 39..40, 5..5] {
        for (shift, has_bias, has_addends) in
            [(None, false, false), (None, true, true), (Some(3), true, false), (Some(20), false, true)]
        {
            let mut expected = vec![f32::MAX; m * width];
            for row in 0..m {
                for (i, column) in columns.clone().enumerate() {
                    let sum =
                        i64::from(fine[row][i]) + shift.map_or(0, |shift| i64::from(coarse[row][i]) << shift);
                    let mut value = sum as f32 * scales[i];
                    value += if has_bias { bias[i] } else { 0.0 };
                    value += if has_addends { addends[row * width + column] } else { 0.0 };
                    expected[row * width + column] = value;
                }
            }
            for kernel in all() {
                let mut found = vec![MaybeUninit::new(f32::MAX); m * width];
                let sums = Sums { fine: &fine, coarse: shift.map(|shift| (&coarse[..], shift)) };
                let scaling = Scaling { scales: &scales, bias: has_bias.then_some(&bias) };
                let to = Columns::new(&mut found, width, columns.clone());
                kernel.scale(sums, scaling, has_addends.then_some(&addends), to);
                // SAFETY: all of it was initialized before.
                let found: Vec<f32> = found.into_iter().map(|x| unsafe { x.assume_init() }).collect();
                assert_eq!(found, expected, "{}, {columns:?}, shift {shift:?}", kernel.name());
            }
        }
    }
}

/// A product of no terms is zero, whatever was there before.
#[test]
fn without_depth_all_sums_are_zero() {
    let b = PackedB::pack(&[], 0, 20);
    for kernel in all() {
        let Some(layout) = kernel.byte_layout() else { continue };
        let mut a = Bytes::new(layout);
        a.resize(5, 0);
        let mut c = vec![[7; PANEL]; a.padded_len() * b.panels()];
        kernel.byte_panels(&a, &b, 0, &mut c);
        assert!(c.iter().all(|sums| *sums == [0; PANEL]), "{}", kernel.name());
    }
}

#[test]
fn the_bound_of_i32_is_tight() {
    let mut b = vec![-128i8; 512 * 3];
    b[3] = 0;
    let packed = PackedB::pack(&b, 512, 3);
    assert_eq!(packed.max_column_abs_sum(), 512 * 128);
    assert!(fits_i32(32767, &packed), "32767 · 65536 is 2^31 - 65536");
    assert!(!fits_i32(32768, &packed), "32768 · 65536 is 2^31");
    assert!(!fits_i32(i32::MIN, &PackedB::pack(&[1], 1, 1)));
    assert!(fits_i32(i32::MIN, &PackedB::pack(&[], 0, 0)));
}

#[test]
#[should_panic(expected = "A must be [2, 3]")]
fn wrong_lengths_panic() {
    best().gemm(&[0; 5], 2, &PackedB::pack(&[0; 3], 3, 1), &mut [0; 2]);
}
