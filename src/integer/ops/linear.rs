//! `x[…, K] · W[K, N]`, and the bias, activation and residual that follow it.

use std::ops::Range;
use std::sync::Arc;

use tract_core::internal::*;

use super::lhs::{ByteCodes, Lhs};
use super::product::{Block, NO_VALUES, by_panel, multiply, multiply_bytes, rows_of_task};
use super::written::{self, Columns, Unwritten};
use crate::integer::math::{self, Activation};
use crate::integer::site::{Outliers, Weight};
use crate::kernel::{PANEL, PackedB, Scaling};
use crate::quant::Quantizer;
use crate::{Error, Result};

#[derive(Clone)]
pub(super) struct Linear {
    a: Lhs,
    b: Arc<PackedB>,
    /// `Δ_A · Δ_W` by panel.
    scales: Vec<[f32; PANEL]>,
    outliers: Outliers,
    /// `b[N]` by panel.
    bias: Option<Vec<[f32; PANEL]>>,
    /// Whether the bias is the site's own, which comes with an `x` of two axes.
    classifier: bool,
    activation: Option<Activation>,
}

impl Linear {
    pub(super) fn new(name: &str, a: Quantizer, weight: &Weight) -> Result<Self> {
        let b = PackedB::pack_rows(weight.k, weight.n, |row, to| weight.copy_row(row, 0..weight.n, to));
        let overflow =
            || Error::unsupported(format!("site `{name}`"), format!("sums over {} codes overflow", weight.k));
        let scales: Vec<f32> = (0..weight.n).map(|column| a.scale() * weight.scale(column)).collect();
        Ok(Self {
            a: Lhs::new(a, &b).ok_or_else(overflow)?,
            b: Arc::new(b),
            scales: by_panel(&scales),
            outliers: Outliers::default(),
            bias: None,
            classifier: false,
            activation: None,
        })
    }

    pub(super) fn classifier(self, bias: Option<&[f32]>) -> Self {
        Self { classifier: bias.is_some(), bias: bias.map(by_panel), ..self }
    }

    pub(super) fn with_outliers(self, outliers: Outliers) -> Self {
        Self { outliers, ..self }
    }

    /// With a bias; `None` if it already has one, or is followed by an activation.
    pub(super) fn then_bias(&self, bias: &[f32]) -> Option<Self> {
        let free = self.bias.is_none() && self.activation.is_none() && bias.len() == self.n();
        free.then(|| Self { bias: Some(by_panel(bias)), ..self.clone() })
    }

    /// With an activation; `None` if it already has one.
    pub(super) fn then(&self, activation: Activation) -> Option<Self> {
        self.activation.is_none().then(|| Self { activation: Some(activation), ..self.clone() })
    }

    pub(super) fn k(&self) -> usize {
        self.b.k()
    }

    pub(super) fn n(&self) -> usize {
        self.b.n()
    }

    pub(super) fn lhs(&self) -> Lhs {
        self.a
    }

    pub(super) fn columns(&self, panel: usize) -> Range<usize> {
        self.b.columns(panel)
    }

    pub(super) fn has_activation(&self) -> bool {
        self.activation.is_some()
    }

