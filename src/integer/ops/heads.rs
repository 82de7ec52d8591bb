//! `A[…, M, K] · B[…, K, N]` of two activations, head by head.

use tract_core::internal::*;

use super::product::{is_exact, multiply};
use crate::kernel::PackedB;
use crate::quant::{Codes, Quantizer};

pub(super) struct Heads {
    a: Vec<Quantizer>,
    b: Vec<Quantizer>,
}

impl Heads {
    /// One quantizer each, or as many as there are heads (the axis before the matrices).
    pub(super) fn new(a: Vec<Quantizer>, b: Vec<Quantizer>) -> Self {
        assert_eq!(a.len(), b.len(), "A and B have as many quantizers");
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
        let ([batch @ .., m, k], [.., n]) = (a.shape(), b.shape()) else {
            bail!("a product of {:?} and {:?}", a.shape(), b.shape());
        };
        let (m, k, n) = (*m, *k, *n);
        let shape: TVec<usize> = batch.iter().copied().chain([m, n]).collect();
        let mut out = vec![0.0; shape.iter().product()];
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        if !out.is_empty() && k > 0 {
            let heads =
                a.as_slice::<f32>()?.chunks_exact(m * k).zip(b.as_slice::<f32>()?.chunks_exact(k * n));
            for (i, ((a, b), out)) in heads.zip(out.chunks_exact_mut(m * n)).enumerate() {
                self.head(i % self.a.len(), (a, b), [k, n], out)?;
            }
        }
        Ok(tract_ndarray::ArrayD::from_shape_vec(&*shape, out)?.into_tensor())
    }

    fn head(
        &self,
        head: usize,
        (a, b): (&[f32], &[f32]),
        [k, n]: [usize; 2],
        out: &mut [f32],
    ) -> TractResult<()> {
        let (a_quantizer, b_quantizer) = (self.a[head], self.b[head]);
        let Codes::Fused(codes) = b_quantizer.codes(b, i16::MAX.into()) else {
            bail!("B of {b_quantizer:?}")
        };
        let codes: Vec<i8> = codes.into_iter().map(|code| code as i8).collect();
        let packed = PackedB::pack(&codes, k, n);
        ensure!(is_exact(a_quantizer, &packed), "sums over {k} codes overflow");
        multiply(a_quantizer, a, &packed, &[a_quantizer.unit() * b_quantizer.unit()], out);
        Ok(())
    }
}
