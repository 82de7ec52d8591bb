//! `x[…, K] · W[K, N]`, and the bias, activation and residual that follow it.

use std::sync::Arc;

use tract_core::internal::*;

use super::product::{Lhs, by_panel, multiply, rows_of_task};
use super::written::{self, Columns, Unwritten};
use crate::integer::math::{self, Activation};
use crate::integer::site::{Outliers, Weight};
use crate::kernel::{PANEL, PackedB};
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
        let b = PackedB::pack(&weight.codes, weight.k, weight.n);
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

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        let Some((k, rows)) = x.split_last() else { bail!("a scalar times a weight") };
        ensure!(!self.classifier || x.len() == 2, "a bias of three axes for {} axes", x.len());
        ensure!(*k == self.k().to_dim(), "{k} columns times a weight of {} rows", self.k());
        Ok(rows.iter().cloned().chain([self.n().to_dim()]).collect())
    }

    /// The result, plus `residual`, of the result's shape, if there is one.
    pub(super) fn eval(&self, x: &Tensor, residual: Option<&Tensor>) -> TractResult<Tensor> {
        let mut shape: TVec<usize> = x.shape().into();
        *shape.last_mut().context("a scalar times a weight")? = self.n();
        let x = x.try_as_plain_ram()?;
        let residual = residual.map(Tensor::try_as_plain_ram).transpose()?;
        let residual = residual.as_ref().map(PlainView::as_slice::<f32>).transpose()?;
        self.apply(&shape, x.as_slice::<f32>()?, residual)
    }

    /// `x[M, K] · W`, and what follows, as a tensor of `shape`, whose elements are those of `[M, N]`.
    pub(super) fn apply(&self, shape: &[usize], x: &[f32], residual: Option<&[f32]>) -> TractResult<Tensor> {
        let (k, n) = (self.k(), self.n());
        if k == 0 {
            return Tensor::zero::<f32>(shape);
        }
        written::tensor(shape, |out| {
            assert_eq!(x.len() / k, out.len() / n, "as many rows in as out");
            let rows = rows_of_task(x.len() / k);
            written::by_task(out, rows * n, |task, out| {
                let x = &x[task * rows * k..][..out.len() / n * k];
                let residual = residual.map(|residual| &residual[task * rows * n..][..out.len()]);
                Ok(self.rows(x, residual, out))
            })
        })
    }

    /// The rows of one task.
    fn rows<'o>(&self, x: &[f32], residual: Option<&[f32]>, out: &'o mut Unwritten) -> &'o mut [f32] {
        let mut out = Columns::new(out, self.n());
        let scales = |panel: usize| self.scales[panel];
        multiply(self.a, x, &self.b, scales, |panel, values| {
            self.add_outliers(x, panel, values);
            if let Some(bias) = &self.bias {
                math::add_bias(values, &bias[panel]);
            }
            if let Some(activation) = self.activation {
                math::activate(values.as_flattened_mut(), activation);
            }
            let columns = self.b.columns(panel);
            if let Some(residual) = residual {
                add_rows(values, residual.chunks_exact(self.n()).map(|row| &row[columns.clone()]));
            }
            out.push(columns.len(), values);
        });
        out.finish()
    }

    /// `values += x[…, channels] · rows` in the columns of a panel. The products are summed first, as in the file.
    fn add_outliers(&self, x: &[f32], panel: usize, values: &mut [[f32; PANEL]]) {
        let Outliers { channels, rows } = &self.outliers;
        if channels.is_empty() {
            return;
        }
        for (x, values) in x.chunks_exact(self.k()).zip(values) {
            let mut products = [0f32; PANEL];
            for (&channel, row) in channels.iter().zip(rows.chunks_exact(self.n())) {
                let columns = &row[panel * PANEL..];
                products.iter_mut().zip(columns).for_each(|(sum, w)| *sum += x[channel] * w);
            }
            values.iter_mut().zip(products).for_each(|(value, product)| *value += product);
        }
    }
}

impl std::fmt::Display for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Linear")?;
        f.write_str(if self.bias.is_some() { " + bias" } else { "" })?;
        self.activation.map_or(Ok(()), |activation| write!(f, " + {activation:?}"))
    }
}

fn add_rows<'r>(values: &mut [[f32; PANEL]], rows: impl Iterator<Item = &'r [f32]>) {
    for (values, row) in values.iter_mut().zip(rows) {
        values.iter_mut().zip(row).for_each(|(value, addend)| *value += addend);
    }
}
