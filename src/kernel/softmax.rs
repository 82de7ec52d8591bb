//! Softmax by AVX-512, four vectors at a time: in one alone, each step of the polynomial waits for the one before.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, __m512, _CMP_NLT_UQ, _mm256_add_ps, _mm256_castpd_ps, _mm256_cvtss_f32, _mm256_max_ps,
    _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_pd,
    _mm512_castps_si512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_extractf64x4_pd, _mm512_loadu_ps, _mm512_maskz_mul_ps, _mm512_maskz_permutexvar_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::PANEL;
use crate::elementary::Exp;

/// Vectors that are computed together.
const AT_ONCE: usize = 4;

/// [`Kernel::softmax`](super::Kernel::softmax): false, and nothing is done, if the row is shorter than a vector.
#[target_feature(enable = "avx512f")]
pub(super) fn softmax(row: &mut [f32]) -> bool {
    let (length, rest) = (row.len(), row.len() % PANEL);
    if length < PANEL {
        return false;
    }
    // The last vector, of which the chunks have the first elements, too; these are computed twice.
    let last = load(row, length - PANEL);
    let mut max = _mm512_max_ps(last, _mm512_set1_ps(f32::NEG_INFINITY));
    for i in (0..length - rest).step_by(PANEL) {
        max = _mm512_max_ps(load(row, i), max);
    }
    let max = _mm512_set1_ps(join(max, |a, b| _mm256_max_ps(b, a)));

    let mut sums = _mm512_setzero_ps();
    let four = (length - rest) / (AT_ONCE * PANEL) * (AT_ONCE * PANEL);
    for start in (0..four).step_by(AT_ONCE * PANEL) {
        let x: [_; AT_ONCE] = std::array::from_fn(|i| _mm512_sub_ps(load(row, start + PANEL * i), max));
        for (i, x) in exp(x).into_iter().enumerate() {
            store(row, start + PANEL * i, x);
            sums = _mm512_add_ps(sums, x);
        }
    }
    for start in (four..length - rest).step_by(PANEL) {
        let [x] = exp([_mm512_sub_ps(load(row, start), max)]);
        store(row, start, x);
        sums = _mm512_add_ps(sums, x);
    }
    let [last] = exp([_mm512_sub_ps(last, max)]);
    if rest > 0 {
        // What is in no chunk, as the first lanes.
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32((PANEL - rest) as i32));
        let mask = ((1u32 << rest) - 1) as u16;
        sums = _mm512_add_ps(sums, _mm512_maskz_permutexvar_ps(mask, lanes, last));
    }

    let factor = _mm512_set1_ps(1.0 / join(sums, |a, b| _mm256_add_ps(a, b)));
    for i in (0..length - rest).step_by(PANEL) {
        store(row, i, _mm512_mul_ps(load(row, i), factor));
    }
    store(row, length - PANEL, _mm512_mul_ps(last, factor));
    true
}

/// [`elementary::exp`](crate::elementary::exp) of every lane, to the bit.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let splat = |x: f32| _mm512_set1_ps(x);
    let (end, magic) = (splat(Exp::END), splat(Exp::MAGIC));
    let bounded = x.map(|x| _mm512_max_ps(splat(-Exp::END), _mm512_min_ps(end, x)));
    let shifted = bounded.map(|x| _mm512_add_ps(_mm512_mul_ps(x, splat(std::f32::consts::LOG2_E)), magic));
    let r: [_; N] = std::array::from_fn(|i| {
        let n = _mm512_sub_ps(shifted[i], magic);
        let high = _mm512_sub_ps(bounded[i], _mm512_mul_ps(n, splat(Exp::LN_2_HIGH)));
        _mm512_sub_ps(high, _mm512_mul_ps(n, splat(Exp::LN_2_LOW)))
    });
    let (last, others) = Exp::TAYLOR.split_last().expect("it has terms");
    let mut value = [splat(*last); N];
    for term in others.iter().rev() {
        value = std::array::from_fn(|i| _mm512_add_ps(_mm512_mul_ps(value[i], r[i]), splat(*term)));
    }
    std::array::from_fn(|i| {
        let exponent = _mm512_add_epi32(_mm512_castps_si512(shifted[i]), _mm512_set1_epi32(127));
        let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
        let is_not_zero = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x[i], splat(Exp::ZERO));
        _mm512_maskz_mul_ps(is_not_zero, value[i], power)
    })
}

/// One value of all lanes: half of them with the other half, until one is left.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(lanes: __m512, join: impl Fn(__m256, __m256) -> __m256) -> f32 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes)));
    let eight = join(_mm512_castps512_ps256(lanes), high);
    let four = join(eight, _mm256_permute2f128_ps::<0x11>(eight, eight));
    let two = join(four, _mm256_shuffle_ps::<0b1110>(four, four));
    _mm256_cvtss_f32(join(two, _mm256_shuffle_ps::<0b01>(two, two)))
}

/// The vector from element `start` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[f32], start: usize) -> __m512 {
    let lanes = &row[start..][..PANEL];
    // SAFETY: 16 f32 are 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(row: &mut [f32], start: usize, lanes: __m512) {
    let to = &mut row[start..][..PANEL];
    // SAFETY: 16 f32 are 64 bytes, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) };
}
