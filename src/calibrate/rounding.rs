//! Weights of few bits: each is rounded with what the roundings before it left over.
//!
//! GPTQ (Frantar et al., arXiv 2210.17323) in the form of Babai's nearest plane: with `H = L·Lᵀ`, the error of a column
//! `e = w − ŵ` is `‖Lᵀe‖² = Σ_i (L_ii e_i + Σ_{j>i} L_ji e_j)²`, and from the last row on each code makes its term the least.

use faer::Mat;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::gram::{Rows, factor, ridge_target};
use crate::Result;
use crate::quant::{Bits, Scale};

/// The scales tried for each channel, as shares of the one that the search found.
const SHARES: [f32; 8] = [0.7, 0.78, 0.86, 0.93, 1.0, 1.08, 1.17, 1.27];

/// ρ of the ridge target.
const RHO: f64 = 0.1;

/// Pairs of a column and a scale that are rounded at once.
const LANES: usize = 16;

/// A weight as codes.
pub(super) struct Rounded {
    /// `[K, N]`.
    pub(super) codes: Array2<i8>,
    /// One for each column.
    pub(super) scales: Vec<Scale>,
}

/// Rounds `weight` `[K, N]`, whose columns have `scales`; with `each` the scale of each column is chosen anew. `None` if
/// the values say too little.
pub(super) fn round(
    rows: &Rows,
    weight: &Array2<f32>,
    scales: &[Scale],
    bits: Bits,
    each: bool,
) -> Result<Option<Rounded>> {
    let gram = rows.gram();
    let Some(target) = ridge_target(&gram, &rows.cross(), weight, RHO) else { return Ok(None) };
    // The rows of the largest values are rounded first: what they leave over, many others can take.
    let mut order: Vec<usize> = (0..gram.nrows()).collect();
    order.sort_by(|&i, &j| gram[(i, i)].total_cmp(&gram[(j, j)]).then(j.cmp(&i)));
    let Some(lower) = factor(&gram, &order) else { return Ok(None) };
    let plane = Plane::new(&lower, order);
    let shares: &[f32] = if each { &SHARES } else { &[1.0] };
    let tried: Vec<(usize, f32)> = scales
        .iter()
        .enumerate()
        .flat_map(|(column, scale)| {
            shares.iter().map(move |share| (column, (scale.get() * share).max(f32::MIN_POSITIVE)))
        })
        .collect();
    let found: Vec<Lane> =
        tried.par_chunks(LANES).flat_map_iter(|lanes| plane.round(target.view(), lanes, bits)).collect();
    let mut codes = Array2::zeros(weight.dim());
    let mut chosen = Vec::with_capacity(scales.len());
    for (column, (of_column, tried)) in found.chunks(shares.len()).zip(tried.chunks(shares.len())).enumerate()
    {
        let best = (0..of_column.len()).min_by(|&i, &j| of_column[i].error.total_cmp(&of_column[j].error));
        let best = best.expect("there are shares");
        for (row, &code) in of_column[best].codes.iter().enumerate() {
            codes[[row, column]] = code;
        }
        chosen.push(Scale::new(tried[best].1)?);
    }
    Ok(Some(Rounded { codes, scales: chosen }))
}

/// The factor of the Gram matrix as the rounding reads it.
struct Plane {
    /// Row of the weight that belongs to each row of the factor.
    order: Vec<usize>,
    /// `L_ji / L_ii` for i < j, row after row of j.
    below: Vec<f32>,
    diagonal: Vec<f32>,
}

/// The codes of one column with one scale, and their error.
struct Lane {
    codes: Vec<i8>,
    error: f32,
}

impl Plane {
    fn new(lower: &Mat<f64>, order: Vec<usize>) -> Self {
        let k = order.len();
        let below =
            (0..k).flat_map(|j| (0..j).map(move |i| (lower[(j, i)] / lower[(i, i)]) as f32)).collect();
        Self { order, below, diagonal: (0..k).map(|i| lower[(i, i)] as f32).collect() }
    }

    /// Rounds `lanes`: columns of `target`, each with its scale.
    fn round(&self, target: ArrayView2<f32>, lanes: &[(usize, f32)], bits: Bits) -> Vec<Lane> {
        let k = self.order.len();
        let half = bits.half() as f32;
        let mut pending = vec![[0f32; LANES]; k];
        let mut found: Vec<Lane> = lanes.iter().map(|_| Lane { codes: vec![0; k], error: 0.0 }).collect();
        for j in (0..k).rev() {
            let row = self.order[j];
            let mut left = [0f32; LANES];
            for (lane, &(column, scale)) in lanes.iter().enumerate() {
                let w = target[[row, column]];
                let centre = w + pending[j][lane];
                let code = (centre / scale).clamp(-half, half - 1.0).round_ties_even();
                let term = (centre - code * scale) * self.diagonal[j];
                found[lane].error += term * term;
                found[lane].codes[row] = code as i8;
                left[lane] = w - code * scale;
            }
            let below = &self.below[j * j.saturating_sub(1) / 2..][..j];
            for (pending, &share) in pending.iter_mut().zip(below) {
                pending.iter_mut().zip(left).for_each(|(x, left)| *x += share * left);
            }
        }
        found
    }
}
