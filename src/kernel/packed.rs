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
        Self::pack_by(b.len(), k, n, |row, column| b[row * n + column])
    }

    /// Packs `b_t: [N, K]` row-major, the transposed operand (K of `Q·Kᵀ`).
    ///
    /// # Panics
    /// If `b_t` is not `k·n` long.
    pub fn pack_transposed(b_t: &[i8], k: usize, n: usize) -> Self {
        Self::pack_by(b_t.len(), k, n, |row, column| b_t[column * k + row])
    }

    fn pack_by(len: usize, k: usize, n: usize, at: impl Fn(usize, usize) -> i8) -> Self {
        assert_eq!(Some(len), k.checked_mul(n), "B must hold {k} x {n} codes");
        let row_pairs = k.div_ceil(2);
        let mut pairs = vec![RowPair([[0; 2]; PANEL]); n.div_ceil(PANEL) * row_pairs];
        let mut column_abs_sums = vec![0i64; n];
        for first in (0..n).step_by(PANEL) {
            let columns = first..n.min(first + PANEL);
            for row in 0..k {
                let RowPair(pair) = &mut pairs[first / PANEL * row_pairs + row / 2];
                for (slot, column) in pair.iter_mut().zip(columns.clone()) {
                    let code = at(row, column);
                    slot[row % 2] = i16::from(code);
                    column_abs_sums[column] += i64::from(code.unsigned_abs());
                }
            }
        }
        Self { k, n, max_column_abs_sum: column_abs_sums.into_iter().max().unwrap_or(0), pairs }
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
