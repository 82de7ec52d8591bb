//! The operands in the order in which the kernels read them.

use std::ops::{Range, RangeFrom};
use std::sync::OnceLock;

/// Columns of one panel.
pub const PANEL: usize = 16;

/// Four successive rows of one panel, `[column][row]`: one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Quad(pub(super) [[i8; 4]; PANEL]);

/// The lhs in words: codes `[M, K]`, row-major, with rows `stride` codes apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    codes: &'a [i16],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `stride` codes, of which a kernel reads the first K.
    ///
    /// # Panics
    /// If `codes` is not a whole number of rows.
    pub fn new(codes: &'a [i16], stride: usize) -> Self {
        assert!(
            codes.is_empty() || (stride > 0 && codes.len().is_multiple_of(stride)),
            "rows of {stride} codes"
        );
        Self { codes, stride }
    }

    /// M.
    pub fn len(self) -> usize {
        self.codes.len() / self.stride.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(self) -> bool {
        self.codes.is_empty()
    }

    /// All `stride` codes of a row.
    pub(super) fn row(self, row: usize) -> &'a [i16] {
        &self.codes[row * self.stride..][..self.stride]
    }

    /// Chunks of `rows` rows; the last may have fewer.
    pub(super) fn chunks(self, rows: usize) -> impl Iterator<Item = Rows<'a>> {
        self.codes.chunks(rows * self.stride.max(1)).map(move |codes| Self { codes, stride: self.stride })
    }

    pub(super) fn stride(self) -> usize {
        self.stride
    }
}

/// How a kernel takes codes of −128…127 in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteLayout {
    /// What is added to a code, modulo 2⁸.
    pub offset: i8,
    /// The number of rows is padded to a multiple of this.
    pub rows: usize,
    /// The length of a row is padded to a multiple of this, with zero codes.
    pub columns: usize,
}

/// The lhs in bytes, for codes of −128…127: `[M, K]`, padded as a [`ByteLayout`] says. The memory is kept from one lhs to
/// the next.
pub struct Bytes {
    layout: ByteLayout,
    memory: Vec<i8>,
    /// Where the first row begins in `memory`: at a cache line.
    start: usize,
    stride: usize,
    len: usize,
    k: usize,
}

impl Bytes {
    const LINE: usize = 64;

    /// No rows yet.
    pub fn new(layout: ByteLayout) -> Self {
        Self { layout, memory: Vec::new(), start: 0, stride: 0, len: 0, k: 0 }
    }

    /// No rows, in another layout.
    pub fn clear(&mut self, layout: ByteLayout) {
        *self = Self { memory: std::mem::take(&mut self.memory), ..Self::new(layout) };
    }

    /// Makes room for `len` rows of `k` bytes, with whatever they hold.
    pub fn resize(&mut self, len: usize, k: usize) {
        let ByteLayout { offset, rows, columns } = self.layout;
        (self.len, self.k, self.stride) = (len, k, k.next_multiple_of(columns));
        let size = len.next_multiple_of(rows) * self.stride;
        if self.memory.len() < size + Self::LINE {
            self.memory.resize(size + Self::LINE, offset);
        }
        self.start = self.memory.as_ptr().align_offset(Self::LINE).min(Self::LINE);
        let padded = self.memory[self.start..][..size].chunks_exact_mut(self.stride.max(1)).take(len);
        padded.for_each(|row| row[k..].fill(offset));
    }

    /// [Makes room](Self::resize) for `len` rows of `k` bytes, and gives them.
    pub fn rows_mut(&mut self, len: usize, k: usize) -> impl Iterator<Item = &mut [i8]> {
        self.resize(len, k);
        self.rows_from_mut(0)
    }

    /// The rows from `first` on, without what pads them.
    pub fn rows_from_mut(&mut self, first: usize) -> impl Iterator<Item = &mut [i8]> {
        let (k, stride) = (self.k, self.stride);
        let rows = &mut self.memory[self.start..][first * stride..self.len * stride];
        rows.chunks_exact_mut(stride.max(1)).map(move |row| &mut row[..k])
    }

    /// The codes of `a: [M, K]`, each in −128…127.
    ///
    /// # Panics
    /// If `a` is not a whole number of rows of K.
    pub fn set(&mut self, a: &[i16], k: usize) {
        let (offset, len) = (self.layout.offset, Rows::new(a, k).len());
        for (to, from) in self.rows_mut(len, k).zip(a.chunks_exact(k.max(1))) {
            to.iter_mut().zip(from).for_each(|(to, &code)| *to = (code as i8).wrapping_add(offset));
        }
    }

    /// M.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// M, padded.
    pub fn padded_len(&self) -> usize {
        self.len.next_multiple_of(self.layout.rows)
    }

    /// The length of a row, padded.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn layout(&self) -> ByteLayout {
        self.layout
    }

    /// The bytes of a row, padded.
    #[inline]
    pub(super) fn row(&self, row: usize) -> &[i8] {
        &self.rows(row..)[..self.stride]
    }

    /// The bytes of all rows from the first of `range` on, padded.
    #[inline]
    pub(super) fn rows(&self, range: RangeFrom<usize>) -> &[i8] {
        &self.memory[self.start..][range.start * self.stride..self.padded_len() * self.stride]
    }
}

