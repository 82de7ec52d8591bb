//! Integer matrix products of codes: `C[M, N] = A[M, K] · B[K, N]`, exact, in i32.
//!
//! `A` holds i16 so that a fused twin operand `a + (b << m)` (PTQ4ViT, Eq. 5) fits; `B` holds i8 codes. Every kernel
//! computes the same integers: all arithmetic is modulo 2³², and equals the true product wherever [`fits_i32`] holds.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_bytes;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod errors;
mod packed;
mod portable;
mod reference;
mod scale;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use amx::Amx;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
pub use errors::{ByteLhs, PackedTarget, squared_error};
pub use packed::{ByteLayout, Bytes, PANEL, PackedB, Rows};
use portable::Portable;
use reference::Reference;
pub use scale::{Columns, Scaling, Sums};
#[cfg(target_arch = "x86_64")]
use vnni::Vnni;

/// One way to multiply codes.
///
/// The caller makes sure that [`fits_i32`] holds for the largest `|a|`: then no sum, partial or whole, overflows.
/// Otherwise the results are the true ones modulo 2³².
pub trait Kernel: Send + Sync {
    /// A short name for reports and benchmarks.
    fn name(&self) -> &'static str;

    /// Overwrites `c: [M][16]` with one panel of `C = A · B`: its columns from `16·panel` on.
    ///
    /// # Panics
    /// If a row of `a` is shorter than `b.k()`, `c` has not M rows, or there is no such panel.
    fn panel(&self, a: Rows, b: &PackedB, panel: usize, c: &mut [[i32; PANEL]]);

    /// How [`byte_panels`](Self::byte_panels) wants an A whose codes fit a byte, whatever A and B hold; `None` where bytes
    /// are not faster than words.
    fn byte_layout(&self) -> Option<ByteLayout> {
        None
    }

    /// As [`byte_layout`](Self::byte_layout), for an A with codes in `-half..half` and this B, which may be all that the
    /// kernel multiplies in bytes.
    fn byte_layout_for(&self, half: i32, b: &PackedB) -> Option<ByteLayout> {
        let _ = (half, b);
        self.byte_layout()
    }

    /// As [`panel`](Self::panel), for an A whose codes fit a byte, and for all panels from `first` on for which there is
    /// room in `c: [panels][M, padded][16]`. The padding is overwritten with anything.
    ///
    /// # Panics
    /// If the sizes disagree, or `a` has another layout than [`byte_layout_for`](Self::byte_layout_for) gives.
    fn byte_panels(&self, a: &Bytes, b: &PackedB, first: usize, c: &mut [[i32; PANEL]]) {
        panels_of_words(self, a, b, first, c);
    }

    /// Overwrites `c` with `C[M, N] = A[M, K] · B[K, N]`, all row-major.
    ///
    /// # Panics
    /// If `a` is not `m·b.k()` long or `c` is not `m·b.n()` long.
    fn gemm(&self, a: &[i16], m: usize, b: &PackedB, c: &mut [i32]) {
        let (k, n) = (b.k(), b.n());
        assert_eq!(Some(a.len()), m.checked_mul(k), "A must be [{m}, {k}]");
        assert_eq!(Some(c.len()), m.checked_mul(n), "C must be [{m}, {n}]");
        if k == 0 || c.is_empty() {
            return c.fill(0);
        }
        let mut sums = vec![[0; PANEL]; m];
        for panel in 0..b.panels() {
            self.panel(Rows::new(a, k), b, panel, &mut sums);
            let columns = b.columns(panel);
            for (c, sums) in c.chunks_exact_mut(n).zip(&sums) {
                c[columns.clone()].copy_from_slice(&sums[..columns.len()]);
            }
        }
    }

    /// Overwrites `sums: [M]` with the [`squared_error`] of each row of `scale · A · B` against `target`, to the bit.
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

    /// As [`errors`](Self::errors), for an lhs in bytes. No sum of either range of it may overflow.
    ///
    /// # Panics
    /// If the sizes disagree, or `a` has another layout than [`byte_layout`](Self::byte_layout).
    fn byte_errors(&self, a: &ByteLhs, b: &PackedB, scale: f32, target: &PackedTarget, sums: &mut [f32]) {
        errors::of_bytes(self, &errors::Plain, a, b, scale, target, sums);
    }

    /// Overwrites `to` with `sums · scales + bias`, plus those columns of `addends`, a matrix of the same sizes as that
    /// which `to` is in. Each step is rounded once, as f32.
    ///
    /// # Panics
    /// If the sizes disagree.
    fn scale(&self, sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
        scale::plain(sums, scaling, addends, to);
    }

    /// ONNX `Softmax` of one row, in place, with the bits that loops over [`exp`](crate::elementary::exp) give, summed in
    /// [`PANEL`] lanes. `false`, and nothing is done, where the kernel has nothing faster than these loops.
    fn softmax(&self, row: &mut [f32]) -> bool {
        let _ = row;
        false
    }
}

/// Whether `A · B` is exact in i32 for every `A` with codes in `-max_abs_a ..= max_abs_a`:
/// `max_abs_a · max_column Σ|b| ≤ i32::MAX`.
pub fn fits_i32(max_abs_a: i32, b: &PackedB) -> bool {
    i64::from(max_abs_a.unsigned_abs())
        .checked_mul(b.max_column_abs_sum())
        .is_some_and(|bound| bound <= i64::from(i32::MAX))
}

