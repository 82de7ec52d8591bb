//! What becomes of a panel of sums, by AVX-512: a row of 16 columns at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512d, __m512i, _mm256_castps_pd, _mm512_add_pd, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castpd256_pd512, _mm512_castsi512_si256, _mm512_cvtepi32_pd, _mm512_cvtepi32_ps, _mm512_cvtpd_ps,
    _mm512_extracti64x4_epi64, _mm512_insertf64x4, _mm512_load_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_pd, _mm512_mul_ps, _mm512_set1_pd,
    _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::mem::MaybeUninit;

use super::errors::{LANES, TargetRow};
use super::{Columns, PANEL, Scaling, Sums};

/// [`AddErrors::add`](super::errors::AddErrors::add).
#[target_feature(enable = "avx512f")]
pub(super) fn add_errors(sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
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
                add_error(join(fine, coarse, factor), scale, target, lanes);
            }
        }
    }
}

/// [`Kernel::scale`](super::Kernel::scale).
#[target_feature(enable = "avx512f")]
pub(super) fn scale(sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
    let (scales, bias) = (load_floats(scaling.scales), load_floats(scaling.bias()));
    let mask = ((1u32 << to.count()) - 1) as u16;
    let rows = to.rows(sums.len(), addends).zip(sums.fine);
    let write = |to: &mut [MaybeUninit<f32>], addends: Option<&[f32]>, sums| {
        let mut values = _mm512_add_ps(_mm512_mul_ps(sums, scales), bias);
        // SAFETY: `to` and `addends` are `count` long, and `mask` has so many bits.
        unsafe {
            if let Some(addends) = addends {
                values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(mask, addends.as_ptr()));
            }
            // On some CPUs, a store with a mask is slow.
            match mask {
                u16::MAX => _mm512_storeu_ps(to.as_mut_ptr().cast(), values),
                _ => _mm512_mask_storeu_ps(to.as_mut_ptr().cast(), mask, values),
            }
        }
    };
    match sums.coarse {
        None => {
            for ((to, addends), fine) in rows {
                write(to, addends, _mm512_cvtepi32_ps(load_sums(fine)));
            }
        }
        Some((coarse, shift)) => {
            let factor = _mm512_set1_pd(f64::from(1u32 << shift));
            for (((to, addends), fine), coarse) in rows.zip(coarse) {
                write(to, addends, join(fine, coarse, factor));
            }
        }
    }
}

/// `fine + coarse · factor`: exact in f64, and rounded once.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(fine: &[i32; PANEL], coarse: &[i32; PANEL], factor: __m512d) -> __m512 {
    let (fine, coarse) = (load_sums(fine), load_sums(coarse));
    let join = |fine, coarse| {
        let coarse = _mm512_mul_pd(_mm512_cvtepi32_pd(coarse), factor);
        _mm512_cvtpd_ps(_mm512_add_pd(_mm512_cvtepi32_pd(fine), coarse))
    };
    let low = join(_mm512_castsi512_si256(fine), _mm512_castsi512_si256(coarse));
    let high = join(_mm512_extracti64x4_epi64::<1>(fine), _mm512_extracti64x4_epi64::<1>(coarse));
    let (low, high) = (_mm256_castps_pd(low), _mm256_castps_pd(high));
    _mm512_castpd_ps(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
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
pub(super) fn load_sums(sums: &[i32; PANEL]) -> __m512i {
    // SAFETY: 16 i32 are 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_floats(floats: &[f32; PANEL]) -> __m512 {
    // SAFETY: 16 f32 are 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(floats.as_ptr()) }
}
