//! `codes(x) · B · Δ`, the arithmetic of every site.

use std::cell::RefCell;
use std::ops::Range;

use super::written;
use crate::kernel::{self, ByteLayout, Bytes, PANEL, PackedB, Rows, Scaling, Sums, fits_i32};
use crate::quant::{Quantizer, TwinScale};

/// Rows that are computed together: their codes and a panel's sums stay in the L2.
const MOST_ROWS: usize = 256;

/// Rows of sums, of all panels that are computed together.
const MOST_SUMS: usize = 1024;

/// Rows of a panel that go from sums to the result at once: their values stay in the L1.
const ROWS_OF_A_BLOCK: usize = 32;

/// How many of `m` rows make one task: the tasks fill all threads equally, and have about [`MOST_ROWS`] at most.
pub(super) fn rows_of_task(m: usize) -> usize {
    rows_of_task_of(m, MOST_ROWS)
}

/// As [`rows_of_task`], with about `most` rows at most.
pub(super) fn rows_of_task_of(m: usize, most: usize) -> usize {
    const ROWS_OF_A_TILE: usize = 6;
    let rows_of_a_tile = kernel::best().byte_layout().map_or(1, |layout| layout.rows).max(ROWS_OF_A_TILE);
    let tasks = m.div_ceil(most).next_multiple_of(rayon::current_num_threads());
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

    pub(super) fn takes_bytes(self) -> bool {
        self.layout.is_some()
    }
}

/// As [`fits_i32`], which has to read all of `b`, only where the sizes alone do not prove it.
fn fits(max_abs_a: i32, b: &PackedB) -> bool {
    let max_abs_b = i64::from(i8::MIN.unsigned_abs());
    i64::from(max_abs_a) * max_abs_b * b.k() as i64 <= i64::from(i32::MAX) || fits_i32(max_abs_a, b)
}

/// Those rows of a panel of the result that are given at once.
#[derive(Clone)]
pub(super) struct Block<'s> {
    pub(super) panel: usize,
    pub(super) rows: Range<usize>,
    /// How many columns are given of these rows, one panel after the other, before the next rows.
    pub(super) group: usize,
    pub(super) sums: Sums<'s>,
    pub(super) scaling: Scaling<'s>,
}

impl Block<'_> {
    /// Its floats, in the first rows of `values`.
    pub(super) fn values<'v>(&self, values: &'v mut Values) -> &'v mut [[f32; PANEL]] {
        written::scaled(self.sums, self.scaling, values)
    }
}

/// Room for the floats of a [`Block`].
pub(super) type Values = [[f32; PANEL]; ROWS_OF_A_BLOCK];

/// No values yet.
pub(super) const NO_VALUES: Values = [[0.0; PANEL]; ROWS_OF_A_BLOCK];

/// `(codes of x[M, K] · b) · scales + bias`, some panels at a time, and of these some rows at a time: `each` gets their
/// sums, panel by panel. They are exact; each becomes a float once.
///
/// The [`Lhs`] must have been made for `b`. `scaling` is that of a panel.
pub(super) fn multiply<'s>(
    Lhs { quantizer, product, layout }: Lhs,
    x: &[f32],
    b: &PackedB,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    let (k, m) = (b.k(), x.len() / b.k().max(1));
    SCRATCH.with_borrow_mut(|Scratch { words, bytes, sums }| match (product, layout) {
        (Product::Fused, Some(layout)) => {
            let [codes, _] = bytes;
            let codes = cleared(codes, layout);
            for (x, codes) in x.chunks_exact(k.max(1)).zip(codes.rows_mut(m, k)) {
                quantizer.uniform_bytes(x, layout.offset, codes);
            }
            blocks(&[Codes::Bytes(codes)], b, sums, 0, scaling, each);
        }
        (Product::Fused, None) => {
            let words = grown(words, x.len(), 0);
            quantizer.fused_codes(x, words);
            blocks(&[Codes::Words(Rows::new(words, k))], b, sums, 0, scaling, each);
        }
        (Product::Split { shift }, Some(layout)) => {
            let [fine, coarse] = bytes.each_mut().map(|bytes| cleared(bytes, layout));
            for ((x, fine), coarse) in
                x.chunks_exact(k.max(1)).zip(fine.rows_mut(m, k)).zip(coarse.rows_mut(m, k))
            {
                quantizer.split_bytes(x, layout.offset, fine, coarse);
            }
            blocks(&[Codes::Bytes(fine), Codes::Bytes(coarse)], b, sums, shift, scaling, each);
        }
        (Product::Split { shift }, None) => {
            let (fine, coarse) = grown(words, 2 * x.len(), 0).split_at_mut(x.len());
            quantizer.split_codes(x, fine, coarse);
            let codes = [fine, coarse].map(|codes| Codes::Words(Rows::new(codes, k)));
            blocks(&codes, b, sums, shift, scaling, each);
        }
    });
}

/// As [`multiply`], of the codes `[M, K]` of a uniform quantizer for which [`fits_codes`].
pub(super) fn multiply_codes<'s>(
    codes: &[i16],
    b: &PackedB,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    SCRATCH.with_borrow_mut(|Scratch { bytes: [bytes, _], sums, .. }| {
        if let Some(layout) = kernel::best().byte_layout() {
            let bytes = cleared(bytes, layout);
            bytes.set(codes, b.k());
            blocks(&[Codes::Bytes(bytes)], b, sums, 0, scaling, each);
        } else {
            blocks(&[Codes::Words(Rows::new(codes, b.k()))], b, sums, 0, scaling, each);
        }
    });
}

