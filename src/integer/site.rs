//! What the reader finds.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use crate::onnx::NodeId;
use crate::quant::{Bits, Quantizer};
use crate::windows::Windows;

/// One quantized matrix product of the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteInfo {
    /// The name of the node that makes the result, or the result's where it has none.
    pub name: String,
    /// `MatMul`, `TwinGeluMatMul`, `TwinSoftmaxMatMul` or `Conv`, the same for functions and for their inlined bodies.
    pub op: &'static str,
    /// The values that enter in float, before anything is bounded, scaled or rounded: A, then B unless it is a weight.
    pub inputs: Vec<String>,
    /// The value that comes out in float (a Conv's and a classifier's with the bias, another `MatMul`'s without).
    pub output: String,
    /// k of A. Where the file bounds nothing before `QuantizeLinear` it is 8.
    pub a_bits: Bits,
    /// k of B; of a weight, the smallest k that holds its codes.
    pub b_bits: Bits,
    /// How A is quantized: one quantizer, or one per head.
    pub a: Vec<Quantizer>,
    /// The channels of A that are multiplied in float, beside the codes.
    pub outliers: Vec<usize>,
    /// Δ of B: one, one per head, or one per column of the weight.
    pub b_scales: Vec<f32>,
}

/// A site, and all that it takes to compute it.
pub(super) struct Site {
    pub(super) info: SiteInfo,
    /// The node that makes the output.
    pub(super) root: NodeId,
    /// The root and all nodes that serve the site alone.
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) product: Product,
}

/// A matrix product of quantized operands.
pub(super) enum Product {
    /// `A[…, K] · W[K, N]`; where there is a bias, `A[M, K] · W + b`; plus the float products of the outliers.
    Linear { a: Quantizer, weight: Weight, bias: Option<Vec<f32>>, outliers: Outliers },
    /// `A[…, M, K] · B[…, K, N]`, both computed at run time, with one quantizer each or one for each head (axis 1 of 4).
    Heads { a: Vec<Quantizer>, b: Vec<Quantizer> },
    /// A convolution: the windows of `A[N, C, H, W]`, times `W[C/groups·kh·kw, M]`, plus the bias; rounded to the codes
    /// of `output` if there is one.
    Conv { a: Quantizer, weight: Weight, windows: Windows, bias: Option<Vec<f32>>, output: Option<Quantizer> },
}

/// Channels of A whose products stay in float: `A[…, channels] · rows`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outliers {
    /// Columns of A.
    pub(super) channels: Vec<usize>,
    /// `[R, N]` row-major, one row per channel.
    pub(super) rows: Vec<f32>,
}

/// A constant rhs.
pub(super) struct Weight {
    /// `[K, N]` row-major, INT8.
    pub(super) codes: Bytes,
    pub(super) k: usize,
    pub(super) n: usize,
    /// Δ: one, or one per column.
    pub(super) scales: Vec<f32>,
}

impl Weight {
    /// Writes the codes of some columns of a row.
    pub(super) fn copy_row(&self, row: usize, columns: Range<usize>, to: &mut [i8]) {
        let codes = &self.codes[row * self.n..][columns];
        to.iter_mut().zip(codes).for_each(|(to, &code)| *to = code as i8);
    }

    /// Δ of a column.
    pub(super) fn scale(&self, column: usize) -> f32 {
        self.scales[if self.scales.len() == 1 { 0 } else { column }]
    }

    /// The smallest k that holds all codes.
    pub(super) fn bits(&self) -> Bits {
        let holds = |bits: &Bits| {
            self.codes.iter().all(|&c| (-bits.half()..bits.half()).contains(&i32::from(c as i8)))
        };
        widths().find(holds).expect("8 bits hold every int8")
    }
}

/// Every k, from 2 to 8.
pub(super) fn widths() -> impl Iterator<Item = Bits> {
    (2..=8).map(|k| Bits::new(k).expect("2 to 8 are valid"))
}
