//! Larger steps for the same numbers: rewrites of tract's decluttered graph.
//!
//! Every rewrite keeps each result to the bit. What has another shape than these rules know stays as it is.

mod attention;
mod epilogues;
mod rows;
mod view;

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::konst::Const;

pub(super) use attention::attention;
pub(super) use epilogues::epilogues;
pub(super) use rows::rows;

/// A rewrite around a node, if there is one.
type Rule = fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>;

/// Applies `rules` until none has anything to say.
fn rewrite(model: &mut TypedModel, rules: &[Rule]) -> TractResult<()> {
    loop {
        let mut changed = false;
        for id in 0..model.nodes().len() {
            for rule in rules {
                if let Some(patch) = rule(model, model.node(id))? {
                    patch.apply(model)?;
                    changed = true;
                    break;
                }
            }
        }
        if !changed {
            return Ok(());
        }
        model.compact()?;
    }
}

/// The node whose output `outlet` is, if nothing else takes it.
fn sole(model: &TypedModel, outlet: OutletId) -> Option<&TypedNode> {
    let node = model.node(outlet.node);
    let alone = node.outputs.len() == 1 && node.outputs[0].successors.len() == 1;
    (alone && !model.output_outlets().ok()?.contains(&outlet)).then_some(node)
}

/// The dims of an outlet, if all are known.
fn dims(model: &TypedModel, outlet: OutletId) -> Option<TVec<usize>> {
    model.outlet_fact(outlet).ok()?.shape.as_concrete().map(Into::into)
}

/// The numbers of a constant of f32.
fn constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    let op = model.node(outlet.node).op_as::<Const>()?;
    (op.val().datum_type() == f32::datum_type()).then(|| op.val().clone())
}

/// The one number of a constant of f32.
fn scalar(model: &TypedModel, outlet: OutletId) -> Option<f32> {
    let tensor = constant(model, outlet)?;
    let values = floats(&tensor)?;
    (values.len() == 1).then(|| values[0])
}

fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(tensor.to_plain_array_view::<f32>().ok()?.iter().copied().collect())
}

/// The two inputs of a binary operator, in both orders.
fn binary<Op: tract_core::ops::binary::BinMiniOp>(node: &TypedNode) -> Option<[[OutletId; 2]; 2]> {
    let op = node.op_as::<TypedBinOp>()?;
    let [a, b] = node.inputs[..] else { return None };
    op.0.is::<Op>().then_some([[a, b], [b, a]])
}

/// The constant along the last axis of a tensor of `n` columns: its dims before that are 1.
fn columns(model: &TypedModel, outlet: OutletId, n: usize) -> Option<Vec<f32>> {
    let tensor = constant(model, outlet)?;
    (tensor.shape().last() == Some(&n) && tensor.len() == n).then(|| floats(&tensor))?
}