/// The codes of an lhs `[M, K]` that are made some columns at a time.
pub(super) struct Hidden {
    quantizer: Quantizer,
    shift: Option<u8>,
    layout: ByteLayout,
    memory: HiddenMemory,
}

/// The memory of a [`Hidden`], which a thread keeps from one to the next.
#[derive(Default)]
pub(super) struct HiddenMemory {
    /// Of both ranges of a twin.
    bytes: [Option<Bytes>; 2],
}

impl Hidden {
    /// `None` for an lhs that is not multiplied in bytes.
    pub(super) fn new(lhs: Lhs, [m, k]: [usize; 2], mut memory: HiddenMemory) -> Option<Self> {
        let layout = lhs.layout?;
        let shift = match lhs.product {
            Product::Fused => None,
            Product::Split { shift } => Some(shift),
        };
        let (used, unused) = memory.bytes.split_at_mut(1 + usize::from(shift.is_some()));
        used.iter_mut().for_each(|bytes| drop(cleared(bytes, layout).rows_mut(m, k)));
        unused.fill_with(|| None);
        Some(Self { quantizer: lhs.quantizer, shift, layout, memory })
    }

    /// Quantizes the values of some columns, from `column` on, of the rows from `row` on.
    pub(super) fn put(&mut self, row: usize, columns: Range<usize>, values: &[[f32; PANEL]]) {
        let mut codes = [[[0i8; PANEL]; ROWS_OF_A_BLOCK]; 2];
        let [fine, coarse] = codes.each_mut().map(|codes| &mut codes[..values.len()]);
        let (x, offset) = (values.as_flattened(), self.layout.offset);
        match self.shift {
            None => self.quantizer.uniform_bytes(x, offset, fine.as_flattened_mut()),
            Some(_) => {
                self.quantizer.split_bytes(x, offset, fine.as_flattened_mut(), coarse.as_flattened_mut());
            }
        }
        for (bytes, codes) in self.memory.bytes.iter_mut().flatten().zip([fine, coarse]) {
            for (to, codes) in bytes.rows_from_mut(row).zip(codes) {
                let to = &mut to[columns.clone()];
                match <&mut [i8; PANEL]>::try_from(&mut *to) {
                    Ok(to) => *to = *codes,
                    Err(_) => to.copy_from_slice(&codes[..columns.len()]),
                }
            }
        }
    }

    /// As [`multiply`], when all columns are there.
    pub(super) fn multiply<'s>(
        self,
        b: &PackedB,
        scaling: impl Fn(usize) -> Scaling<'s>,
        each: impl FnMut(Block),
    ) -> HiddenMemory {
        SCRATCH.with_borrow_mut(|Scratch { sums, .. }| match (&self.memory.bytes, self.shift) {
            ([Some(fine), Some(coarse)], Some(shift)) => {
                blocks(&[Codes::Bytes(fine), Codes::Bytes(coarse)], b, sums, shift, scaling, each);
            }
            ([Some(codes), _], None) => blocks(&[Codes::Bytes(codes)], b, sums, 0, scaling, each),
            _ => unreachable!("as many ranges as were cleared"),
        });
        self.memory
    }
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

/// Every panel of the product with one lhs, or with both ranges of a twin.
fn blocks<'s, const RANGES: usize>(
    codes: &[Codes; RANGES],
    b: &PackedB,
    sums: &mut Vec<[i32; PANEL]>,
    shift: u8,
    scaling: impl Fn(usize) -> Scaling<'s>,
    mut each: impl FnMut(Block),
) {
    let (len, padded_len) = (codes[0].len(), codes[0].padded_len());
    if len == 0 {
        return;
    }
    // AMX takes two at a time.
    let at_once = (MOST_SUMS / padded_len / 2 * 2).max(2);
    for first in (0..b.panels()).step_by(at_once) {
        let panels = at_once.min(b.panels() - first);
        let sums = grown(sums, RANGES * panels * padded_len, [0; PANEL]);
        for (codes, sums) in codes.iter().zip(sums.chunks_exact_mut(panels * padded_len)) {
            codes.multiply(b, first, sums);
        }
        let group = b.columns(first + panels - 1).end - b.columns(first).start;
        for start in (0..len).step_by(ROWS_OF_A_BLOCK) {
            let rows = start..len.min(start + ROWS_OF_A_BLOCK);
            for panel in 0..panels {
                let of = |range: usize| &sums[(range * panels + panel) * padded_len + start..][..rows.len()];
                let sums = Sums { fine: of(0), coarse: (RANGES == 2).then(|| (of(1), shift)) };
                let (panel, rows) = (first + panel, rows.clone());
                each(Block { panel, rows, group, sums, scaling: scaling(panel) });
            }
        }
    }
}

/// One value per column, grouped by panel; the last panel is padded with zeros.
pub(super) fn by_panel(columns: &[f32]) -> Vec<[f32; PANEL]> {
    let pad = |columns: &[f32]| std::array::from_fn(|i| columns.get(i).copied().unwrap_or(0.0));
    columns.chunks(PANEL).map(pad).collect()
}
