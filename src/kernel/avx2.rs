//! `vpmaddwd` over pairs of codes: 32 multiply-adds per pair of instructions, 6 rows × 16 columns in registers.
#![allow(unsafe_code)]
// Every access through a cast pointer is an unaligned one, or to a `RowPair`, which is aligned to 64.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_load_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_load_ps, _mm256_load_si256,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_permute4x64_epi64,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_ps, _mm256_store_si256,
    _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_ps,
};
use std::mem::MaybeUninit;

use super::avx2_bytes as bytes;
use super::errors::{LANES, TargetRow, sum_of_lanes};
use super::packed::{ByteLayout, PANEL, Quad};
use super::{
    Bytes, Kernel, PackedB, PackedTarget, Portable, Rows, check_byte_panels, check_errors, check_panel,
    panels_of_words,
};

/// Rows of A in one tile: 6 × 2 accumulators, with B, A and a product beside them, fill the 16 registers.
const ROWS: usize = 6;

/// Quads of one block of K: its row pairs, 256 × 64 bytes, and six rows of A stay in a 32 KiB L1.
const BLOCK: usize = 128;

/// Two successive rows of one panel in i16, `[column][row]`: what `vpmaddwd` takes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct RowPair([[i16; 2]; PANEL]);

/// A proof that this CPU has AVX2.
pub(super) struct Avx2(());

impl Avx2 {
    /// `None` on a CPU without AVX2.
    pub(super) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
        check_panel(a, b, panel, c);
        // SAFETY: `self` exists only on a CPU with AVX2.
        unsafe { panel_of_product(a, b, panel, c) }
    }

    /// Where no sum of two products of bytes saturates: one of them has 7 bits or fewer.
    fn byte_layout_for(&self, half: i32, b: &PackedB) -> Option<ByteLayout> {
        let layout = ByteLayout { offset: u8::try_from(half).ok()?.cast_signed(), rows: 1, columns: 4 };
        (half > 0 && half <= 128 && bytes::most_pairs(layout, b) > 0).then_some(layout)
    }

    fn byte_panels(&self, a: &Bytes, b: &PackedB, first: usize, c: &mut [[i32; PANEL]]) {
        check_byte_panels(a, b, first, c);
        let ByteLayout { offset, rows, columns } = a.layout();
        let pairs = bytes::most_pairs(a.layout(), b);
        if offset == 0 || (rows, columns) != (1, 4) || pairs == 0 {
            return panels_of_words(self, a, b, first, c);
        }
        for (panel, c) in (first..).zip(c.chunks_exact_mut(a.len().max(1))) {
            // SAFETY: `self` exists only on a CPU with AVX2.
            unsafe { bytes::panel(a, b.panel(panel), pairs, c) }
        }
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
fn panel_of_product(a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
    let quads = b.panel(panel);
    if quads.is_empty() {
        c.fill([0; PANEL]);
    }
    let mut row_pairs = [const { MaybeUninit::uninit() }; 2 * BLOCK];
    for (block, quads) in quads.chunks(BLOCK).enumerate() {
        let row_pairs = expand(quads, &mut row_pairs);
        let first = 4 * block * BLOCK;
        for (a, c) in a.chunks(ROWS).zip(c.chunks_mut(ROWS)) {
            some_rows(a, b.k(), first, row_pairs, c);
        }
    }
}

/// [`tile`] for up to [`ROWS`] rows.
#[target_feature(enable = "avx2")]
fn some_rows(a: Rows, k: usize, first: usize, row_pairs: &[RowPair], c: &mut [[i32; PANEL]]) {
    match c.len() {
        1 => tile::<1>(a, k, first, row_pairs, c),
        2 => tile::<2>(a, k, first, row_pairs, c),
        3 => tile::<3>(a, k, first, row_pairs, c),
        4 => tile::<4>(a, k, first, row_pairs, c),
        5 => tile::<5>(a, k, first, row_pairs, c),
        _ => tile::<ROWS>(a, k, first, row_pairs, c),
    }
}

/// `C[R, 16] (+)= A[R, block] · B[block, 16]`, the block from column `first` of A on; the first one overwrites.
#[target_feature(enable = "avx2")]
fn tile<const R: usize>(a: Rows, k: usize, first: usize, row_pairs: &[RowPair], c: &mut [[i32; PANEL]]) {
    assert!(a.len() == R && c.len() == R && first <= k && k <= a.stride());
    let whole = row_pairs.len().min((k - first) / 2);
    let mut rows = [a.row(0)[first..].as_ptr(); R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = a.row(r)[first..].as_ptr();
    }
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    let mut add = |i: usize, row_pair: &RowPair| {
        let b = load(row_pair);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: `first + 2i + 1 < k ≤ stride`: both codes are inside the row.
            let pair = unsafe { row.cast::<i32>().add(i).read_unaligned() };
            add_pair(sum, pair, b);
        }
    };
    // Two per iteration, so that the addresses are computed half as often.
    let (pairs, last) = row_pairs[..whole].as_chunks::<2>();
    for (i, [first, second]) in pairs.iter().enumerate() {
        add(2 * i, first);
        add(2 * i + 1, second);
    }
    if let [row_pair] = last {
        add(whole - 1, row_pair);
    }
    if let (Some(row_pair), 1) = (row_pairs.get(whole), (k - first) % 2) {
        let b = load(row_pair);
        for (r, sum) in sums.iter_mut().enumerate() {
            // K is odd: the last code of the row and a zero (x86 is little-endian).
            add_pair(sum, i32::from(a.row(r)[k - 1] as u16), b);
        }
    }
    for (c, sum) in c.iter_mut().zip(sums) {
        let start = c.as_mut_ptr().cast::<__m256i>();
        for (half, sum) in sum.into_iter().enumerate() {
            // SAFETY: 16 i32 are two vectors, and neither access needs alignment.
            unsafe {
                let to = start.add(half);
                let before = if first == 0 { _mm256_setzero_si256() } else { _mm256_loadu_si256(to) };
                _mm256_storeu_si256(to, _mm256_add_epi32(before, sum));
            }
        }
    }
}

