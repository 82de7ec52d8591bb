//! Larger steps for the same numbers: rewrites of tract's decluttered graph.
//!
//! Every rewrite keeps each result to the bit. What has another shape than these rules know stays as it is.

mod attention;
mod epilogues;
mod rows;
mod view;

use std::borrow::Cow;

use tract_core::internal::*;
use tract_core::ops::konst::Const;

pub(super) use attention::attention;
pub(super) use epilogues::{epilogues, mlps};
pub(super) use rows::rows;

use crate::pattern::{Constant, Graph};

/// An operator that takes the place of a node, and its inputs.
type Replacement = (Vec<OutletId>, Box<dyn TypedOp>);

fn replacement(inputs: &[OutletId], op: impl Into<Box<dyn TypedOp>>) -> Replacement {
    (inputs.to_vec(), op.into())
}

/// What takes the place of a node, if anything does.
type Rule<'r> = dyn Fn(&TypedModel, &TypedNode) -> Option<Replacement> + 'r;

/// Replaces nodes by `rules` until none has anything to say.
fn replace(model: &mut TypedModel, rules: &[&Rule]) -> TractResult<()> {
    rewrite(model, |model, node| {
        let Some((inputs, op)) = rules.iter().find_map(|rule| rule(model, node)) else { return Ok(None) };
        TypedModelPatch::replace_single_op(model, node, &inputs, op).map(Some)
    })
}

/// Applies the patches of `rule` until it has none.
fn rewrite(
    model: &mut TypedModel,
    rule: impl Fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>,
) -> TractResult<()> {
    loop {
        let mut changed = false;
        for id in 0..model.nodes().len() {
            if let Some(patch) = rule(model, model.node(id))? {
                patch.apply(model)?;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        model.compact()?;
    }
}

/// A graph of tract's, for patterns: operators go by tract's names.
impl Graph for TypedModel {
    type Value = OutletId;
    type Node = usize;

    fn resolve(&self, value: &OutletId) -> OutletId {
        *value
    }

    fn producer(&self, value: &OutletId) -> Option<usize> {
        (value.slot == 0).then_some(value.node)
    }

    fn operator(&self, node: usize) -> Cow<'_, str> {
        self.node(node).op().name()
    }

    fn inputs(&self, node: usize) -> Vec<OutletId> {
        self.node(node).inputs.clone()
    }

    fn is_sole(&self, value: &OutletId) -> bool {
        let node = self.node(value.node);
        let alone = node.outputs.len() == 1 && node.outputs[0].successors.len() == 1;
        alone && self.output_outlets().is_ok_and(|outputs| !outputs.contains(value))
    }

    fn constant_dims(&self, value: &OutletId) -> Option<Vec<usize>> {
        floats(self, *value).map(|tensor| tensor.shape().to_vec())
    }

    fn constant_values(&self, value: &OutletId) -> Option<Vec<f32>> {
        Some(floats(self, *value)?.to_plain_array_view::<f32>().ok()?.iter().copied().collect())
    }
}

/// The tensor of a constant of f32.
fn floats(model: &TypedModel, outlet: OutletId) -> Option<&Arc<Tensor>> {
    let tensor = model.node(outlet.node).op_as::<Const>()?.val();
    (tensor.datum_type() == f32::datum_type()).then_some(tensor)
}

/// The dims of an outlet, if all are known.
fn dims(model: &TypedModel, outlet: OutletId) -> Option<TVec<usize>> {
    model.outlet_fact(outlet).ok()?.shape.as_concrete().map(Into::into)
}

/// A constant along the last axis of a tensor of `n` columns: its dims before that are 1.
fn columns(constant: &Constant, n: usize) -> Option<&[f32]> {
    (constant.dims.last() == Some(&n) && constant.values.len() == n).then_some(&constant.values)
}
