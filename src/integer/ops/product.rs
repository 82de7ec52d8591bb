//! `codes(x) · B · Δ`, the arithmetic of every site.

use std::cell::RefCell;
use std::ops::Range;

use super::lhs::{ByteCodes, Lhs, Product};
use super::written;
use crate::kernel::{self, Bytes, PANEL, PackedB, Rows, Scaling, Sums};

/// Rows that are computed together: their codes and a panel's sums stay in the L2.
const MOST_ROWS: usize = 256;

/// Rows of sums, of all panels that are computed together.
const MOST_SUMS: usize = 1024;

/// Rows of a panel that go from sums to the result at once: their values stay in the L1.
pub(super) const ROWS_OF_A_BLOCK: usize = 32;

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

/// Those rows of a panel of the result that are given at once.
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
    lhs: Lhs,
    x: &[f32],
    b: &PackedB,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    let k = b.k();
    SCRATCH.with_borrow_mut(|Scratch { words, bytes, sums }| match (lhs.layout, lhs.product) {
        (Some(_), _) => {
            bytes.set(lhs, x, k);
            blocks_of_bytes(bytes, b, sums, scaling, each);
        }
        (None, Product::Fused) => {
            let words = grown(words, x.len(), 0);
            lhs.quantizer.fused_codes(x, words);
            blocks(&[Codes::Words(Rows::new(words, k))], b, sums, 0, scaling, each);
        }
        (None, Product::Split { shift }) => {
            let (fine, coarse) = grown(words, 2 * x.len(), 0).split_at_mut(x.len());
            lhs.quantizer.split_codes(x, fine, coarse);
            let codes = [fine, coarse].map(|codes| Codes::Words(Rows::new(codes, k)));
            blocks(&codes, b, sums, shift, scaling, each);
        }
    });
}

/// As [`multiply`], of the codes `[M, K]` of a uniform quantizer for which [`fits_codes`](super::lhs::fits_codes).
pub(super) fn multiply_codes<'s>(
    codes: &[i16],
    b: &PackedB,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    SCRATCH.with_borrow_mut(|Scratch { bytes, sums, .. }| {
        if let Some(layout) = kernel::best().byte_layout() {
            bytes.set_codes(layout, codes, b.k());
            blocks_of_bytes(bytes, b, sums, scaling, each);
        } else {
            blocks(&[Codes::Words(Rows::new(codes, b.k()))], b, sums, 0, scaling, each);
        }
    });
}

/// As [`multiply`], of an lhs in bytes.
pub(super) fn multiply_bytes<'s>(
    bytes: &ByteCodes,
    b: &PackedB,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    SCRATCH.with_borrow_mut(|Scratch { sums, .. }| blocks_of_bytes(bytes, b, sums, scaling, each));
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that a thread keeps from one product to the next.
#[derive(Default)]
struct Scratch {
    words: Vec<i16>,
    bytes: ByteCodes,
    sums: Vec<[i32; PANEL]>,
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

fn blocks_of_bytes<'s>(
    bytes: &ByteCodes,
    b: &PackedB,
    sums: &mut Vec<[i32; PANEL]>,
    scaling: impl Fn(usize) -> Scaling<'s>,
    each: impl FnMut(Block),
) {
    match (bytes.fine(), bytes.coarse()) {
        (fine, None) => blocks(&[Codes::Bytes(fine)], b, sums, 0, scaling, each),
        (fine, Some((coarse, shift))) => {
            blocks(&[Codes::Bytes(fine), Codes::Bytes(coarse)], b, sums, shift, scaling, each);
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
