//! `A[…, M, K] · B[…, K, N]` of two activations, head by head.

use rayon::prelude::*;
use tract_core::internal::*;

use super::product::{is_exact, max_fused, multiply, store};
use super::written;
use crate::kernel::{PANEL, PackedB};
use crate::quant::Quantizer;

#[derive(Clone)]
pub(super) struct Heads {
    a: Vec<Quantizer>,
    /// All uniform.
    b: Vec<Quantizer>,
}

impl Heads {
    /// One quantizer each, or as many as there are heads (the axis before the matrices).
    pub(super) fn new(a: Vec<Quantizer>, b: Vec<Quantizer>) -> Self {
        assert_eq!(a.len(), b.len(), "A and B have as many quantizers");
        assert!(b.iter().all(|b| matches!(b, Quantizer::Uniform { .. })), "B has one range");
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
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let (a, b) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
        written(&shape, |out| {
            if k == 0 || out.is_empty() {
                out.fill(0.0);
                return Ok(());
            }
            let heads = a.par_chunks_exact(m * k).zip(b.par_chunks_exact(k * n));
            let heads = heads.zip(out.par_chunks_exact_mut(m * n)).enumerate();
            heads.try_for_each(|(i, ((a, b), out))| self.head(i % self.a.len(), (a, b), [k, n], out))
        })
    }

    fn head(
        &self,
        head: usize,
        (a, b): (&[f32], &[f32]),
        [k, n]: [usize; 2],
        out: &mut [f32],
    ) -> TractResult<()> {
        let [_, quantizer] = self.quantizers(head);
        let packed =
            PackedB::pack_rows(k, n, |row, codes| quantizer.uniform_codes(&b[row * n..][..n], codes));
        self.check_exact(head, &packed)?;
        self.product(head, a, &packed, |panel, values| store(panel, n, values, out, n));
        Ok(())
    }

    /// The quantizers of A and B of a head.
    pub(super) fn quantizers(&self, head: usize) -> [Quantizer; 2] {
        let head = if self.a.len() == 1 { 0 } else { head };
        [self.a[head], self.b[head]]
    }

    /// An error if sums over the rows of `b` might overflow.
    pub(super) fn check_exact(&self, head: usize, b: &PackedB) -> TractResult<()> {
        ensure!(is_exact(self.quantizers(head)[0], b), "sums over {} codes overflow", b.k());
        Ok(())
    }

    /// `a · b` of one head, panel by panel.
    pub(super) fn product(
        &self,
        head: usize,
        a: &[f32],
        b: &PackedB,
        each: impl FnMut(usize, &mut [[f32; PANEL]]),
    ) {
        let [of_a, of_b] = self.quantizers(head);
        let step = [of_a.scale() * of_b.scale(); PANEL];
        multiply((of_a, max_fused(of_a, b)), a, b, |_| step, each);
    }
}