/// Widens the codes of `quads` to i16: each quad becomes two row pairs, at the front of `row_pairs`.
#[target_feature(enable = "avx2")]
fn expand<'p>(quads: &[Quad], row_pairs: &'p mut [MaybeUninit<RowPair>]) -> &'p [RowPair] {
    let row_pairs = &mut row_pairs[..2 * quads.len()];
    for (Quad(quad), pairs) in quads.iter().zip(row_pairs.chunks_exact_mut(2)) {
        let from = quad.as_ptr().cast::<__m128i>();
        let to = pairs.as_mut_ptr().cast::<__m256i>();
        for half in 0..2 {
            // SAFETY: a `Quad` is 64 bytes, four vectors; two `RowPair`s are 128 bytes, four larger ones; all aligned.
            unsafe {
                let low = _mm256_cvtepi8_epi16(_mm_load_si128(from.add(2 * half)));
                let high = _mm256_cvtepi8_epi16(_mm_load_si128(from.add(2 * half + 1)));
                _mm256_store_si256(to.add(half), deinterleave::<0b10_00_10_00>(low, high));
                _mm256_store_si256(to.add(2 + half), deinterleave::<0b11_01_11_01>(low, high));
            }
        }
    }
    // SAFETY: two row pairs of every quad were written.
    unsafe { row_pairs.assume_init_ref() }
}

/// The even or the odd pairs of codes of two groups of four columns, in the order of the columns.
#[inline]
#[target_feature(enable = "avx2")]
fn deinterleave<const PAIRS: i32>(low: __m256i, high: __m256i) -> __m256i {
    let both = _mm256_shuffle_ps::<PAIRS>(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(both))
}

/// As [`Kernel::errors`], panel by panel: the product never leaves the L1.
#[target_feature(enable = "avx2")]
fn errors(a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
    let (a, k) = (Rows::new(a, b.k()), b.k());
    let mut lanes = vec![[0f32; LANES]; sums.len()];
    let mut row_pairs = vec![MaybeUninit::uninit(); 2 * k.div_ceil(4)];
    let mut products = [[0; PANEL]; ROWS];
    for panel in 0..b.panels() {
        let row_pairs = expand(b.panel(panel), &mut row_pairs);
        let target = target.panel(panel).chunks(ROWS);
        for ((a, target), lanes) in a.chunks(ROWS).zip(target).zip(lanes.chunks_mut(ROWS)) {
            let products = &mut products[..lanes.len()];
            some_rows(a, k, 0, row_pairs, products);
            add_errors(products, scale, target, lanes);
        }
    }
    sums.iter_mut().zip(lanes).for_each(|(sum, lanes)| *sum = sum_of_lanes(lanes));
}

/// Adds the weighted squared errors of some rows and one panel to the lanes of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn add_errors(products: &[[i32; PANEL]], scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
    let scale = _mm256_set1_ps(scale);
    for ((products, target), lanes) in products.iter().zip(target).zip(lanes) {
        let (values, weights) = (halves(&target.values), halves(&target.weights));
        for ((half, value), weight) in values.into_iter().enumerate().zip(weights) {
            // SAFETY: 16 i32 are two vectors, and the load needs no alignment.
            let product = unsafe { _mm256_loadu_si256(products.as_ptr().cast::<__m256i>().add(half)) };
            let error = _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(product), scale), value);
            let term = _mm256_mul_ps(weight, _mm256_mul_ps(error, error));
            // SAFETY: 16 lanes are two vectors, and neither access needs alignment.
            unsafe {
                let lanes = lanes.as_mut_ptr().add(half * PANEL / 2);
                _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_loadu_ps(lanes), term));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(row: &[f32; PANEL]) -> [__m256; 2] {
    // SAFETY: the fields of a `TargetRow` are 64 bytes each, aligned to 64: two aligned vectors.
    unsafe { [_mm256_load_ps(row.as_ptr()), _mm256_load_ps(row.as_ptr().add(PANEL / 2))] }
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
