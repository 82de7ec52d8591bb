//! The loss of one pair of quantizers, on integer codes.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::super::metric::Row;
use super::columns::{ColumnBlock, column_blocks};
use super::rows::{RowBlock, Rows};
use super::{Problem, Rhs, Settings, candidates};
use crate::Result;
use crate::kernel::{self, ByteLayout, ByteLhs, Bytes, Kernel, PackedB};
use crate::quant::{Codes, Quantizer, Scale, TwinScale, uniform_bytes};

/// A problem with its float outputs, ready to be evaluated.
pub(super) struct Evaluator<'s> {
    settings: &'s Settings,
    rhs: Rhs,
    /// Those with the largest loss at the initial scales come first.
    row_blocks: Vec<RowBlock>,
    column_blocks: Vec<ColumnBlock>,
    kernel: &'static dyn Kernel,
}

/// The quantized `A` in one row block.
pub(super) struct QuantizedLhs {
    codes: LhsCodes,
    /// The scale of the codes; of a twin, the fine one.
    scale: f32,
}

/// As the kernel takes them.
enum LhsCodes {
    Words(Codes),
    Bytes(ByteLhs),
}

/// The quantized `B`.
pub(super) struct QuantizedRhs {
    scales: Vec<Scale>,
    /// `[matrix][column block]`, packed when it is first needed: a candidate that is dropped early needs little.
    packed: Vec<Vec<OnceLock<PackedB>>>,
}

impl<'s> Evaluator<'s> {
    /// Computes the float products, and sorts the rows by their loss at the initial scales.
    pub(super) fn new(mut problem: Problem, settings: &'s Settings) -> Result<Self> {
        let lhs_candidates = candidates::lhs(&problem, settings)?;
        let scales = candidates::initial_rhs(&problem, settings)?;
        let rows = Rows::new(&mut problem);
        let column_blocks = column_blocks(&problem.groups);
        let (rhs, row_blocks, kernel) = (problem.b, Vec::new(), kernel::best());
        let mut this = Self { settings, rhs, row_blocks, column_blocks, kernel };
        let a = lhs_candidates[candidates::near_maximum(lhs_candidates.len())];
        let b = this.quantize_rhs(&scales);
        let losses = |rows_of_block| this.row_losses(&rows.block(rows_of_block, &this.column_blocks), a, &b);
        let losses: Vec<f64> = rows.in_order().par_iter().flat_map_iter(losses).collect();
        this.row_blocks = rows.largest_loss_first(&losses, settings.share, &this.column_blocks);
        Ok(this)
    }

    /// How many row blocks there are.
    pub(super) fn row_blocks(&self) -> usize {
        self.row_blocks.len()
    }

    /// The column blocks, in the order of the columns.
    pub(super) fn column_blocks(&self) -> &[ColumnBlock] {
        &self.column_blocks
    }

    /// `B` quantized with the scale of each group.
    pub(super) fn quantize_rhs(&self, scales: &[Scale]) -> QuantizedRhs {
        let packed = || self.column_blocks.iter().map(|_| OnceLock::new()).collect();
        QuantizedRhs {
            scales: scales.to_vec(),
            packed: self.rhs.matrices().iter().map(|_| packed()).collect(),
        }
    }

    fn pack(&self, matrix: usize, block: &ColumnBlock, scales: &[Scale]) -> PackedB {
        let b = &self.rhs.matrices()[matrix];
        let b_values = b.as_slice().expect("problems hold standard layout");
        PackedB::pack_rows(b.nrows(), block.columns.len(), |row, codes| {
            let row = &b_values[row * b.ncols()..][block.columns.clone()];
            for (span, &scale) in block.spans.iter().zip(scales) {
                uniform_bytes(&row[span.clone()], scale, self.settings.b_bits, 0, &mut codes[span.clone()]);
            }
        })
    }

    /// `A` quantized in one row block.
    pub(super) fn quantize_lhs(&self, row_block: usize, quantizer: Quantizer) -> QuantizedLhs {
        self.quantize_block(&self.row_blocks[row_block], quantizer)
    }

    fn quantize_block(&self, rows: &RowBlock, quantizer: Quantizer) -> QuantizedLhs {
        let codes = match self.byte_layout() {
            Some(layout) => LhsCodes::Bytes(bytes(rows, quantizer, layout)),
            None => LhsCodes::Words(self.words(rows, quantizer)),
        };
        QuantizedLhs { codes, scale: quantizer.scale() }
    }

    /// That of the kernel, where errors of whole blocks of columns are all that is asked for.
    fn byte_layout(&self) -> Option<ByteLayout> {
        let whole = self.column_blocks.iter().all(|block| block.groups.len() == 1);
        self.kernel.byte_layout().filter(|_| whole && !self.settings.metric.is_rowwise())
    }

    /// The codes are fused only where the product then fits i32.
    fn words(&self, rows: &RowBlock, quantizer: Quantizer) -> Codes {
        // A column of B sums at most K·2^(k−1) in magnitude.
        let column = (rows.a.len() / rows.len) as i64 * i64::from(self.settings.b_bits.half());
        let max_abs_code = (i64::from(i32::MAX) / column.max(1)).min(i16::MAX.into()) as i32;
        quantizer.codes(&rows.a, max_abs_code)
    }

