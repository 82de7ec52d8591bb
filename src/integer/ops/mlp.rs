//! Two linear layers with an activation between them as one node: what goes from one to the other are codes alone.

use std::cell::RefCell;

use tract_core::internal::*;

use super::lhs::ByteCodes;
use super::linear::{Linear, by_rows, with_residual};
use super::product::rows_of_task_of;
use super::written::{Columns, Unwritten};

/// Rows that go through both layers at once: their codes stay in the L2.
const MOST_ROWS: usize = 128;

#[derive(Clone)]
pub(super) struct Mlp {
    first: Linear,
    second: Linear,
}

impl Mlp {
    /// `None` unless nothing but an activation is between the layers, and the second one takes bytes alone.
    pub(super) fn new(first: &Linear, second: &Linear) -> Option<Self> {
        let fits = first.has_activation() && first.n() == second.k() && first.k() > 0;
        (fits && second.takes_bytes()).then(|| Self { first: first.clone(), second: second.clone() })
    }

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        self.second.output_shape(&self.first.output_shape(x)?)
    }

    /// The result, plus `residual`, of the result's shape, if there is one.
    pub(super) fn eval(&self, x: &Tensor, residual: Option<&Tensor>) -> TractResult<Tensor> {
        let (k, n) = (self.first.k(), self.second.n());
        with_residual(x, residual, n, |shape, x, residual| {
            let size = rows_of_task_of(x.len() / k, MOST_ROWS);
            by_rows(shape, [k, n], size, (x, residual), |x, residual, out| self.rows(x, residual, out))
        })
    }

    /// The rows of one task.
    fn rows<'o>(&self, x: &[f32], residual: Option<&[f32]>, out: &'o mut Unwritten) -> &'o mut [f32] {
        thread_local! {
            static HIDDEN: RefCell<ByteCodes> = RefCell::default();
        }
        HIDDEN.with_borrow_mut(|hidden| {
            let lhs = self.second.lhs();
            hidden.clear(lhs, [x.len() / self.first.k(), self.second.k()]);
            self.first.blocks(x, |block, values| {
                let values = values.expect("the first layer has an activation");
                hidden.put(lhs, block.rows.start, &self.first.columns(block.panel), values);
            });
            let mut out = Columns::new(out, self.second.n());
            self.second.multiply(hidden, residual, &mut out);
            out.finish()
        })
    }
}

impl std::fmt::Display for Mlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} + {}", self.first, self.second)
    }
}