/// `B[K, N]` of i8 codes, packed once as `[N/16][K/4][16][4]`, K and N padded with zeros.
pub struct PackedB {
    k: usize,
    n: usize,
    quads: Vec<Quad>,
    /// Known once it was asked for.
    max_abs: OnceLock<u8>,
    /// Of each panel; known once a kernel asked for it.
    column_sums: OnceLock<Vec<[i32; PANEL]>>,
}

impl PackedB {
    /// Quads that follow the last panel, so that a kernel may read 16 at a time.
    const SPARE: usize = 15;

    /// Packs row-major `b: [K, N]`.
    ///
    /// # Panics
    /// If `b` is not `k·n` long.
    pub fn pack(b: &[i8], k: usize, n: usize) -> Self {
        assert_eq!(Some(b.len()), k.checked_mul(n), "B must hold {k} x {n} codes");
        Self::pack_rows(k, n, |row, to| to.copy_from_slice(&b[row * n..][..n]))
    }

    /// Packs the rows that `fill(row, codes)` writes.
    pub fn pack_rows(k: usize, n: usize, mut fill: impl FnMut(usize, &mut [i8])) -> Self {
        let quads_of_panel = k.div_ceil(4);
        let mut packed = Self::zeros(k, n);
        if n == 0 {
            return packed;
        }
        let padded = n.next_multiple_of(PANEL);
        let mut rows = vec![0; 4 * padded];
        for i in 0..quads_of_panel {
            for (row, codes) in (4 * i..).zip(rows.chunks_exact_mut(padded)) {
                match row < k {
                    true => fill(row, &mut codes[..n]),
                    false => codes.fill(0),
                }
            }
            let [r0, r1, r2, r3] =
                [0, 1, 2, 3].map(|row| rows[row * padded..][..padded].as_chunks::<PANEL>().0);
            for (panel, (((r0, r1), r2), r3)) in r0.iter().zip(r1).zip(r2).zip(r3).enumerate() {
                let Quad(quad) = &mut packed.quads[panel * quads_of_panel + i];
                for (column, to) in quad.iter_mut().enumerate() {
                    *to = [r0[column], r1[column], r2[column], r3[column]];
                }
            }
        }
        packed
    }

    /// Packs the columns that `fill(column, codes)` writes.
    pub fn pack_columns(k: usize, n: usize, mut fill: impl FnMut(usize, &mut [i8])) -> Self {
        let quads_of_panel = k.div_ceil(4);
        let mut packed = Self::zeros(k, n);
        let mut codes = vec![0; 4 * quads_of_panel];
        for column in 0..n {
            fill(column, &mut codes[..k]);
            let quads = &mut packed.quads[column / PANEL * quads_of_panel..][..quads_of_panel];
            for (Quad(quad), codes) in quads.iter_mut().zip(codes.as_chunks().0) {
                quad[column % PANEL] = *codes;
            }
        }
        packed
    }

    fn zeros(k: usize, n: usize) -> Self {
        let quads = n.div_ceil(PANEL) * k.div_ceil(4) + Self::SPARE;
        let quads = vec![Quad([[0; 4]; PANEL]); quads];
        Self { k, n, quads, max_abs: OnceLock::new(), column_sums: OnceLock::new() }
    }

    /// Rows of B: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of B.
    pub fn n(&self) -> usize {
        self.n
    }

    /// How many panels of [`PANEL`] columns there are; the last may be partial.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// The columns of a panel.
    pub fn columns(&self, panel: usize) -> Range<usize> {
        panel * PANEL..self.n.min((panel + 1) * PANEL)
    }

    /// The largest `Σ|b|` of any column: times the largest `|a|`, it bounds every element of the product.
    pub fn max_column_abs_sum(&self) -> i64 {
        let sum_of_panel = |panel| {
            let mut sums = [0u32; PANEL];
            for Quad(quad) in self.panel(panel) {
                for (sum, codes) in sums.iter_mut().zip(quad) {
                    *sum += codes.iter().map(|code| u32::from(code.unsigned_abs())).sum::<u32>();
                }
            }
            sums.into_iter().max().unwrap_or(0)
        };
        (0..self.panels()).map(sum_of_panel).max().unwrap_or(0).into()
    }

    /// The largest `|b|`.
    pub(super) fn max_abs(&self) -> u8 {
        *self.max_abs.get_or_init(|| {
            let of_quad =
                |Quad(quad): &Quad| quad.as_flattened().iter().fold(0, |max, b| b.unsigned_abs().max(max));
            self.quads.iter().map(of_quad).max().unwrap_or(0)
        })
    }

    /// The sum of each column, by panel; at the first call, `of_panel` computes them.
    pub(super) fn column_sums(&self, of_panel: impl Fn(&[Quad]) -> [i32; PANEL]) -> &[[i32; PANEL]] {
        self.column_sums.get_or_init(|| (0..self.panels()).map(|panel| of_panel(self.panel(panel))).collect())
    }

    /// The `⌈K/4⌉` quads of one panel.
    pub(super) fn panel(&self, panel: usize) -> &[Quad] {
        let quads = self.k.div_ceil(4);
        &self.quads[panel * quads..][..quads]
    }

    /// The quads of one panel, and so many of those that follow that their number is a multiple of 16.
    pub(super) fn tiles(&self, panel: usize) -> &[Quad] {
        let quads = self.k.div_ceil(4);
        &self.quads[panel * quads..][..quads.next_multiple_of(Self::SPARE + 1)]
    }
}
