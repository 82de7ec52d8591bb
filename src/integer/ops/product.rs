//! `codes(x) · B · Δ`, the arithmetic of every site.

use std::cell::RefCell;

use crate::integer::math;
use crate::kernel::{self, Bytes, PANEL, PackedB, Rows, fits_i32};
use crate::quant::{Codes, Quantizer};

/// Rows that are worked on together: their codes and a panel's sums stay in the L2.
const MOST_ROWS: usize = 256;

/// The largest magnitude of a code of B.
const LARGEST_B: i64 = 128;

/// How many rows of `m` make one task: as many tasks as fit the threads, each of at most [`MOST_ROWS`] or so.
pub(super) fn rows_of_task(m: usize) -> usize {
    const ROWS_OF_A_TILE: usize = 6;
    let tasks = m.div_ceil(MOST_ROWS).next_multiple_of(rayon::current_num_threads());
    m.div_ceil(tasks.max(1)).next_multiple_of(ROWS_OF_A_TILE)
}

/// Whether `codes · b` is exact for every input of `a`: as one product, or as the two of a twin's ranges.
pub(super) fn is_exact(a: Quantizer, b: &PackedB) -> bool {
    let part = match a {
        Quantizer::Uniform { .. } => a.max_abs_code(),
        Quantizer::TwinSoftmax { bits, .. } | Quantizer::TwinGelu { bits, .. } => bits.half() - 1,
    };
    fits(part, b)
}

/// The largest `|code|` of `a` that may be multiplied in one product with `b`; 0 if a twin's ranges must stay apart.
pub(super) fn max_fused(a: Quantizer, b: &PackedB) -> i32 {
    // Two products of bytes are as fast as one of words.
    let apart = kernel::best().takes_bytes() && !matches!(a, Quantizer::Uniform { .. });
    if !apart && fits(a.max_abs_code(), b) { i16::MAX.into() } else { 0 }
}

/// As [`fits_i32`], which has to read all of `b`, only where the sizes alone do not prove it.
fn fits(max_abs_a: i32, b: &PackedB) -> bool {
    i64::from(max_abs_a) * LARGEST_B * b.k() as i64 <= i64::from(i32::MAX) || fits_i32(max_abs_a, b)
}

/// `(codes of x[M, K] · b) · steps`, panel by panel: `each` gets the panel's number and its values `[M][16]`. The
/// sums are exact; each becomes a float once.
///
/// `fused` is [`max_fused`] of `a` and `b`, for which [`is_exact`] must hold. `steps` are by panel.
pub(super) fn multiply(
    (a, fused): (Quantizer, i32),
    x: &[f32],
    b: &PackedB,
    steps: impl Fn(usize) -> [f32; PANEL],
    mut each: impl FnMut(usize, &mut [[f32; PANEL]]),
) {
    let m = x.len() / b.k().max(1);
    SCRATCH.with_borrow_mut(|Scratch { codes, sums, coarse_sums, values }| {
        let sums = grown(sums, m, [0; PANEL]);
        let values = grown(values, m, [0.0; PANEL]);
        if a.fuses(fused) {
            let codes = grown(codes, x.len(), 0);
            a.fused_codes(x, codes);
            let codes = Lhs::new(codes, b.k(), matches!(a, Quantizer::Uniform { .. }));
            for panel in 0..b.panels() {
                codes.panel(b, panel, sums);
                math::scale(sums, &steps(panel), values);
                each(panel, values);
            }
        } else if let Codes::Split { fine, coarse, shift } = a.codes(x, fused) {
            let [fine, coarse] = [&fine, &coarse].map(|codes| Lhs::new(codes, b.k(), true));
            let coarse_sums = grown(coarse_sums, m, [0; PANEL]);
            for panel in 0..b.panels() {
                fine.panel(b, panel, sums);
                coarse.panel(b, panel, coarse_sums);
                math::scale_split([sums, coarse_sums], shift, &steps(panel), values);
                each(panel, values);
            }
        }
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that a thread keeps from one product to the next.
#[derive(Default)]
struct Scratch {
    codes: Vec<i16>,
    sums: Vec<[i32; PANEL]>,
    coarse_sums: Vec<[i32; PANEL]>,
    values: Vec<[f32; PANEL]>,
}

/// The first `len` elements, whatever they hold.
fn grown<T: Clone>(buffer: &mut Vec<T>, len: usize, fill: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, fill);
    }
    &mut buffer[..len]
}

/// The codes of A as the kernel takes them.
enum Lhs<'a> {
    Words(&'a [i16]),
    Bytes(Bytes),
}

impl<'a> Lhs<'a> {
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
}

/// Column values in the order of the panels, the last padded with zeros.
pub(super) fn by_panel(columns: &[f32]) -> Vec<[f32; PANEL]> {
    let pad = |columns: &[f32]| std::array::from_fn(|i| columns.get(i).copied().unwrap_or(0.0));
    columns.chunks(PANEL).map(pad).collect()
}

/// Puts the values of a panel in their columns of `rows`, which lie `stride` apart from each other.
pub(super) fn store(panel: usize, n: usize, values: &[[f32; PANEL]], rows: &mut [f32], stride: usize) {
    let columns = panel * PANEL..n.min((panel + 1) * PANEL);
    for (row, values) in rows.chunks_mut(stride).zip(values) {
        match <&mut [f32; PANEL]>::try_from(&mut row[columns.clone()]) {
            Ok(row) => *row = *values,
            Err(_) => row[columns.clone()].copy_from_slice(&values[..columns.len()]),
        }
    }
}
