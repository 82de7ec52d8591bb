//! `codes(x) · B · Δ`, the arithmetic of every site.

use std::cell::RefCell;
use std::ops::Range;

use crate::integer::math;
use crate::kernel::{self, ByteLayout, Bytes, PANEL, PackedB, Rows, fits_i32};
use crate::quant::{Quantizer, TwinScale};

/// Rows that are computed together: their codes and a panel's sums stay in the L2.
const MOST_ROWS: usize = 256;

/// Rows of sums, of all panels that are computed together.
const MOST_SUMS: usize = 1024;

/// Rows of a panel that go from sums to the result at once: their values stay in the L1.
const ROWS_OF_A_BLOCK: usize = 32;

/// How many of `m` rows make one task: the tasks fill all threads equally, and have about [`MOST_ROWS`] at most.
pub(super) fn rows_of_task(m: usize) -> usize {
    const ROWS_OF_A_TILE: usize = 6;
    let rows_of_a_tile = kernel::best().byte_layout().map_or(1, |layout| layout.rows).max(ROWS_OF_A_TILE);
    let tasks = m.div_ceil(MOST_ROWS).next_multiple_of(rayon::current_num_threads());
    m.div_ceil(tasks.max(1)).next_multiple_of(rows_of_a_tile)
}

/// The quantizer of A, and how its codes are multiplied with a given B. Where it exists, every sum is exact.
#[derive(Clone, Copy)]
pub(super) struct Lhs {
    quantizer: Quantizer,
    product: Product,
    /// Of the codes, or of those of each range; `None` for words.
    layout: Option<ByteLayout>,
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
        let (max_abs_code, kernel) = (quantizer.max_abs_code(), kernel::best());
        let (product, layout) = match quantizer.twin() {
            None => (
                fits(max_abs_code, b).then_some(Product::Fused)?,
                kernel.byte_layout_for(quantizer.bits().half(), b),
            ),
            // Two products of bytes are as fast as one of words where all are multiplied in bytes, but not elsewhere.
            Some(_)
                if kernel.byte_layout().is_none()
                    && max_abs_code <= i16::MAX.into()
                    && fits(max_abs_code, b) =>
            {
                (Product::Fused, None)
            }
            Some(TwinScale { shift, .. }) => {
                let product = fits(quantizer.bits().half() - 1, b).then_some(Product::Split { shift })?;
                (product, kernel.byte_layout())
            }
        };
        Some(Self { quantizer, product, layout })
    }
}

/// As [`fits_i32`], which has to read all of `b`, only where the sizes alone do not prove it.
fn fits(max_abs_a: i32, b: &PackedB) -> bool {
    let max_abs_b = i64::from(i8::MIN.unsigned_abs());
    i64::from(max_abs_a) * max_abs_b * b.k() as i64 <= i64::from(i32::MAX) || fits_i32(max_abs_a, b)
}

/// What the columns of a panel are multiplied by, and the bias that is added, if there is one.
pub(super) type Scales<'s> = (&'s [f32; PANEL], Option<&'s [f32; PANEL]>);

/// Those rows of a panel of the result that are given at once.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) panel: usize,
    pub(super) rows: Range<usize>,
    /// How many columns are given of these rows, one panel after the other, before the next rows.
    pub(super) group: usize,
}

/// `(codes of x[M, K] · b) · scales + bias`, some panels at a time, and of these some rows at a time: `each` gets their
/// values, panel by panel. The sums are exact; each becomes a float once.
///
/// The [`Lhs`] must have been made for `b`. `scales` gives the scales of the columns of a panel.
pub(super) fn multiply<'s>(
    Lhs { quantizer, product, layout }: Lhs,
    x: &[f32],
    b: &PackedB,
    scales: impl Fn(usize) -> Scales<'s>,
    each: impl FnMut(Block, &mut [[f32; PANEL]]),
) {
    let (k, m) = (b.k(), x.len() / b.k().max(1));
    SCRATCH.with_borrow_mut(|Scratch { words, bytes, sums }| match (product, layout) {
        (Product::Fused, Some(layout)) => {
            let [codes, _] = bytes;
            let codes = cleared(codes, layout);
            for (x, codes) in x.chunks_exact(k.max(1)).zip(codes.rows_mut(m, k)) {
                quantizer.uniform_bytes(x, layout.offset, codes);
            }
            scaled_blocks(&[Codes::Bytes(codes)], b, sums, 0, scales, each);
        }
        (Product::Fused, None) => {
            let words = grown(words, x.len(), 0);
            quantizer.fused_codes(x, words);
            scaled_blocks(&[Codes::Words(Rows::new(words, k))], b, sums, 0, scales, each);
        }
        (Product::Split { shift }, Some(layout)) => {
            let [fine, coarse] = bytes.each_mut().map(|bytes| cleared(bytes, layout));
            for ((x, fine), coarse) in
                x.chunks_exact(k.max(1)).zip(fine.rows_mut(m, k)).zip(coarse.rows_mut(m, k))
            {
                quantizer.split_bytes(x, layout.offset, fine, coarse);
            }
            scaled_blocks(&[Codes::Bytes(fine), Codes::Bytes(coarse)], b, sums, shift, scales, each);
        }
        (Product::Split { shift }, None) => {
            let (fine, coarse) = grown(words, 2 * x.len(), 0).split_at_mut(x.len());
            quantizer.split_codes(x, fine, coarse);
            let codes = [fine, coarse].map(|codes| Codes::Words(Rows::new(codes, k)));
            scaled_blocks(&codes, b, sums, shift, scales, each);
        }
    });
}

