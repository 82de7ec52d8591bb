//! `x[…, K] · W[K, N]`.

use tract_core::internal::*;

use super::product::{is_exact, multiply};
use crate::integer::site::{Outliers, Weight};
use crate::kernel::PackedB;
use crate::quant::Quantizer;
use crate::{Error, Result};

pub(super) struct Linear {
    a: Quantizer,
    b: PackedB,
    /// `unit_A · Δ_W`, one or one a column.
    steps: Vec<f32>,
    /// `b[N]`; it comes with an `x` of two axes.
    bias: Option<Vec<f32>>,
    outliers: Outliers,
}

impl Linear {
    pub(super) fn new(name: &str, a: Quantizer, weight: &Weight) -> Result<Self> {
        let b = PackedB::pack(&weight.codes, weight.k, weight.n);
        if !is_exact(a, &b) {
            return Err(Error::unsupported(
                format!("site `{name}`"),
                format!("sums over {} codes overflow", weight.k),
            ));
        }
        let steps = weight.scales.iter().map(|scale| a.unit() * scale).collect();
        Ok(Self { a, b, steps, bias: None, outliers: Outliers::default() })
    }

    pub(super) fn with_bias(self, bias: Option<Vec<f32>>) -> Self {
        Self { bias, ..self }
    }

    pub(super) fn with_outliers(self, outliers: Outliers) -> Self {
        Self { outliers, ..self }
    }

    pub(super) fn k(&self) -> usize {
        self.b.k()
    }

    pub(super) fn n(&self) -> usize {
        self.b.n()
    }

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        let Some((k, rows)) = x.split_last() else { bail!("a scalar times a weight") };
        ensure!(self.bias.is_none() || x.len() == 2, "a bias of three axes for {} axes", x.len());
        ensure!(*k == self.k().to_dim(), "{k} columns times a weight of {} rows", self.k());
        Ok(rows.iter().cloned().chain([self.n().to_dim()]).collect())
    }

    pub(super) fn eval(&self, x: &Tensor) -> TractResult<Tensor> {
        let mut shape: TVec<usize> = x.shape().into();
        let plain = x.try_as_plain_ram()?;
        let out = self.rows(plain.as_slice::<f32>()?);
        *shape.last_mut().context("a scalar times a weight")? = self.n();
        Ok(tract_ndarray::ArrayD::from_shape_vec(&*shape, out)?.into_tensor())
    }

    /// `x[M, K] · W`.
    pub(super) fn rows(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / self.k() * self.n()];
        multiply(self.a, x, &self.b, &self.steps, &mut out);
        self.add_outliers(x, &mut out);
        for row in out.chunks_exact_mut(self.n()).filter(|_| self.bias.is_some()) {
            row.iter_mut().zip(self.bias.iter().flatten()).for_each(|(out, b)| *out += b);
        }
        out
    }

    /// `out += x[…, channels] · rows`, the product first, as the file has it.
    fn add_outliers(&self, x: &[f32], out: &mut [f32]) {
        let Outliers { channels, rows } = &self.outliers;
        if channels.is_empty() {
            return;
        }
        let mut product = vec![0f32; self.n()];
        for (x, out) in x.chunks_exact(self.k()).zip(out.chunks_exact_mut(self.n())) {
            product.fill(0.0);
            for (&channel, row) in channels.iter().zip(rows.chunks_exact(self.n())) {
                product.iter_mut().zip(row).for_each(|(sum, w)| *sum += x[channel] * w);
            }
            out.iter_mut().zip(&product).for_each(|(out, product)| *out += product);
        }
    }
}
