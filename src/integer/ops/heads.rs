//! `A[…, M, K] · B[…, K, N]` of two activations, head by head. The axes before the matrices broadcast.

use tract_core::internal::*;

use super::lhs::Lhs;
use super::product::{Block, multiply};
use super::written::{self, Columns};
use crate::kernel::{PANEL, PackedB, Scaling};
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
        ensure!(k == k_b, "a product of {a:?} and {b:?} codes");
        let batch = tract_core::broadcast::multi_broadcast(&[batch, batch_b])
            .with_context(|| format!("a product of {a:?} and {b:?} codes"))?;
        ensure!(
            self.a.len() == 1 || batch.last() == Some(&self.a.len().to_dim()),
            "{} scales for heads of shape {a:?}",
            self.a.len()
        );
        Ok(batch.into_iter().chain([m.clone(), n.clone()]).collect())
    }

    pub(super) fn eval(&self, a: &Tensor, b: &Tensor) -> TractResult<Tensor> {
        let (&[ref batch_a @ .., m, k], &[ref batch_b @ .., _, n]) = (a.shape(), b.shape()) else {
            bail!("a product of {:?} and {:?}", a.shape(), b.shape());
        };
        let batch = tract_core::broadcast::multi_broadcast(&[batch_a, batch_b])?;
        let shape: TVec<usize> = batch.iter().copied().chain([m, n]).collect();
        let (at_a, at_b) = (Repeated::new(batch_a, &batch), Repeated::new(batch_b, &batch));
        if k == 0 {
            return Tensor::zero::<f32>(&shape);
        }
        let (a, b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
        let (a, b) = (a.as_slice::<f32>()?, b.as_slice::<f32>()?);
        written::tensor(&shape, |out| {
            written::by_task(out, m * n, |i, out| {
                let (a, b) = (&a[at_a.of(i) * m * k..][..m * k], &b[at_b.of(i) * k * n..][..k * n]);
                let packed =
                    PackedB::pack_rows(k, n, |row, codes| self.quantize_b(i, &b[row * n..][..n], codes));
                let mut out = Columns::new(out, n);
                self.head(i, packed)?.multiply(a, &mut out);
                Ok(out.finish())
            })
        })
    }

    /// Quantizes a row or a column of B.
    pub(super) fn quantize_b(&self, head: usize, b: &[f32], codes: &mut [i8]) {
        self.b[head % self.b.len()].uniform_bytes(b, 0, codes);
    }

    /// The head of that number, counted over all images. An error if sums over the rows of `b` might overflow.
    pub(super) fn head(&self, number: usize, b: PackedB) -> TractResult<Head> {
        let number = number % self.a.len();
        let scale = self.a[number].scale() * self.b[number].scale();
        let a = Lhs::new(self.a[number], &b);
        Ok(Head { a: a.with_context(|| format!("sums over {} codes overflow", b.k()))?, b, scale })
    }
}

/// Which matrix of an operand serves which matrix of the result, where its axes before the matrices broadcast.
struct Repeated {
    /// From the last: the length of an axis of the result, and the distance of its elements in the operand.
    axes: Vec<(usize, usize)>,
}

impl Repeated {
    fn new(of_operand: &[usize], of_result: &[usize]) -> Self {
        let mut distance = 1;
        let of_operand = of_operand.iter().rev().copied().chain(std::iter::repeat(1));
        let axis = |(&length, of_operand): (&usize, usize)| {
            let step = if of_operand == 1 { 0 } else { distance };
            distance *= of_operand;
            (length, step)
        };
        Self { axes: of_result.iter().rev().zip(of_operand).map(axis).collect() }
    }

    fn of(&self, mut result: usize) -> usize {
        let mut operand = 0;
        for (length, step) in &self.axes {
            operand += result % length * step;
            result /= length;
        }
        operand
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
        let scaling = Scaling { scales: &[self.scale; PANEL], bias: None };
        multiply(
            self.a,
            x,
            &self.b,
            |_| scaling,
            |Block { panel, group, sums, scaling, .. }| {
                out.push_sums(self.b.columns(panel).len(), group, sums, scaling, None);
            },
        );
    }
}
