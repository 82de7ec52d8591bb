//! The weighted squared error of a product: a search needs it instead of `A · B` itself.

use super::packed::PANEL;

/// The number of lanes of a sum. Every kernel sums in the same order: the columns in lanes, then the lanes.
pub(super) const LANES: usize = 8;

/// The float product `[M, N]` that `A · B` is compared with, and the weights of its values, in the order in which the
/// kernels read them: `[N/16][M][2][16]`, N padded with zeros.
pub struct PackedTarget {
    m: usize,
    n: usize,
    rows: Vec<TargetRow>,
}

/// One row of one panel: two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct TargetRow {
    pub(super) values: [f32; PANEL],
    pub(super) weights: [f32; PANEL],
}

impl PackedTarget {
    /// Packs m rows of n columns; `row(i)` gives the values and, unless they are all 1, their weights.
    ///
    /// # Panics
    /// If a row is not n long.
    pub fn pack<'r>(m: usize, n: usize, row: impl Fn(usize) -> (&'r [f32], Option<&'r [f32]>)) -> Self {
        let mut rows = vec![TargetRow { values: [0.0; PANEL], weights: [0.0; PANEL] }; n.div_ceil(PANEL) * m];
        for i in 0..m {
            let (values, weights) = row(i);
            assert!(values.len() == n && weights.is_none_or(|w| w.len() == n), "row {i} must be {n} long");
            for (panel, values) in values.chunks(PANEL).enumerate() {
                let (to, width) = (&mut rows[panel * m + i], values.len());
                to.values[..width].copy_from_slice(values);
                match weights {
                    Some(w) => to.weights[..width].copy_from_slice(&w[panel * PANEL..][..width]),
                    None => to.weights[..width].fill(1.0),
                }
            }
        }
        Self { m, n, rows }
    }

    /// M.
    pub fn m(&self) -> usize {
        self.m
    }

    /// N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The values and the weights of a row.
    pub fn row(&self, row: usize) -> (Vec<f32>, Vec<f32>) {
        let panels = || self.rows.iter().skip(row).step_by(self.m);
        let mut values: Vec<f32> = panels().flat_map(|panel| panel.values).collect();
        let mut weights: Vec<f32> = panels().flat_map(|panel| panel.weights).collect();
        values.truncate(self.n);
        weights.truncate(self.n);
        (values, weights)
    }

    /// The rows of one panel.
    pub(super) fn panel(&self, panel: usize) -> &[TargetRow] {
        &self.rows[panel * self.m..][..self.m]
    }
}

/// `Σ w·(scale·acc − O)²` in f32.
pub fn squared_error(acc: &[f32], scale: f32, values: &[f32], weights: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let term = |acc: f32, o: f32, w: f32| {
        let error = acc * scale - o;
        w * (error * error)
    };
    let whole = acc.len() / LANES * LANES;
    let chunks = acc.chunks_exact(LANES).zip(values.chunks_exact(LANES)).zip(weights.chunks_exact(LANES));
    for ((acc, o), w) in chunks {
        for i in 0..LANES {
            lanes[i] += term(acc[i], o[i], w[i]);
        }
    }
    for (i, lane) in (whole..acc.len()).zip(&mut lanes) {
        *lane += term(acc[i], values[i], weights[i]);
    }
    sum_of_lanes(lanes)
}

/// The sum of the lanes, in their order.
#[inline]
pub(super) fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    lanes.into_iter().fold(0.0, |sum, lane| sum + lane)
}
