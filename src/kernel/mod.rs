//! Integer matrix products of codes: `C[M, N] = A[M, K] · B[K, N]`, exact, in i32.
//!
//! `A` holds i16 so that a fused twin operand `a + (b << m)` (PTQ4ViT, Eq. 5) fits; `B` holds i8 codes. Every kernel
//! computes the same integers: all arithmetic is modulo 2³², and equals the true product wherever [`fits_i32`] holds.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod errors;
mod packed;
mod portable;
mod reference;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
pub use errors::{PackedTarget, squared_error};
pub use packed::PackedB;
pub use portable::Portable;
pub use reference::Reference;

/// One way to multiply codes.
pub trait Kernel: Send + Sync {
    /// A short name for reports and benchmarks.
    fn name(&self) -> &'static str;

    /// `C[M, N] = A[M, K] · B[K, N]`, all row-major; what `c` held before is overwritten.
    ///
    /// It is the caller's duty that [`fits_i32`] holds for the largest `|a|`: then no sum, partial or whole, overflows.
    /// Otherwise the result is the true one modulo 2³².
    ///
    /// # Panics
    /// If `a` is not `m·b.k()` long or `c` is not `m·b.n()` long.
    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]);

    /// By row of `C = A · B`, [`squared_error`] of `scale · C` against `target`, to the bit; overwrites `sums: [M]`.
    ///
    /// # Panics
    /// If `a` is not `m·b.k()` long, `sums` not `m`, or `target` not `[m, b.n()]`.
    fn errors(&self, a: &[i16], b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        let (m, n) = (target.m(), target.n());
        check_errors(a, b, target, sums);
        let mut c = vec![0i32; m * n];
        self.gemm(a, m, b, &mut c);
        let c: Vec<f32> = c.into_iter().map(|acc| acc as f32).collect();
        for (row, sum) in sums.iter_mut().enumerate() {
            let (values, weights) = target.row(row);
            *sum = squared_error(&c[row * n..][..n], scale, &values, &weights);
        }
    }
}

/// Whether `A · B` is exact in i32 for every `A` with codes in `-max_abs_a ..= max_abs_a`:
/// `max_abs_a · max_column Σ|b| ≤ i32::MAX`.
pub fn fits_i32(max_abs_a: i32, b: &PackedB) -> bool {
    i64::from(max_abs_a.unsigned_abs())
        .checked_mul(b.max_column_abs_sum())
        .is_some_and(|bound| bound <= i64::from(i32::MAX))
}

/// The fastest kernel of this CPU.
pub fn best() -> &'static dyn Kernel {
    vector_kernel().unwrap_or(&Portable)
}

/// Every kernel that this CPU can run, the slowest first.
pub fn all() -> Vec<&'static dyn Kernel> {
    let mut kernels: Vec<&'static dyn Kernel> = vec![&Reference, &Portable];
    kernels.extend(vector_kernel());
    kernels
}

#[cfg(target_arch = "x86_64")]
fn vector_kernel() -> Option<&'static dyn Kernel> {
    static AVX2: OnceLock<Option<Avx2>> = OnceLock::new();
    AVX2.get_or_init(Avx2::new).as_ref().map(|kernel| kernel as &dyn Kernel)
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_kernel() -> Option<&'static dyn Kernel> {
    None
}

fn check_lengths(a: &[i16], m: usize, b: &PackedB, c: &[i32]) {
    assert_eq!(Some(a.len()), m.checked_mul(b.k()), "A must be [{m}, {}]", b.k());
    assert_eq!(Some(c.len()), m.checked_mul(b.n()), "C must be [{m}, {}]", b.n());
}

fn check_errors(a: &[i16], b: &PackedB, target: &PackedTarget, sums: &[f32]) {
    assert_eq!(Some(a.len()), target.m().checked_mul(b.k()), "A must be [{}, {}]", target.m(), b.k());
    assert_eq!((target.n(), sums.len()), (b.n(), target.m()), "the target and the sums must fit the product");
}

#[cfg(test)]
mod tests;