    /// The loss of one row block in all columns.
    pub(super) fn loss(&self, row_block: usize, a: &QuantizedLhs, b: &QuantizedRhs) -> f64 {
        let loss = |block| self.losses(&self.row_blocks[row_block], block, a, b).iter().sum::<f64>();
        (0..self.column_blocks.len()).map(loss).sum()
    }

    /// Adds the loss of one row block in each group of a column block to the sum of that group.
    pub(super) fn add_losses(
        &self,
        row_block: usize,
        column_block: usize,
        a: &QuantizedLhs,
        b: &QuantizedRhs,
        sums: &mut [f64],
    ) {
        let losses = self.losses(&self.row_blocks[row_block], column_block, a, b);
        for row in losses.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, loss)| *sum += loss);
        }
    }

    /// The loss of each row of a block.
    fn row_losses(&self, rows: &RowBlock, quantizer: Quantizer, b: &QuantizedRhs) -> Vec<f64> {
        let a = self.quantize_block(rows, quantizer);
        let mut sums = vec![0f64; rows.len];
        for (i, block) in self.column_blocks.iter().enumerate() {
            let losses = self.losses(rows, i, &a, b);
            let losses = losses.chunks_exact(block.groups.len());
            sums.iter_mut().zip(losses).for_each(|(sum, row)| *sum += row.iter().sum::<f64>());
        }
        sums
    }

    /// The losses `[rows, groups]` of a row block in a column block.
    fn losses(&self, rows: &RowBlock, column_block: usize, a: &QuantizedLhs, b: &QuantizedRhs) -> Vec<f64> {
        let block = &self.column_blocks[column_block];
        let target = &rows.targets[column_block];
        let b_scales = &b.scales[block.groups.clone()];
        let packed = b.packed[rows.rhs][column_block].get_or_init(|| self.pack(rows.rhs, block, b_scales));
        let scales: Vec<f32> = b_scales.iter().map(|scale| a.scale * scale.get()).collect();
        match (&a.codes, &scales[..]) {
            (LhsCodes::Bytes(codes), &[scale]) => {
                by_row(rows.len, |sums| self.kernel.byte_errors(codes, packed, scale, target, sums))
            }
            (LhsCodes::Bytes(_), _) => unreachable!("a block of columns has one scale"),
            (LhsCodes::Words(Codes::Fused(codes)), &[scale]) if !self.settings.metric.is_rowwise() => {
                by_row(rows.len, |sums| self.kernel.errors(codes, packed, scale, target, sums))
            }
            (LhsCodes::Words(codes), _) => {
                let mut losses = Vec::with_capacity(rows.len * scales.len());
                let product = self.product(codes, rows.len, packed);
                for (i, acc) in product.chunks_exact(packed.n()).enumerate() {
                    let (reference, curvature) = &target.row(i);
                    let row = Row { acc, reference, curvature };
                    let loss = |(span, &scale): (&Range<usize>, &f32)| {
                        worst_if_nan(self.settings.metric.loss(&row, span.clone(), scale))
                    };
                    losses.extend(block.spans.iter().zip(&scales).map(loss));
                }
                losses
            }
        }
    }

    /// `acc1 + 2^m·acc2` as f32.
    fn product(&self, a: &Codes, m: usize, b: &PackedB) -> Vec<f32> {
        let gemm = |codes: &[i16]| {
            let mut acc = vec![0i32; m * b.n()];
            self.kernel.gemm(codes, m, b, &mut acc);
            acc
        };
        match a {
            Codes::Fused(codes) => gemm(codes).into_iter().map(|acc| acc as f32).collect(),
            Codes::Split { fine, coarse, shift } => {
                let join = |(low, high)| (i64::from(low) + (i64::from(high) << shift)) as f32;
                gemm(fine).into_iter().zip(gemm(coarse)).map(join).collect()
            }
        }
    }
}

/// The codes of the rows in bytes; those of a twin range by range.
fn bytes(rows: &RowBlock, quantizer: Quantizer, layout: ByteLayout) -> ByteLhs {
    let k = rows.a.len() / rows.len;
    let xs = rows.a.chunks_exact(k.max(1));
    let mut fine = Bytes::new(layout);
    let Some(TwinScale { shift, .. }) = quantizer.twin() else {
        for (xs, codes) in xs.zip(fine.rows_mut(rows.len, k)) {
            quantizer.uniform_bytes(xs, layout.offset, codes);
        }
        return ByteLhs { fine, coarse: None };
    };
    let mut coarse = Bytes::new(layout);
    for ((xs, fine), coarse) in xs.zip(fine.rows_mut(rows.len, k)).zip(coarse.rows_mut(rows.len, k)) {
        quantizer.split_bytes(xs, layout.offset, fine, coarse);
    }
    ByteLhs { fine, coarse: Some((coarse, shift)) }
}

/// The losses that `fill` gives for each of `len` rows.
fn by_row(len: usize, fill: impl FnOnce(&mut [f32])) -> Vec<f64> {
    let mut sums = vec![0f32; len];
    fill(&mut sums);
    sums.into_iter().map(|sum| worst_if_nan(sum.into())).collect()
}

/// A loss that overflowed on the way, which compares with nothing, is the worst of all.
fn worst_if_nan(loss: f64) -> f64 {
    if loss.is_nan() { f64::INFINITY } else { loss }
}
