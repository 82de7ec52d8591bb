//! `vpdpbusd` of AVX-512 VNNI: 64 multiply-adds per instruction, 12 rows × 16 columns in registers.
#![allow(unsafe_code)]
// Every access through a cast pointer is an unaligned one, or to a `Quad`, which is aligned to 64.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m512, __m512i, _mm256_castps_pd, _mm512_add_pd, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castpd256_pd512, _mm512_castsi512_si256, _mm512_cvtepi32_pd, _mm512_cvtepi32_ps, _mm512_cvtpd_ps,
    _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_insertf64x4, _mm512_load_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_pd, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_si512, _mm512_storeu_ps, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_sub_ps,
};

use super::errors::{self, AddErrors, LANES, Sums, TargetRow};
use super::packed::{ByteLayout, PANEL, Quad};
use super::{Avx2, ByteLhs, Bytes, Kernel, PackedB, PackedTarget, Rows, check_byte_panels};

/// Rows of A in one tile: enough independent sums to hide the latency of `vpdpbusd`.
const ROWS: usize = 12;

/// What A adds to each code, modulo 2⁸: then they are 0…255 without a sign.
const OFFSET: i8 = i8::MIN;

/// A proof that this CPU has AVX-512F and VNNI. Codes that do not fit a byte are left to AVX2.
pub(super) struct Vnni(Avx2);

impl Vnni {
    /// `None` on a CPU without AVX-512F and AVX-512 VNNI.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        Avx2::new().filter(|_| has).map(Self)
    }
}

impl Kernel for Vnni {
    fn name(&self) -> &'static str {
        "avx512-vnni"
    }

    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]) {
        self.0.panel(a, b, panel, c);
    }

    /// `vpdpbusd` takes A without a sign.
    fn byte_layout(&self) -> Option<ByteLayout> {
        Some(ByteLayout { offset: OFFSET, rows: 1, columns: 4 })
    }

    fn byte_panels(&self, a: &Bytes, b: &PackedB, first: usize, c: &mut [[i32; PANEL]]) {
        check_byte_panels(a, b, first, c);
        assert_eq!(Some(a.layout()), self.byte_layout(), "A must have the layout of this kernel");
        for (panel, c) in (first..).zip(c.chunks_exact_mut(a.len().max(1))) {
            // SAFETY: `self` exists only on a CPU with AVX-512F and VNNI.
            unsafe { panel_of_product(a, b.panel(panel), c) }
        }
    }

    fn errors(&self, a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        self.0.errors(a, b, scale, target, sums);
    }

    fn byte_errors(&self, a: &ByteLhs, b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        errors::of_bytes(self, self, a, b, scale, target, sums);
    }
}

impl AddErrors for Vnni {
    fn add(&self, sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
        // SAFETY: `self` exists only on a CPU with AVX-512F.
        unsafe { add_errors(sums, scale, target, lanes) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn panel_of_product(a: &Bytes, quads: &[Quad], c: &mut [[i32; PANEL]]) {
    // A holds code + 128. `offset` is what the 128 adds to each column; the tiles subtract it.
    let mut offset = _mm512_setzero_si512();
    for quad in quads {
        offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(OFFSET), load(quad));
    }
    for (first, c) in (0..).step_by(ROWS).zip(c.chunks_mut(ROWS)) {
        match c.len() {
            1 => tile::<1>(a, first, quads, offset, c),
            2 => tile::<2>(a, first, quads, offset, c),
            3 => tile::<3>(a, first, quads, offset, c),
            4 => tile::<4>(a, first, quads, offset, c),
            5 => tile::<5>(a, first, quads, offset, c),
            6 => tile::<6>(a, first, quads, offset, c),
            7 => tile::<7>(a, first, quads, offset, c),
            8 => tile::<8>(a, first, quads, offset, c),
            9 => tile::<9>(a, first, quads, offset, c),
            10 => tile::<10>(a, first, quads, offset, c),
            11 => tile::<11>(a, first, quads, offset, c),
            _ => tile::<ROWS>(a, first, quads, offset, c),
        }
    }
}

/// `C[R, 16] = A[R, K] · B[K, 16] − offset`, the rows from `first` on.
#[target_feature(enable = "avx512f,avx512vnni")]
fn tile<const R: usize>(a: &Bytes, first: usize, quads: &[Quad], offset: __m512i, c: &mut [[i32; PANEL]]) {
    assert!(c.len() == R);
    let mut rows = [a.row(first).as_ptr(); R];
    for (r, row) in rows.iter_mut().enumerate() {
        let codes = a.row(first + r);
        assert!(codes.len() >= 4 * quads.len());
        *row = codes.as_ptr();
    }
    let mut sums = [_mm512_setzero_si512(); R];
    for (i, quad) in quads.iter().enumerate() {
        let b = load(quad);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: a row has four codes for every quad.
            let codes = unsafe { row.cast::<i32>().add(i).read_unaligned() };
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(codes), b);
        }
    }
    for (c, sum) in c.iter_mut().zip(sums) {
        // SAFETY: 16 i32 are 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(c.as_mut_ptr().cast(), _mm512_sub_epi32(sum, offset)) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(Quad(quad): &Quad) -> __m512i {
    // SAFETY: a `Quad` is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(quad.as_ptr().cast()) }
}

/// A row of 16 columns at a time.
#[target_feature(enable = "avx512f")]
fn add_errors(sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
    let scale = _mm512_set1_ps(scale);
    let rows = sums.fine.iter().zip(target).zip(lanes);
    match sums.coarse {
        None => {
            for ((fine, target), lanes) in rows {
                add_error(_mm512_cvtepi32_ps(load_sums(fine)), scale, target, lanes);
            }
        }
        Some((coarse, shift)) => {
            let factor = _mm512_set1_pd(f64::from(1u32 << shift));
            for (((fine, target), lanes), coarse) in rows.zip(coarse) {
                // Exact in f64: rounded once, as an i64 would be.
                let (fine, coarse) = (load_sums(fine), load_sums(coarse));
                let join = |fine, coarse| {
                    let coarse = _mm512_mul_pd(_mm512_cvtepi32_pd(coarse), factor);
                    _mm512_cvtpd_ps(_mm512_add_pd(_mm512_cvtepi32_pd(fine), coarse))
                };
                let low = join(_mm512_castsi512_si256(fine), _mm512_castsi512_si256(coarse));
                let high = join(_mm512_extracti64x4_epi64::<1>(fine), _mm512_extracti64x4_epi64::<1>(coarse));
                let (low, high) = (_mm256_castps_pd(low), _mm256_castps_pd(high));
                let both = _mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high);
                add_error(_mm512_castpd_ps(both), scale, target, lanes);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_error(sums: __m512, scale: __m512, target: &TargetRow, lanes: &mut [f32; LANES]) {
    // SAFETY: each of these arrays is 64 bytes; those of a `TargetRow` are aligned to 64, the other needs no alignment.
    unsafe {
        let (values, weights) =
            (_mm512_load_ps(target.values.as_ptr()), _mm512_load_ps(target.weights.as_ptr()));
        let error = _mm512_sub_ps(_mm512_mul_ps(sums, scale), values);
        let term = _mm512_mul_ps(weights, _mm512_mul_ps(error, error));
        _mm512_storeu_ps(lanes.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(lanes.as_ptr()), term));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums(sums: &[i32; PANEL]) -> __m512i {
    // SAFETY: 16 i32 are 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}
