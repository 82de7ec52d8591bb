//! `vpmaddwd` over pairs of codes: 32 multiply-adds an instruction pair, 6 rows × 16 columns in registers.
#![allow(unsafe_code)]
// Every access through a cast pointer is an unaligned one, or to a `RowPair`, which is aligned to 64.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi32, _mm256_add_ps, _mm256_cvtepi32_ps, _mm256_load_ps, _mm256_load_si256,
    _mm256_loadu_ps, _mm256_madd_epi16, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_si256, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_ps,
};

use super::errors::{LANES, TargetRow, sum_of_lanes};
use super::packed::{PANEL, RowPair};
use super::{Kernel, PackedB, PackedTarget, Portable, check_errors, check_lengths};

/// Rows of A in registers: 6 × 2 accumulators, and B, A and a product beside them, fill the 16 registers.
const ROWS: usize = 6;

/// Row pairs of one block of K: 256 × 64 bytes of the panel, and six rows of A, stay in a 32 KiB L1.
const BLOCK: usize = 256;

/// A proof that this CPU has AVX2.
pub struct Avx2(());

impl Avx2 {
    /// `None` on a CPU without AVX2.
    pub fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]) {
        check_lengths(a, m, b, c);
        // SAFETY: `self` exists only on a CPU with AVX2.
        unsafe { gemm(a, b, c) }
    }

    fn errors(&self, a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        check_errors(a, b, target, sums);
        if b.k() == 0 {
            return Portable.errors(a, b, scale, target, sums);
        }
        // SAFETY: `self` exists only on a CPU with AVX2.
        unsafe { errors(a, b, scale, target, sums) }
    }
}

#[target_feature(enable = "avx2")]
fn gemm(a: &[i16], b: &PackedB, c: &mut [i32]) {
    let (k, n) = (b.k(), b.n());
    if k == 0 || n == 0 {
        c.fill(0);
        return;
    }
    for (first_column, panel) in b.panels() {
        for (block, row_pairs) in panel.chunks(BLOCK).enumerate() {
            let at = Place { k, n, first_column, first_row: 2 * block * BLOCK };
            for (a_rows, c_rows) in a.chunks(ROWS * k).zip(c.chunks_mut(ROWS * n)) {
                match a_rows.len() / k {
                    1 => tile::<1>(a_rows, row_pairs, c_rows, at),
                    2 => tile::<2>(a_rows, row_pairs, c_rows, at),
                    3 => tile::<3>(a_rows, row_pairs, c_rows, at),
                    4 => tile::<4>(a_rows, row_pairs, c_rows, at),
                    5 => tile::<5>(a_rows, row_pairs, c_rows, at),
                    _ => tile::<ROWS>(a_rows, row_pairs, c_rows, at),
                }
            }
        }
    }
}

/// Where a block of a panel lies in `B[k, n]`.
#[derive(Clone, Copy)]
struct Place {
    k: usize,
    n: usize,
    first_column: usize,
    first_row: usize,
}

/// `C[R, 16] (+)= A[R, block] · B[block, 16]`; the first block of K overwrites, later ones add.
#[target_feature(enable = "avx2")]
fn tile<const R: usize>(a_rows: &[i16], row_pairs: &[RowPair], c_rows: &mut [i32], at: Place) {
    let sums = products::<R>(a_rows, at.k, at.first_row, row_pairs);
    let width = PANEL.min(at.n - at.first_column);
    for (c_row, sum) in c_rows.chunks_exact_mut(at.n).zip(sums) {
        let c_row = &mut c_row[at.first_column..][..width];
        let sum = to_array(sum);
        match <&mut [i32; PANEL]>::try_from(&mut *c_row) {
            Ok(c_row) if at.first_row == 0 => *c_row = sum,
            _ if at.first_row == 0 => c_row.copy_from_slice(&sum[..width]),
            _ => c_row.iter_mut().zip(sum).for_each(|(c, s)| *c = c.wrapping_add(s)),
        }
    }
}

