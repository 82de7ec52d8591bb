//! The loss of one pair of quantizers, on integer codes.

use ndarray::Array2;

use super::super::metric::Row;
use super::{Problem, Right, Settings};
use crate::kernel::{self, Kernel, PackedB, fits_i32};
use crate::quant::{Codes, Quantizer, Scale};

/// Rows of the product that are held at a time.
const ROWS: usize = 48;

/// A problem with its float outputs, ready to be evaluated.
pub(super) struct Evaluator<'p> {
    pub(super) problem: &'p Problem,
    pub(super) settings: &'p Settings,
    references: Vec<Array2<f32>>,
    /// The pictures, those first that weigh most: they drop a bad candidate soonest.
    order: Vec<usize>,
    kernel: &'static dyn Kernel,
}

/// `B` as packed codes: one for a weight, one a picture for an activation; and the scales of its groups.
pub(super) struct PackedRight {
    packed: Vec<PackedB>,
    scales: Vec<Scale>,
}

impl<'p> Evaluator<'p> {
    pub(super) fn new(problem: &'p Problem, settings: &'p Settings) -> Self {
        let weight: Vec<f64> =
            problem.curvature.iter().map(|c| c.iter().map(|&g2| f64::from(g2)).sum()).collect();
        let mut order: Vec<usize> = (0..problem.a.len()).collect();
        if !weight.is_empty() {
            order.sort_by(|&i, &j| weight[j].total_cmp(&weight[i]));
        }
        Self { problem, settings, references: problem.references(), order, kernel: kernel::best() }
    }

    /// Quantizes and packs `B`.
    pub(super) fn pack(&self, scales: &[Scale]) -> PackedRight {
        let packed = match &self.problem.b {
            Right::Weight(b) => vec![self.pack_one(b, scales)],
            Right::Activation(_) => vec![], // packed picture by picture: a pruned candidate packs few
        };
        PackedRight { packed, scales: scales.to_vec() }
    }

    /// Quantizes and packs `B` for all pictures at once.
    pub(super) fn pack_all(&self, scales: &[Scale]) -> PackedRight {
        let packed = self.problem.b.matrices().iter().map(|b| self.pack_one(b, scales)).collect();
        PackedRight { packed, scales: scales.to_vec() }
    }

    fn pack_one(&self, b: &Array2<f32>, scales: &[Scale]) -> PackedB {
        let bits = self.settings.b_bits;
        let mut codes = vec![0i8; b.len()];
        for (row, codes) in b.rows().into_iter().zip(codes.chunks_exact_mut(b.ncols())) {
            for (group, &scale) in self.problem.groups.iter().zip(scales) {
                let quantizer = Quantizer::Uniform { scale, bits };
                for (code, &x) in codes[group.clone()].iter_mut().zip(row.iter().skip(group.start)) {
                    *code = quantizer.code(x) as i8;
                }
            }
        }
        PackedB::pack(&codes, b.nrows(), b.ncols())
    }

    /// The codes of `A` of one picture, fused only where the product then fits i32.
    pub(super) fn quantize_left(&self, picture: usize, quantizer: Quantizer) -> Codes {
        let a = self.problem.a[picture].as_slice().expect("problems hold standard layout");
        // A column of B sums at most K·2^(k−1) in magnitude.
        let column = self.problem.a[picture].ncols() as i64 * i64::from(self.settings.b_bits.half());
        quantizer.codes(a, (i64::from(i32::MAX) / column.max(1)).min(i16::MAX.into()) as i32)
    }

    /// The loss of each column group, summed in the order of the pictures; `None` as soon as `hopeless(partial losses)`.
    /// The partial losses are summed in another order: to the last bits they say something else.
    pub(super) fn losses<'c>(
        &self,
        a_unit: f32,
        a_codes: impl Fn(usize) -> std::borrow::Cow<'c, Codes>,
        b: &PackedRight,
        hopeless: impl Fn(&[f64]) -> bool,
    ) -> Option<Vec<f64>> {
        let groups = self.problem.groups.len();
        let mut by_picture = vec![0f64; self.problem.a.len() * groups];
        let mut partial = vec![0f64; groups];
        let scales: Vec<f32> = b.scales.iter().map(|s| a_unit * s.get()).collect();
        let mut scratch = Scratch::default();
        for &picture in &self.order {
            let own;
            let packed = match b.packed.len() {
                0 => {
                    own = self.pack_one(self.problem.b.of_picture(picture), &b.scales);
                    &own
                }
                1 => &b.packed[0],
                _ => &b.packed[picture],
            };
            let sums = &mut by_picture[picture * groups..][..groups];
            self.add_picture(picture, &a_codes(picture), packed, &scales, sums, &mut scratch);
            partial.iter_mut().zip(sums).for_each(|(partial, sum)| *partial += *sum);
            if hopeless(&partial) {
                return None;
            }
        }
        let mut total = vec![0f64; groups];
        for sums in by_picture.chunks_exact(groups) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        Some(total)
    }

    fn add_picture(
        &self,
        picture: usize,
        a: &Codes,
        b: &PackedB,
        scales: &[f32],
        sums: &mut [f64],
        scratch: &mut Scratch,
    ) {
        let (rows, k, n) = (self.problem.a[picture].nrows(), b.k(), b.n());
        let reference = self.references[picture].as_slice().expect("a product is in standard layout");
        let curvature: &[f32] = match self.problem.curvature.get(picture) {
            Some(c) => c.as_slice().expect("problems hold standard layout"),
            None => &[],
        };
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            scratch.multiply(self.kernel, a, start * k..(start + count) * k, count, b);
            for (i, acc) in scratch.product.chunks_exact(n).enumerate() {
                let at = (start + i) * n..(start + i + 1) * n;
                let curvature = if curvature.is_empty() { curvature } else { &curvature[at.clone()] };
                let row = Row { acc, reference: &reference[at], curvature };
                for ((group, &scale), sum) in self.problem.groups.iter().zip(scales).zip(&mut *sums) {
                    self.settings.metric.add(&row, group.clone(), scale, sum);
                }
            }
        }
    }
}

/// Buffers of one evaluation.
#[derive(Default)]
struct Scratch {
    low: Vec<i32>,
    high: Vec<i32>,
    /// `acc1 + 2^m·acc2` as f32.
    product: Vec<f32>,
}

impl Scratch {
    fn multiply(
        &mut self,
        kernel: &dyn Kernel,
        a: &Codes,
        range: std::ops::Range<usize>,
        m: usize,
        b: &PackedB,
    ) {
        self.low.resize(m * b.n(), 0);
        self.product.clear();
        match a {
            Codes::Fused(codes) => {
                kernel.gemm(&codes[range], m, b, &mut self.low);
                self.product.extend(self.low.iter().map(|&acc| acc as f32));
            }
            Codes::Split { fine, coarse, shift } => {
                debug_assert!(fits_i32(128, b), "K of a single range is far below 2^16");
                self.high.resize(m * b.n(), 0);
                kernel.gemm(&fine[range.clone()], m, b, &mut self.low);
                kernel.gemm(&coarse[range], m, b, &mut self.high);
                let join = |(&low, &high)| (i64::from(low) + (i64::from(high) << shift)) as f32;
                self.product.extend(self.low.iter().zip(&self.high).map(join));
            }
        }
    }
}
