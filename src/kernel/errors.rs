//! The weighted squared error of a product: a search needs it instead of `A · B` itself.

use super::packed::{Bytes, PANEL, PackedB};
use super::{Kernel, Sums, check_byte_errors};

/// The number of lanes of a sum. Every kernel sums in the same order: the columns in lanes, then the lanes.
pub(super) const LANES: usize = PANEL;

/// Rows of sums of all panels that are computed together: they stay in the L1.
const MOST_SUMS: usize = 256;

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

    /// Multiplies the weights of each column by its unit, squared.
    ///
    /// # Panics
    /// If there are not N units.
    pub fn weigh_columns(&mut self, units: &[f32]) {
        assert_eq!(units.len(), self.n, "a unit for each column");
        for (rows, units) in self.rows.chunks_exact_mut(self.m.max(1)).zip(units.chunks(PANEL)) {
            for row in rows {
                row.weights.iter_mut().zip(units).for_each(|(weight, unit)| *weight *= unit * unit);
            }
        }
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

/// An lhs in bytes: its codes, or both ranges of a twin.
pub struct ByteLhs {
    /// The codes, or those of range R1.
    pub fine: Bytes,
    /// The codes of range R2, which count `2^shift` times, and this shift.
    pub coarse: Option<(Bytes, u8)>,
}

/// What adds to the lanes of some rows their weighted squared errors in one panel.
pub(super) trait AddErrors {
    fn add(&self, sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]);
}

/// As [`Kernel::byte_errors`], by the kernel's products of bytes.
pub(super) fn of_bytes(
    kernel: &(impl Kernel + ?Sized),
    errors: &impl AddErrors,
    a: &ByteLhs,
    b: &PackedB,
    scale: f32,
    target: &PackedTarget,
    sums: &mut [f32],
) {
    check_byte_errors(a, b, target, sums);
    let (len, padded_len) = (a.fine.len(), a.fine.padded_len());
    if len == 0 {
        return;
    }
    // AMX takes two at a time.
    let at_once = (MOST_SUMS / padded_len / 2 * 2).max(2);
    let size = at_once.min(b.panels()) * padded_len;
    let mut fine = vec![[0; PANEL]; size];
    let mut coarse = a.coarse.as_ref().map(|(codes, shift)| (codes, *shift, vec![[0; PANEL]; size]));
    let mut lanes = vec![[0f32; LANES]; len];
    for first in (0..b.panels()).step_by(at_once) {
        let panels = at_once.min(b.panels() - first);
        kernel.byte_panels(&a.fine, b, first, &mut fine[..panels * padded_len]);
        if let Some((codes, _, coarse)) = &mut coarse {
            kernel.byte_panels(codes, b, first, &mut coarse[..panels * padded_len]);
        }
        for panel in 0..panels {
            let rows = panel * padded_len..panel * padded_len + len;
            let coarse = coarse.as_ref().map(|(_, shift, coarse)| (&coarse[rows.clone()], *shift));
            let sums = Sums { fine: &fine[rows], coarse };
            errors.add(sums, scale, target.panel(first + panel), &mut lanes);
        }
    }
    sums.iter_mut().zip(lanes).for_each(|(sum, lanes)| *sum = sum_of_lanes(lanes));
}

/// [`AddErrors`] in plain Rust.
pub(super) struct Plain;

impl AddErrors for Plain {
    fn add(&self, sums: Sums, scale: f32, target: &[TargetRow], lanes: &mut [[f32; LANES]]) {
        for (row, (target, lanes)) in target.iter().zip(lanes).enumerate() {
            for (i, lane) in lanes.iter_mut().enumerate() {
                let fine = sums.fine[row][i];
                let acc = match sums.coarse {
                    None => fine as f32,
                    Some((coarse, shift)) => (i64::from(fine) + (i64::from(coarse[row][i]) << shift)) as f32,
                };
                *lane += term(acc, scale, target.values[i], target.weights[i]);
            }
        }
    }
}

/// `w·(scale·acc − O)²`.
#[inline]
fn term(acc: f32, scale: f32, value: f32, weight: f32) -> f32 {
    let error = acc * scale - value;
    weight * (error * error)
}

/// `Σ w·(scale·acc − O)²` in f32.
pub fn squared_error(acc: &[f32], scale: f32, values: &[f32], weights: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = acc.len() / LANES * LANES;
    let chunks = acc.chunks_exact(LANES).zip(values.chunks_exact(LANES)).zip(weights.chunks_exact(LANES));
    for ((acc, o), w) in chunks {
        for i in 0..LANES {
            lanes[i] += term(acc[i], scale, o[i], w[i]);
        }
    }
    for (i, lane) in (whole..acc.len()).zip(&mut lanes) {
        *lane += term(acc[i], scale, values[i], weights[i]);
    }
    sum_of_lanes(lanes)
}

/// The sum of the lanes, in their order.
#[inline]
pub(super) fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    lanes.into_iter().fold(0.0, |sum, lane| sum + lane)
}
