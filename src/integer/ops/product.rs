//! `codes(x) · B · Δ`, the arithmetic of every site.

use std::cell::RefCell;

use crate::integer::math;
use crate::kernel::{self, Bytes, PANEL, PackedB, Rows, fits_i32};
use crate::quant::{Quantizer, TwinScale};

/// Rows that are computed together: their codes and a panel's sums stay in the L2.
const MOST_ROWS: usize = 256;

/// How many of `m` rows make one task: the tasks fill all threads equally, and have about [`MOST_ROWS`] at most.
pub(super) fn rows_of_task(m: usize) -> usize {
    const ROWS_OF_A_TILE: usize = 6;
    let tasks = m.div_ceil(MOST_ROWS).next_multiple_of(rayon::current_num_threads());
    m.div_ceil(tasks.max(1)).next_multiple_of(ROWS_OF_A_TILE)
}

/// The quantizer of A, and how its codes are multiplied with a given B. Where it exists, every sum is exact.
#[derive(Clone, Copy)]
pub(super) struct Lhs {
    quantizer: Quantizer,
    product: Product,
}

#[derive(Clone, Copy)]
enum Product {
    /// One product, a twin as `a + (b << m)`.
    Fused,
    /// One product per range of a twin, joined as `sum_a + (sum_b << m)`.
    Split { shift: u8 },
}

impl Lhs {
    /// `None` if a sum over the rows of `b` might overflow.
    pub(super) fn new(quantizer: Quantizer, b: &PackedB) -> Option<Self> {
        let (max_abs_code, bytes) = (quantizer.max_abs_code(), kernel::best().takes_bytes());
        let product = match quantizer.twin() {
            None => fits(max_abs_code, b).then_some(Product::Fused)?,
            // Two products of bytes are as fast as one of words.
            Some(_) if !bytes && max_abs_code <= i16::MAX.into() && fits(max_abs_code, b) => Product::Fused,
            Some(TwinScale { shift, .. }) => {
                fits(quantizer.bits().half() - 1, b).then_some(Product::Split { shift })?
            }
        };
        Some(Self { quantizer, product })
    }
}

/// As [`fits_i32`], which has to read all of `b`, only where the sizes alone do not prove it.
fn fits(max_abs_a: i32, b: &PackedB) -> bool {
    let max_abs_b = i64::from(i8::MIN.unsigned_abs());
    i64::from(max_abs_a) * max_abs_b * b.k() as i64 <= i64::from(i32::MAX) || fits_i32(max_abs_a, b)
}

/// `(codes of x[M, K] · b) · scales`, panel by panel: `each` gets the panel's number and its values `[M][16]`. The
/// sums are exact; each becomes a float once.
///
/// The [`Lhs`] must have been made for `b`. `scales` gives the scales of the columns of a panel.
pub(super) fn multiply(
    Lhs { quantizer, product }: Lhs,
    x: &[f32],
    b: &PackedB,
    scales: impl Fn(usize) -> [f32; PANEL],
    mut each: impl FnMut(usize, &mut [[f32; PANEL]]),
) {
    let m = x.len() / b.k().max(1);
    SCRATCH.with_borrow_mut(|Scratch { codes, coarse_codes, sums, coarse_sums, values }| {
        let codes = grown(codes, x.len(), 0);
        let sums = grown(sums, m, [0; PANEL]);
        let values = grown(values, m, [0.0; PANEL]);
        match product {
            Product::Fused => {
                quantizer.fused_codes(x, codes);
                let codes = KernelCodes::new(codes, b.k(), quantizer.twin().is_none());
                codes.scaled_panels(b, sums, values, scales, each);
            }
            Product::Split { shift } => {
                let coarse_codes = grown(coarse_codes, x.len(), 0);
                let coarse_sums = grown(coarse_sums, m, [0; PANEL]);
                quantizer.split_codes(x, codes, coarse_codes);
                let fine = KernelCodes::new(codes, b.k(), true);
                let coarse = KernelCodes::new(coarse_codes, b.k(), true);
                for panel in 0..b.panels() {
                    fine.panel(b, panel, sums);
                    coarse.panel(b, panel, coarse_sums);
                    math::scale_split(sums, coarse_sums, shift, &scales(panel), values);
                    each(panel, values);
                }
            }
        }
    });
}

/// As [`multiply`], of the codes `[M, K]` of a uniform quantizer for which [`fits_codes`].
pub(super) fn multiply_codes(
    codes: &[i16],
    b: &PackedB,
    scales: impl Fn(usize) -> [f32; PANEL],
    each: impl FnMut(usize, &mut [[f32; PANEL]]),
) {
    let m = codes.len() / b.k().max(1);
    SCRATCH.with_borrow_mut(|Scratch { sums, values, .. }| {
        let (sums, values) = (grown(sums, m, [0; PANEL]), grown(values, m, [0.0; PANEL]));
        KernelCodes::new(codes, b.k(), true).scaled_panels(b, sums, values, scales, each);
    });
}

/// Whether no sum of codes of `quantizer`, a uniform one, over the rows of `b` can overflow.
pub(super) fn fits_codes(quantizer: Quantizer, b: &PackedB) -> bool {
    quantizer.twin().is_none() && fits(quantizer.max_abs_code(), b)
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that a thread keeps from one product to the next.
#[derive(Default)]
struct Scratch {
    codes: Vec<i16>,
    coarse_codes: Vec<i16>,
    sums: Vec<[i32; PANEL]>,
    coarse_sums: Vec<[i32; PANEL]>,
    values: Vec<[f32; PANEL]>,
}

/// The first `len` elements, with whatever they hold; the buffer grows if it is shorter.
fn grown<T: Clone>(buffer: &mut Vec<T>, len: usize, fill: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, fill);
    }
    &mut buffer[..len]
}

/// The codes of A as the kernel takes them.
enum KernelCodes<'a> {
    Words(&'a [i16]),
    Bytes(Bytes),
}

impl<'a> KernelCodes<'a> {
    fn new(codes: &'a [i16], k: usize, fit_bytes: bool) -> Self {
        match fit_bytes && kernel::best().takes_bytes() {
            true => Self::Bytes(Bytes::new(codes, k)),
            false => Self::Words(codes),
        }
    }

    fn panel(&self, b: &PackedB, panel: usize, sums: &mut [[i32; PANEL]]) {
        match self {
            Self::Words(codes) => kernel::best().panel(Rows::new(codes, b.k()), b, panel, sums),
            Self::Bytes(codes) => kernel::best().byte_panel(codes, b, panel, sums),
        }
    }

    /// Every panel of the product, scaled.
    fn scaled_panels(
        &self,
        b: &PackedB,
        sums: &mut [[i32; PANEL]],
        values: &mut [[f32; PANEL]],
        scales: impl Fn(usize) -> [f32; PANEL],
        mut each: impl FnMut(usize, &mut [[f32; PANEL]]),
    ) {
        for panel in 0..b.panels() {
            self.panel(b, panel, sums);
            math::scale(sums, &scales(panel), values);
            each(panel, values);
        }
    }
}

/// One value per column, grouped by panel; the last panel is padded with zeros.
pub(super) fn by_panel(columns: &[f32]) -> Vec<[f32; PANEL]> {
    let pad = |columns: &[f32]| std::array::from_fn(|i| columns.get(i).copied().unwrap_or(0.0));
    columns.chunks(PANEL).map(pad).collect()
}
