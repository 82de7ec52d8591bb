//! `Softmax(Q·Kᵀ + …)·V` of two sites as one node, so that the scores never leave the cache.

use rayon::prelude::*;
use tract_core::internal::*;

use super::heads::{Head, Heads};
use super::product::rows_of_task;
use super::written::{self, Columns, Unwritten};
use crate::integer::math;
use crate::kernel::{self, PackedB};

/// Rows whose scores, of one head, are computed together where kernels take bytes: the scores stay in the L1 or the L2.
const MOST_ROWS: usize = 32;

/// Where the rows `[batch, head, token]` of Q, K or V are in the value that they come from; each row is contiguous.
#[derive(Clone, Debug)]
pub(in crate::integer) struct Operand {
    pub(in crate::integer) offset: usize,
    pub(in crate::integer) strides: [usize; 3],
    /// The factor of every row before it is quantized.
    pub(in crate::integer) factor: Option<f32>,
}

/// Softmax, and what is done to the scores before it.
#[derive(Clone, Debug)]
pub(in crate::integer) struct Softmax {
    pub(in crate::integer) before: Vec<ScoreOp>,
    /// Of [`RowOp::Softmax`](super::RowOp::Softmax).
    pub(in crate::integer) or_zero: bool,
}

/// What may be done to the scores before Softmax.
#[derive(Clone, Debug)]
pub(in crate::integer) enum ScoreOp {
    /// `· factor`.
    Scale(f32),
    /// `+ bias`: `[1 or batch, 1 or heads, rows, keys]`.
    Add { bias: Arc<[f32]>, batch: usize, heads: usize },
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(in crate::integer) struct Sizes {
    pub(in crate::integer) batch: usize,
    pub(in crate::integer) heads: usize,
    pub(in crate::integer) rows: usize,
    pub(in crate::integer) keys: usize,
    /// The length of a row of Q and of K.
    pub(in crate::integer) depth: usize,
    /// The length of a row of V.
    pub(in crate::integer) width: usize,
}

/// The node's inputs are the values that Q, K and V come from; its output is `[batch, rows, heads, width]`.
#[derive(Clone)]
pub(super) struct Attention {
    pub(super) scores: Heads,
    pub(super) values: Heads,
    /// Q, K and V.
    pub(super) operands: [Operand; 3],
    pub(super) softmax: Softmax,
    pub(super) sizes: Sizes,
}

/// Kᵀ and V of one head.
struct Packed {
    keys: Head,
    values: Head,
}

impl Attention {
    pub(super) fn output_shape(&self) -> TVec<TDim> {
        let Sizes { batch, rows, heads, width, .. } = self.sizes;
        [batch, rows, heads, width].into_iter().map(|dim| dim.to_dim()).collect()
    }

    pub(super) fn eval(&self, inputs: [&Tensor; 3]) -> TractResult<Tensor> {
        let Sizes { batch, heads, rows, width, .. } = self.sizes;
        let [q, k, v] = inputs.map(Tensor::try_as_plain_ram);
        let (q, k, v) = (q?, k?, v?);
        let [q, k, v] = [q.as_slice::<f32>()?, k.as_slice::<f32>()?, v.as_slice::<f32>()?];
        let packed = (0..batch * heads).into_par_iter().map(|i| self.pack(k, v, i / heads, i % heads));
        let packed: Vec<Packed> = packed.collect::<TractResult<_>>()?;

        let most_rows = if kernel::best().byte_layout().is_some() { MOST_ROWS } else { rows };
        let size = rows_of_task(rows).min(most_rows);
        written::tensor(&[batch, rows, heads, width], |out| {
            written::by_task(out, rows * heads * width, |image, out| {
                let packed = &packed[image * heads..][..heads];
                written::by_task(out, size * heads * width, |task, out| {
                    Ok(self.rows(q, image, task * size, packed, out))
                })
            })
        })
    }

    fn pack(&self, k: &[f32], v: &[f32], image: usize, head: usize) -> TractResult<Packed> {
        let Sizes { keys, depth, width, .. } = self.sizes;
        let [_, k_rows, v_rows] = &self.operands;
        let mut buffer = Vec::new();
        let packed_keys = PackedB::pack_columns(depth, keys, |token, codes| {
            let row = k_rows.row(k, [image, head, token], depth, &mut buffer);
            self.scores.quantize_b(head, row, codes);
        });
        let packed_values = PackedB::pack_rows(keys, width, |token, codes| {
            let row = v_rows.row(v, [image, head, token], width, &mut buffer);
            self.values.quantize_b(head, row, codes);
        });
        Ok(Packed {
            keys: self.scores.head(head, packed_keys)?,
            values: self.values.head(head, packed_values)?,
        })
    }

    /// The rows of an image from `first` on, with all heads: as many as `out: [rows, heads, width]` holds.
    fn rows<'o>(
        &self,
        q: &[f32],
        image: usize,
        first: usize,
        packed: &[Packed],
        out: &'o mut Unwritten,
    ) -> &'o mut [f32] {
        let Sizes { heads, keys, depth, width, .. } = self.sizes;
        let rows = out.len() / (heads * width);
        let mut out = Columns::new(out, heads * width);
        let mut buffer = Vec::new();
        let mut queries = Vec::with_capacity(rows * depth);
        let mut scores = Vec::with_capacity(rows * keys);
        for (head, packed) in packed.iter().enumerate() {
            queries.clear();
            for token in first..first + rows {
                let row = self.operands[0].row(q, [image, head, token], depth, &mut buffer);
                queries.extend_from_slice(row);
            }
            let mut scores = Columns::new(&mut scores.spare_capacity_mut()[..rows * keys], keys);
            packed.keys.multiply(&queries, &mut scores);
            let scores = scores.finish();
            for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let at = [image, head, first + row];
                self.softmax.before.iter().for_each(|op| op.apply(scores, at, self.sizes));
                math::softmax(scores, self.softmax.or_zero);
            }
            packed.values.multiply(scores, &mut out);
        }
        out.finish()
    }
}

impl Operand {
    /// The row of `length` at `[image, head, token]`, multiplied by the factor.
    fn row<'x>(&self, x: &'x [f32], at: [usize; 3], length: usize, buffer: &'x mut Vec<f32>) -> &'x [f32] {
        let start: usize = at.iter().zip(&self.strides).map(|(at, stride)| at * stride).sum();
        let row = &x[self.offset + start..][..length];
        let Some(factor) = self.factor else { return row };
        buffer.clear();
        buffer.extend(row.iter().map(|x| x * factor));
        buffer
    }
}

impl ScoreOp {
    fn apply(&self, scores: &mut [f32], [image, head, row]: [usize; 3], sizes: Sizes) {
        match self {
            Self::Scale(factor) => scores.iter_mut().for_each(|score| *score *= factor),
            Self::Add { bias, batch, heads } => {
                let matrix = image % batch * heads + head % heads;
                let bias = &bias[(matrix * sizes.rows + row) * sizes.keys..];
                scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
        }
    }
}