    /// Whether it is a product of bytes, to which only a bias is added.
    pub(super) fn takes_bytes(&self) -> bool {
        self.a.takes_bytes() && self.outliers.channels.is_empty() && self.activation.is_none()
    }

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        let Some((k, rows)) = x.split_last() else { bail!("a scalar times a weight") };
        ensure!(!self.classifier || x.len() == 2, "a bias of three axes for {} axes", x.len());
        ensure!(*k == self.k().to_dim(), "{k} columns times a weight of {} rows", self.k());
        Ok(rows.iter().cloned().chain([self.n().to_dim()]).collect())
    }

    /// The result, plus `residual`, of the result's shape, if there is one.
    pub(super) fn eval(&self, x: &Tensor, residual: Option<&Tensor>) -> TractResult<Tensor> {
        with_residual(x, residual, self.n(), |shape, x, residual| self.apply(shape, x, residual))
    }

    /// `x[M, K] · W`, and what follows, as a tensor of `shape`, whose elements are those of `[M, N]`.
    pub(super) fn apply(&self, shape: &[usize], x: &[f32], residual: Option<&[f32]>) -> TractResult<Tensor> {
        let k = self.k();
        if k == 0 {
            return Tensor::zero::<f32>(shape);
        }
        let size = rows_of_task(x.len() / k);
        by_rows(shape, [k, self.n()], size, (x, residual), |x, residual, out| self.rows(x, residual, out))
    }

    /// The rows of one task.
    fn rows<'o>(&self, x: &[f32], residual: Option<&[f32]>, out: &'o mut Unwritten) -> &'o mut [f32] {
        let mut out = Columns::new(out, self.n());
        self.blocks(x, |block, values| {
            let (columns, group) = (self.b.columns(block.panel), block.group);
            match values {
                None => out.push_sums(columns.len(), group, block.sums, block.scaling, residual),
                Some(values) => out.push(columns.len(), group, values, residual),
            }
        });
        out.finish()
    }

    /// The blocks of `x · W`, and the values of those to which more happens than that they are scaled.
    pub(super) fn blocks(&self, x: &[f32], mut each: impl FnMut(&Block, Option<&mut [[f32; PANEL]]>)) {
        let (k, n) = (self.k(), self.n());
        let Outliers { channels, rows: weights } = &self.outliers;
        let of_outliers = x.chunks_exact(k).flat_map(|x| channels.iter().map(|&channel| x[channel]));
        let of_outliers: Vec<f32> = if channels.is_empty() { Vec::new() } else { of_outliers.collect() };
        let mut values = NO_VALUES;
        multiply(
            self.a,
            x,
            &self.b,
            |panel| self.scaling(panel),
            |block| {
                if channels.is_empty() && self.activation.is_none() {
                    return each(&block, None);
                }
                let values = block.values(&mut values);
                if !channels.is_empty() {
                    let x = &of_outliers[block.rows.start * channels.len()..];
                    math::add_products(values, x, weights, n, block.panel * PANEL);
                    if let Some(bias) = &self.bias {
                        math::add_bias(values, &bias[block.panel]);
                    }
                }
                if let Some(activation) = self.activation {
                    math::activate(values.as_flattened_mut(), activation);
                }
                each(&block, Some(values));
            },
        );
    }

    /// The result for an lhs in bytes, plus `residual`, if it [takes bytes](Self::takes_bytes).
    pub(super) fn multiply(&self, x: &ByteCodes, residual: Option<&[f32]>, out: &mut Columns) {
        multiply_bytes(
            x,
            &self.b,
            |panel| self.scaling(panel),
            |block| {
                let columns = self.b.columns(block.panel);
                out.push_sums(columns.len(), block.group, block.sums, block.scaling, residual);
            },
        );
    }

    /// Of a panel; the products of outliers come before the bias.
    fn scaling(&self, panel: usize) -> Scaling<'_> {
        let bias = self.bias.as_ref().filter(|_| self.outliers.channels.is_empty());
        Scaling { scales: &self.scales[panel], bias: bias.map(|bias| &bias[panel]) }
    }
}

/// Calls `compute` with the shape of a result whose rows are `n` long, the elements of `x`, and those of `residual`.
pub(super) fn with_residual(
    x: &Tensor,
    residual: Option<&Tensor>,
    n: usize,
    compute: impl FnOnce(&[usize], &[f32], Option<&[f32]>) -> TractResult<Tensor>,
) -> TractResult<Tensor> {
    let mut shape: TVec<usize> = x.shape().into();
    *shape.last_mut().context("a scalar times a weight")? = n;
    let x = x.try_as_plain_ram()?;
    let residual = residual.map(Tensor::try_as_plain_ram).transpose()?;
    let residual = residual.as_ref().map(PlainView::as_slice::<f32>).transpose()?;
    compute(&shape, x.as_slice::<f32>()?, residual)
}

/// The tensor of `shape`, `[M, N]`, that `rows` fills on all threads, `size` rows at a time, from those rows of `x: [M, K]`
/// and of the residual, `[M, N]`.
pub(super) fn by_rows(
    shape: &[usize],
    [k, n]: [usize; 2],
    size: usize,
    (x, residual): (&[f32], Option<&[f32]>),
    rows: impl for<'o> Fn(&[f32], Option<&[f32]>, &'o mut Unwritten) -> &'o mut [f32] + Sync,
) -> TractResult<Tensor> {
    written::tensor(shape, |out| {
        assert_eq!(x.len() / k, out.len() / n, "as many rows in as out");
        written::by_task(out, size * n, |task, out| {
            let x = &x[task * size * k..][..out.len() / n * k];
            let residual = residual.map(|residual| &residual[task * size * n..][..out.len()]);
            Ok(rows(x, residual, out))
        })
    })
}

impl std::fmt::Display for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Linear")?;
        f.write_str(if self.bias.is_some() { " + bias" } else { "" })?;
        self.activation.map_or(Ok(()), |activation| write!(f, " + {activation:?}"))
    }
}
