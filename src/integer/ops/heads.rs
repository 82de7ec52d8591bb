//! `A[…, M, K] · B[…, K, N]` of two activations, head by head.

use tract_core::internal::*;

use super::product::{Lhs, multiply};
use super::written::{self, Columns};
use crate::kernel::{PANEL, PackedB};
use crate::quant::Quantizer;

#[derive(Clone)]
pub(super) struct Heads {
    a: Vec<Quantizer>,
    /// All uniform.
    b: Vec<Quantizer>,
}

impl Heads {
    /// One quantizer each, or one per head (the axis before the matrices).
    pub(super) fn new(a: Vec<Quantizer>, b: Vec<Quantizer>) -> Self {
        assert_eq!(a.len(), b.len(), "A and B have as many quantizers");
        assert!(b.iter().all(|b| b.twin().is_none()), "B has one range");
        Self { a, b }
    }

    pub(super) fn output_shape(&self, a: &[TDim], b: &[TDim]) -> TractResult<TVec<TDim>> {
        let ([batch @ .., m, k], [batch_b @ .., k_b, n]) = (a, b) else {
            bail!("a product of {a:?} and {b:?}");
        };
        ensure!(batch == batch_b && k == k_b, "a product of {a:?} and {b:?} codes");
        ensure!(
            self.a.len() == 1 || batch.last() == Some(&self.a.len().to_dim()),
            "{} scales for heads of shape {a:?}",
            self.a.len()
        );
        Ok(batch.iter().cloned().chain([m.clone(), n.clone()]).collect())
    }

    pub(super) fn eval(&self, a: &Tensor, b: &Tensor) -> TractResult<Tensor> {
        let (&[ref batch @ .., m, k], &[.., n]) = (a.shape(), b.shape()) else {
            bail!("a product of {:?} and {:?}", a.shape(), b.shape());
        };
        let shape: TVec<usize> = batch.iter().copied().chain([m, n]).collect();
        if k == 0 {
            return Tensor::zero::<f32>(&shape);
        }
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let (a, b) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
        written::tensor(&shape, |out| {
            written::by_task(out, m * n, |i, out| {
                let (a, b) = (&a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
                let packed =
                    PackedB::pack_rows(k, n, |row, codes| self.quantize_b(i, &b[row * n..][..n], codes));
                let mut out = Columns::new(out, n);
                self.head(i, packed)?.multiply(a, &mut out);
                Ok(out.finish())
            })
        })
    }

    /// Quantizes a row or a column of B.
    pub(super) fn quantize_b(&self, head: usize, b: &[f32], codes: &mut [i16]) {
        self.b[head % self.b.len()].uniform_codes(b, codes);
    }

    /// The head of that number, counted over all images. An error if sums over the rows of `b` might overflow.
    pub(super) fn head(&self, number: usize, b: PackedB) -> TractResult<Head> {
        let number = number % self.a.len();
        let scale = self.a[number].scale() * self.b[number].scale();
        let a = Lhs::new(self.a[number], &b);
        Ok(Head { a: a.with_context(|| format!("sums over {} codes overflow", b.k()))?, b, scale })
    }
}

/// One head with its B packed.
pub(super) struct Head {
    a: Lhs,
    b: PackedB,
    /// `Δ_A · Δ_B`.
    scale: f32,
}

impl Head {
    /// Writes `x · B` to the next columns of `out`.
    pub(super) fn multiply(&self, x: &[f32], out: &mut Columns) {
        let scales = [self.scale; PANEL];
        let write = |panel, values: &mut [_]| out.push(self.b.columns(panel).len(), values);
        multiply(self.a, x, &self.b, |_| scales, write);
    }
}