/// As [`Kernel::errors`], panel by panel: the product never leaves the registers.
#[target_feature(enable = "avx2")]
fn errors(a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
    let k = b.k();
    let mut lanes = vec![[0f32; LANES]; sums.len()];
    for (i, (_, panel)) in b.panels().enumerate() {
        let target = target.panel(i).chunks(ROWS);
        for ((a, target), lanes) in a.chunks(ROWS * k).zip(target).zip(lanes.chunks_mut(ROWS)) {
            match lanes.len() {
                1 => error_tile::<1>(a, panel, scale, target, lanes),
                2 => error_tile::<2>(a, panel, scale, target, lanes),
                3 => error_tile::<3>(a, panel, scale, target, lanes),
                4 => error_tile::<4>(a, panel, scale, target, lanes),
                5 => error_tile::<5>(a, panel, scale, target, lanes),
                _ => error_tile::<ROWS>(a, panel, scale, target, lanes),
            }
        }
    }
    sums.iter_mut().zip(lanes).for_each(|(sum, lanes)| *sum = sum_of_lanes(lanes));
}

/// Adds the weighted squared errors of R rows and one panel to the lanes of the rows.
#[target_feature(enable = "avx2")]
fn error_tile<const R: usize>(
    a_rows: &[i16],
    panel: &[RowPair],
    scale: f32,
    target: &[TargetRow],
    lanes: &mut [[f32; LANES]],
) {
    let products = products::<R>(a_rows, a_rows.len() / R, 0, panel);
    let scale = _mm256_set1_ps(scale);
    for ((products, target), lanes) in products.into_iter().zip(target).zip(lanes) {
        let mut total = load_floats(lanes);
        let (values, weights) = (halves(&target.values), halves(&target.weights));
        for ((product, value), weight) in products.into_iter().zip(values).zip(weights) {
            let error = _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(product), scale), value);
            total = _mm256_add_ps(total, _mm256_mul_ps(weight, _mm256_mul_ps(error, error)));
        }
        // SAFETY: the lanes are 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(row: &[f32; PANEL]) -> [__m256; 2] {
    // SAFETY: the fields of a `TargetRow` are 64 bytes each, aligned to 64: two aligned vectors.
    unsafe { [_mm256_load_ps(row.as_ptr()), _mm256_load_ps(row.as_ptr().add(LANES))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_floats(values: &[f32; LANES]) -> __m256 {
    // SAFETY: eight floats are 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// The sums of products of R rows of `A[R, K]`, from column `first`, with the columns of `row_pairs`.
#[inline]
#[target_feature(enable = "avx2")]
fn products<const R: usize>(
    a_rows: &[i16],
    k: usize,
    first: usize,
    row_pairs: &[RowPair],
) -> [[__m256i; 2]; R] {
    // No closure, which would not be inlined: it has features that `array::from_fn` lacks.
    let mut rows = [&a_rows[..0]; R];
    for (row, a_row) in rows.iter_mut().zip(a_rows.chunks_exact(k)) {
        *row = &a_row[first..];
    }
    let whole = row_pairs.len().min(rows[0].len() / 2);
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    for (i, row_pair) in row_pairs[..whole].iter().enumerate() {
        let b = load(row_pair);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `i < whole ≤ row.len() / 2`, so that elements 2i and 2i + 1 are inside the row: all rows of a
            // tile have the same length.
            let pair = unsafe { row.as_ptr().cast::<i32>().add(i).read_unaligned() };
            add_pair(sum, pair, b);
        }
    }
    if let Some(row_pair) = row_pairs.get(whole) {
        let b = load(row_pair);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // K is odd: the last code of the row and a zero (x86 is little-endian).
            add_pair(sum, i32::from(row[2 * whole] as u16), b);
        }
    }
    sums
}

/// `sum += [a0·b0 + a1·b1 for each column]`, where `pair` holds a0 and a1. With |b| ≤ 128 no pair sum overflows.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pair(sum: &mut [__m256i; 2], pair: i32, b: [__m256i; 2]) {
    let a = _mm256_set1_epi32(pair);
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(RowPair(row_pair): &RowPair) -> [__m256i; 2] {
    let start = row_pair.as_ptr().cast::<__m256i>();
    // SAFETY: a `RowPair` is 64 bytes, aligned to 64: two aligned vectors.
    unsafe { [_mm256_load_si256(start), _mm256_load_si256(start.add(1))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_array(sum: [__m256i; 2]) -> [i32; PANEL] {
    let mut array = [0i32; PANEL];
    let start = array.as_mut_ptr().cast::<__m256i>();
    // SAFETY: 16 i32 are 64 bytes: two vectors, and the store needs no alignment.
    unsafe {
        _mm256_storeu_si256(start, sum[0]);
        _mm256_storeu_si256(start.add(1), sum[1]);
    }
    array
}
