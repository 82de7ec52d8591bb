//! The right operand in the order in which the kernels read it.

/// Columns of one panel.
pub(super) const PANEL: usize = 16;

/// Two successive rows of one panel: `[column][row]`, one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct RowPair(pub(super) [[i16; 2]; PANEL]);

/// `B[K, N]` of i8 codes, packed once as `[N/16][K/2][16][2]` of i16, K and N padded with zeros.
pub struct PackedB {
    k: usize,
    n: usize,
    max_column_abs_sum: i64,
    pairs: Vec<RowPair>,
}

impl PackedB {
    /// Packs row-major `b: [K, N]`.
    ///
    /// # Panics
    /// If `b` is not `k·n` long.
    pub fn pack(b: &[i8], k: usize, n: usize) -> Self {
        assert_eq!(Some(b.len()), k.checked_mul(n), "B must hold {k} x {n} codes");
        let widen = |(to, &code): (&mut i16, &i8)| *to = code.into();
        Self::pack_rows(k, n, |row, to| to.iter_mut().zip(&b[row * n..]).for_each(widen))
    }

    /// Packs `b_t: [N, K]` row-major, the transposed operand (K of `Q·Kᵀ`).
    ///
    /// # Panics
    /// If `b_t` is not `k·n` long.
    pub fn pack_transposed(b_t: &[i8], k: usize, n: usize) -> Self {
        assert_eq!(Some(b_t.len()), k.checked_mul(n), "B must hold {k} x {n} codes");
        Self::pack_rows(k, n, |row, to| {
            to.iter_mut().enumerate().for_each(|(column, to)| *to = b_t[column * k + row].into());
        })
    }

    /// Packs the rows that `fill(row, codes)` writes; the codes must be those of an i8.
    pub fn pack_rows(k: usize, n: usize, mut fill: impl FnMut(usize, &mut [i16])) -> Self {
        let row_pairs = k.div_ceil(2);
        let panels = n.div_ceil(PANEL);
        let mut pairs = vec![RowPair([[0; 2]; PANEL]); panels * row_pairs];
        let mut column_abs_sums = vec![0u32; n];
        let mut rows = [vec![0i16; panels * PANEL], vec![0i16; panels * PANEL]];
        for i in 0..row_pairs {
            for (row, codes) in (2 * i..).zip(&mut rows) {
                match row < k {
                    true => fill(row, &mut codes[..n]),
                    false => codes.fill(0),
                }
                let add = |(sum, code): (&mut u32, &i16)| *sum += u32::from(code.unsigned_abs());
                column_abs_sums.iter_mut().zip(&*codes).for_each(add);
            }
            let panels = rows[0].chunks_exact(PANEL).zip(rows[1].chunks_exact(PANEL));
            for (panel, (even, odd)) in panels.enumerate() {
                let RowPair(pair) = &mut pairs[panel * row_pairs + i];
                for (slot, (&even, &odd)) in pair.iter_mut().zip(even.iter().zip(odd)) {
                    *slot = [even, odd];
                }
            }
        }
        let largest = column_abs_sums.into_iter().max().unwrap_or(0);
        Self { k, n, max_column_abs_sum: largest.into(), pairs }
    }

    /// Rows of B: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of B.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The largest `Σ|b|` of any column: times the largest `|a|`, it bounds every element of the product.
    pub fn max_column_abs_sum(&self) -> i64 {
        self.max_column_abs_sum
    }

    /// The panels from left to right: the first column of each and its `⌈K/2⌉` row pairs.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, &[RowPair])> {
        let row_pairs = self.k.div_ceil(2);
        (0..self.n.div_ceil(PANEL)).map(move |p| (p * PANEL, &self.pairs[p * row_pairs..][..row_pairs]))
    }

    /// `B[row, column]`.
    pub(super) fn code(&self, row: usize, column: usize) -> i16 {
        self.pairs[column / PANEL * self.k.div_ceil(2) + row / 2].0[column % PANEL][row % 2]
    }
}
