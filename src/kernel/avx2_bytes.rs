//! `vpmaddubsw` over bytes where no sum of two products saturates: 64 multiply-adds per pair of instructions.
#![allow(unsafe_code)]
// Every access through a cast pointer is an unaligned one, or to a `Quad`, which is aligned to 64.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_load_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_sub_epi32,
};

use super::packed::{ByteLayout, PANEL, Quad};
use super::{Bytes, PackedB};

/// Below this number, sums of pairs are widened one by one.
const FEW_PAIRS: usize = 4;

/// Rows of A in bytes in one tile, which has as many accumulators.
const ROWS: usize = 6;

/// How many sums of two products of bytes fit 16 bits together.
pub(super) fn most_pairs(a: ByteLayout, b: &PackedB) -> usize {
    // A holds code + half, which is below 2·half.
    let largest = 2 * i32::from(a.offset.cast_unsigned()) - 1;
    let pair = 2 * largest * i32::from(b.max_abs());
    (i32::from(i16::MAX) / pair.max(1)) as usize
}

/// All rows of A in bytes times one panel; up to `pairs` sums of two products are added in 16 bits.
#[target_feature(enable = "avx2")]
pub(super) fn panel(a: &Bytes, quads: &[Quad], pairs: usize, c: &mut [[i32; PANEL]]) {
    // A holds code + half. `offset` is what the half adds to each column.
    let half = _mm256_set1_epi8(a.layout().offset);
    let mut offset = [_mm256_setzero_si256(); 2];
    for quad in quads {
        let [low, high] = load(quad);
        add_wide(&mut offset, [_mm256_maddubs_epi16(half, low), _mm256_maddubs_epi16(half, high)]);
    }
    for (first, c) in (0..).step_by(ROWS).zip(c.chunks_mut(ROWS)) {
        match c.len() {
            1 => tile::<1>(a, first, quads, pairs, offset, c),
            2 => tile::<2>(a, first, quads, pairs, offset, c),
            3 => tile::<3>(a, first, quads, pairs, offset, c),
            4 => tile::<4>(a, first, quads, pairs, offset, c),
            5 => tile::<5>(a, first, quads, pairs, offset, c),
            _ => tile::<ROWS>(a, first, quads, pairs, offset, c),
        }
    }
}

/// `C[R, 16] = A[R, K] · B[K, 16] − offset`, the rows from `first` on.
#[target_feature(enable = "avx2")]
fn tile<const R: usize>(
    a: &Bytes,
    first: usize,
    quads: &[Quad],
    pairs: usize,
    offset: [__m256i; 2],
    c: &mut [[i32; PANEL]],
) {
    assert!(c.len() == R);
    let mut rows = [a.row(first).as_ptr(); R];
    for (r, row) in rows.iter_mut().enumerate() {
        let codes = a.row(first + r);
        assert!(codes.len() >= 4 * quads.len());
        *row = codes.as_ptr();
    }
    if pairs < FEW_PAIRS {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for (i, quad) in quads.iter().enumerate() {
            let b = load(quad);
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: a row has four codes for every quad.
                add_wide(sums, unsafe { pair_sums(row, i, b) });
            }
        }
        return c.iter_mut().zip(sums).for_each(|(c, sums)| store(c, subtract(sums, offset)));
    }
    for (block, quads) in quads.chunks(pairs).enumerate() {
        let mut narrow = [[_mm256_setzero_si256(); 2]; R];
        for (i, quad) in quads.iter().enumerate() {
            let b = load(quad);
            for (narrow, row) in narrow.iter_mut().zip(rows) {
                // SAFETY: a row has four codes for every quad.
                let pairs = unsafe { pair_sums(row, block * pairs + i, b) };
                *narrow = [_mm256_add_epi16(narrow[0], pairs[0]), _mm256_add_epi16(narrow[1], pairs[1])];
            }
        }
        for (c, narrow) in c.iter_mut().zip(narrow) {
            let mut sums =
                if block == 0 { subtract([_mm256_setzero_si256(); 2], offset) } else { load_sums(c) };
            add_wide(&mut sums, narrow);
            store(c, sums);
        }
    }
    if quads.is_empty() {
        c.fill([0; PANEL]);
    }
}

/// The sums of two products of four codes of a row, from `4·i` on, with those of a quad.
///
/// # Safety
/// The row has these codes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pair_sums(row: *const i8, i: usize, b: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: the caller's.
    let a = _mm256_set1_epi32(unsafe { row.cast::<i32>().add(i).read_unaligned() });
    [_mm256_maddubs_epi16(a, b[0]), _mm256_maddubs_epi16(a, b[1])]
}

/// Adds pairs of 16-bit sums.
#[inline]
#[target_feature(enable = "avx2")]
fn add_wide(sums: &mut [__m256i; 2], narrow: [__m256i; 2]) {
    let ones = _mm256_set1_epi16(1);
    for (sum, narrow) in sums.iter_mut().zip(narrow) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow, ones));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn subtract(sums: [__m256i; 2], offset: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_sub_epi32(sums[0], offset[0]), _mm256_sub_epi32(sums[1], offset[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_sums(c: &[i32; PANEL]) -> [__m256i; 2] {
    let start = c.as_ptr().cast::<__m256i>();
    // SAFETY: 16 i32 are two vectors, and the loads need no alignment.
    unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(c: &mut [i32; PANEL], sums: [__m256i; 2]) {
    let start = c.as_mut_ptr().cast::<__m256i>();
    // SAFETY: 16 i32 are two vectors, and the stores need no alignment.
    unsafe {
        _mm256_storeu_si256(start, sums[0]);
        _mm256_storeu_si256(start.add(1), sums[1]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(Quad(quad): &Quad) -> [__m256i; 2] {
    let start = quad.as_ptr().cast::<__m256i>();
    // SAFETY: a `Quad` is 64 bytes, aligned to 64: two aligned vectors.
    unsafe { [_mm256_load_si256(start), _mm256_load_si256(start.add(1))] }
}
