//! `vpdpbusd` of AVX-512 VNNI: 64 multiply-adds per instruction, 12 rows × 16 columns in registers.
#![allow(unsafe_code)]
// Every access through a cast pointer is an unaligned one, or to a `Quad`, which is aligned to 64.
#![allow(clippy::cast_ptr_alignment)]

use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_load_si512,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512,
    _mm512_sub_epi32,
};

use super::avx512::load_sums;
use super::errors::{self, AddErrors, LANES, TargetRow};
use super::packed::{ByteLayout, PANEL, Quad};
use super::{
    Avx2, ByteLhs, Bytes, Columns, Kernel, PackedB, PackedTarget, Rows, Scaling, Sums, avx512,
    check_byte_panels, softmax,
};

/// Rows of A in one tile: enough independent sums to hide the latency of `vpdpbusd`.
const ROWS: usize = 12;

/// What A adds to each code, modulo 2⁸: then they are 0…255 without a sign. It is −2⁷, as [`panel_of_product`] knows.
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
        if b.k() == 0 {
            return c.fill([0; PANEL]);
        }
        // SAFETY: `self` exists only on a CPU with AVX-512F and VNNI.
        let sums = b.column_sums(|quads| unsafe { column_sums(quads) });
        for (panel, c) in (first..).zip(c.chunks_exact_mut(a.len().max(1))) {
            let next = if panel + 1 < b.panels() { b.panel(panel + 1) } else { &[] };
            // SAFETY: as above.
            unsafe { panel_of_product(a, b.panel(panel), next, &sums[panel], c) }
        }
    }

    fn errors(&self, a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        self.0.errors(a, b, scale, target, sums);
    }

    fn byte_errors(&self, a: &ByteLhs, b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        errors::of_bytes(self, self, a, b, scale, target, sums);
    }

    fn scale(&self, sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
        // SAFETY: `self` exists only on a CPU with AVX-512F.
        unsafe { avx512::scale(sums, scaling, addends, to) }
    }

    fn softmax(&self, row: &mut [f32]) -> bool {
        // SAFETY: as above.
        unsafe { softmax::softmax(row) }
    }
}

impl AddErrors for Vnni {
    fn add(&self, sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
        // SAFETY: `self` exists only on a CPU with AVX-512F.
        unsafe { avx512::add_errors(sums, scale, target, lanes) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn column_sums(quads: &[Quad]) -> [i32; PANEL] {
    // Four sums, so that each need not wait for the one before.
    let mut sums = [_mm512_setzero_si512(); 4];
    for quads in quads.chunks(4) {
        for (sum, quad) in sums.iter_mut().zip(quads) {
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi8(1), load(quad));
        }
    }
    let [a, b, c, d] = sums;
    let sum = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
    let mut stored = [0; PANEL];
    store(&mut stored, sum);
    stored
}

/// One panel of `A · B`, whose columns have these sums. Meanwhile, the next panel of B is fetched.
#[target_feature(enable = "avx512f,avx512vnni")]
fn panel_of_product(
    a: &Bytes,
    quads: &[Quad],
    next: &[Quad],
    column_sums: &[i32; PANEL],
    c: &mut [[i32; PANEL]],
) {
    // A holds code + 128. `start` takes away what the 128 adds to each column.
    let start = _mm512_slli_epi32::<7>(_mm512_sub_epi32(_mm512_setzero_si512(), load_sums(column_sums)));
    let stride = a.stride();
    assert!(a.len() == c.len() && stride >= 4 * quads.len() && stride > 0);
    let rows = a.rows(0..).chunks(ROWS * stride);
    let mut fetched = next.chunks(next.len().div_ceil(c.len().div_ceil(ROWS)).max(1));
    for (a, c) in rows.zip(c.chunks_mut(ROWS)) {
        for quad in fetched.next().unwrap_or_default() {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(quad).cast());
        }
        match c.len() {
            1 => tile::<1>(a, stride, quads, start, c),
            2 => tile::<2>(a, stride, quads, start, c),
            3 => tile::<3>(a, stride, quads, start, c),
            4 => tile::<4>(a, stride, quads, start, c),
            5 => tile::<5>(a, stride, quads, start, c),
            6 => tile::<6>(a, stride, quads, start, c),
            7 => tile::<7>(a, stride, quads, start, c),
            8 => tile::<8>(a, stride, quads, start, c),
            9 => tile::<9>(a, stride, quads, start, c),
            10 => tile::<10>(a, stride, quads, start, c),
            11 => tile::<11>(a, stride, quads, start, c),
            _ => tile::<ROWS>(a, stride, quads, start, c),
        }
    }
}

/// `C[R, 16] = start + A[R, K] · B[K, 16]`, the rows of A `stride` bytes apart.
#[target_feature(enable = "avx512f,avx512vnni")]
fn tile<const R: usize>(a: &[i8], stride: usize, quads: &[Quad], start: __m512i, c: &mut [[i32; PANEL]]) {
    assert!(c.len() == R && a.len() == R * stride && 4 * quads.len() <= stride);
    let rows: [*const i8; R] = std::array::from_fn(|row| a[row * stride..].as_ptr());
    let mut sums = [start; R];
    for (i, quad) in quads.iter().enumerate() {
        let b = load(quad);
        for (sum, row) in sums.iter_mut().zip(rows) {
            // SAFETY: a row has four codes for every quad.
            let codes = unsafe { row.cast::<i32>().add(i).read_unaligned() };
            *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(codes), b);
        }
    }
    for (c, sum) in c.iter_mut().zip(sums) {
        store(c, sum);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(Quad(quad): &Quad) -> __m512i {
    // SAFETY: a `Quad` is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(quad.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [i32; PANEL], sums: __m512i) {
    // SAFETY: 16 i32 are 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), sums) };
}