/// The variable of the environment that names a kernel, to measure it where there are faster ones.
pub const VARIABLE: &str = "ONNX_PTQ4VIT_KERNEL";

/// The kernel that is used: the one that [`VARIABLE`] names, or else the fastest one that this CPU can run.
pub fn best() -> &'static dyn Kernel {
    static BEST: OnceLock<&'static dyn Kernel> = OnceLock::new();
    *BEST.get_or_init(|| {
        let asked = std::env::var(VARIABLE).ok();
        let named = all().iter().find(|kernel| asked.as_deref() == Some(kernel.name()));
        named.or(all().last()).copied().unwrap_or(&Portable)
    })
}

/// Every kernel that this CPU can run, the slowest first.
pub fn all() -> &'static [&'static dyn Kernel] {
    static ALL: OnceLock<Vec<&'static dyn Kernel>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut kernels: Vec<&'static dyn Kernel> = vec![&Reference, &Portable];
        kernels.extend(vector_kernels());
        kernels
    })
}

/// The features of this CPU that kernels, ours and those of ONNX Runtime, choose by.
pub fn cpu_features() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avxvnni", std::is_x86_feature_detected!("avxvnni")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
            ("amxint8", amx::has_tiles()),
        ];
        let found: Vec<&str> = has.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        format!("x86_64 {}", if found.is_empty() { "without AVX2".into() } else { found.join(" ") })
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH.to_string()
}

#[cfg(target_arch = "x86_64")]
fn vector_kernels() -> impl Iterator<Item = &'static dyn Kernel> {
    static AVX2: OnceLock<Option<Avx2>> = OnceLock::new();
    static VNNI: OnceLock<Option<Vnni>> = OnceLock::new();
    static AMX: OnceLock<Option<Amx>> = OnceLock::new();
    let avx2 = AVX2.get_or_init(Avx2::new).as_ref().map(|kernel| kernel as &dyn Kernel);
    let vnni = VNNI.get_or_init(Vnni::new).as_ref().map(|kernel| kernel as &dyn Kernel);
    let amx = AMX.get_or_init(Amx::new).as_ref().map(|kernel| kernel as &dyn Kernel);
    [avx2, vnni, amx].into_iter().flatten()
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_kernels() -> impl Iterator<Item = &'static dyn Kernel> {
    std::iter::empty()
}

/// [`Kernel::byte_panels`] of any layout, by [`Kernel::panel`].
fn panels_of_words(
    kernel: &(impl Kernel + ?Sized),
    a: &Bytes,
    b: &PackedB,
    first: usize,
    c: &mut [[i32; PANEL]],
) {
    check_byte_panels(a, b, first, c);
    let offset = a.layout().offset;
    let widen = |row| a.row(row)[..b.k()].iter().map(|code| i16::from(code.wrapping_sub(offset)));
    let codes: Vec<i16> = (0..a.len()).flat_map(widen).collect();
    for (panel, c) in (first..).zip(c.chunks_exact_mut(a.padded_len().max(1))) {
        let c = &mut c[..a.len()];
        match b.k() {
            0 => c.fill([0; PANEL]),
            k => kernel.panel(Rows::new(&codes, k), b, panel, c),
        }
    }
}

fn check_panel(a: Rows, b: &PackedB, panel: usize, c: &[[i32; PANEL]]) {
    assert!(a.is_empty() || a.stride() >= b.k(), "rows of {} codes, expected {}", a.stride(), b.k());
    assert_eq!(a.len(), c.len(), "C must have the rows of A");
    assert!(panel < b.panels(), "panel {panel} of {}", b.panels());
}

fn check_byte_panels(a: &Bytes, b: &PackedB, first: usize, c: &[[i32; PANEL]]) {
    let stride = b.k().next_multiple_of(a.layout().columns);
    assert!(a.is_empty() || a.stride() == stride, "rows of {} bytes, expected {stride}", a.stride());
    let rows = a.padded_len();
    assert!(c.is_empty() || (rows > 0 && c.len().is_multiple_of(rows)), "C must have the rows of A");
    let panels = c.len() / rows.max(1);
    assert!(first + panels <= b.panels(), "{panels} panels from {first} on, of {}", b.panels());
}

fn check_errors(a: &[i16], b: &PackedB, target: &PackedTarget, sums: &[f32]) {
    assert_eq!(Some(a.len()), target.m().checked_mul(b.k()), "A must be [{}, {}]", target.m(), b.k());
    assert_eq!((target.n(), sums.len()), (b.n(), target.m()), "the target and the sums must fit the product");
}

fn check_byte_errors(a: &ByteLhs, b: &PackedB, target: &PackedTarget, sums: &[f32]) {
    let ranges = std::iter::once(&a.fine).chain(a.coarse.as_ref().map(|(codes, _)| codes));
    assert!(ranges.map(Bytes::len).all(|len| len == target.m()), "A must have {} rows", target.m());
    assert_eq!((target.n(), sums.len()), (b.n(), target.m()), "the target and the sums must fit the product");
}

#[cfg(test)]
mod tests;