/// As [`multiply`], of the codes `[M, K]` of a uniform quantizer for which [`fits_codes`].
pub(super) fn multiply_codes<'s>(
    codes: &[i16],
    b: &PackedB,
    scales: impl Fn(usize) -> Scales<'s>,
    each: impl FnMut(Block, &mut [[f32; PANEL]]),
) {
    SCRATCH.with_borrow_mut(|Scratch { bytes: [bytes, _], sums, .. }| {
        if let Some(layout) = kernel::best().byte_layout() {
            let bytes = cleared(bytes, layout);
            bytes.set(codes, b.k());
            scaled_blocks(&[Codes::Bytes(bytes)], b, sums, 0, scales, each);
        } else {
            scaled_blocks(&[Codes::Words(Rows::new(codes, b.k()))], b, sums, 0, scales, each);
        }
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
    words: Vec<i16>,
    /// Of both ranges of a twin.
    bytes: [Option<Bytes>; 2],
    sums: Vec<[i32; PANEL]>,
}

/// No rows yet, in the memory of those before.
fn cleared(bytes: &mut Option<Bytes>, layout: ByteLayout) -> &mut Bytes {
    let bytes = bytes.get_or_insert_with(|| Bytes::new(layout));
    bytes.clear(layout);
    bytes
}

/// The first `len` elements, with whatever they hold; the buffer grows if it is shorter.
fn grown<T: Clone>(buffer: &mut Vec<T>, len: usize, fill: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, fill);
    }
    &mut buffer[..len]
}

/// The codes of A, or of one range of it, as the kernel takes them.
enum Codes<'a> {
    Words(Rows<'a>),
    Bytes(&'a Bytes),
}

impl Codes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Words(codes) => codes.len(),
            Self::Bytes(codes) => codes.len(),
        }
    }

    /// The rows of a panel of sums.
    fn padded_len(&self) -> usize {
        match self {
            Self::Words(codes) => codes.len(),
            Self::Bytes(codes) => codes.padded_len(),
        }
    }

    /// The panels from `first` on for which there is room in `sums`.
    fn multiply(&self, b: &PackedB, first: usize, sums: &mut [[i32; PANEL]]) {
        match self {
            Self::Words(codes) => {
                for (panel, sums) in (first..).zip(sums.chunks_exact_mut(codes.len())) {
                    kernel::best().panel(*codes, b, panel, sums);
                }
            }
            Self::Bytes(codes) => kernel::best().byte_panels(codes, b, first, sums),
        }
    }
}

/// Every panel of the product with one lhs, or with both ranges of a twin, `fine + coarse·2^shift`; scaled.
fn scaled_blocks<'s, const RANGES: usize>(
    codes: &[Codes; RANGES],
    b: &PackedB,
    sums: &mut Vec<[i32; PANEL]>,
    shift: u8,
    scales: impl Fn(usize) -> Scales<'s>,
    mut each: impl FnMut(Block, &mut [[f32; PANEL]]),
) {
    let (len, padded_len) = (codes[0].len(), codes[0].padded_len());
    if len == 0 {
        return;
    }
    // AMX takes two at a time.
    let at_once = (MOST_SUMS / padded_len / 2 * 2).max(2);
    let mut values = [[0.0; PANEL]; ROWS_OF_A_BLOCK];
    for first in (0..b.panels()).step_by(at_once) {
        let panels = at_once.min(b.panels() - first);
        let sums = grown(sums, RANGES * panels * padded_len, [0; PANEL]);
        for (codes, sums) in codes.iter().zip(sums.chunks_exact_mut(panels * padded_len)) {
            codes.multiply(b, first, sums);
        }
        let group = b.columns(first + panels - 1).end - b.columns(first).start;
        for start in (0..len).step_by(ROWS_OF_A_BLOCK) {
            let rows = start..len.min(start + ROWS_OF_A_BLOCK);
            let values = &mut values[..rows.len()];
            for panel in 0..panels {
                let (scales, bias) = scales(first + panel);
                let of = |range: usize| &sums[(range * panels + panel) * padded_len + start..][..rows.len()];
                match RANGES {
                    1 => math::scale(of(0), scales, bias, values),
                    _ => math::scale_split([of(0), of(1)], shift, scales, bias, values),
                }
                each(Block { panel: first + panel, rows: rows.clone(), group }, values);
            }
        }
    }
}

/// One value per column, grouped by panel; the last panel is padded with zeros.
pub(super) fn by_panel(columns: &[f32]) -> Vec<[f32; PANEL]> {
    let pad = |columns: &[f32]| std::array::from_fn(|i| columns.get(i).copied().unwrap_or(0.0));
    columns.chunks(PANEL).map(pad).collect()
}
