//! Scores, Softmax and values become one node, which reads Q, K and V where the projection left them.

use tract_core::internal::*;
use tract_core::ops::change_axes::AxisOp;
use tract_core::ops::math::{Add, Mul};

use super::view::View;
use super::{binary, constant, dims, floats, rewrite, scalar, sole};
use crate::integer::ops::{Operand, RowOp, ScoreOp, SiteOp, Sizes, Softmax};

/// Puts one node in the place of the two products of each attention.
pub(in crate::integer) fn attention(model: &mut TypedModel) -> TractResult<()> {
    rewrite(model, &[around_values])?;
    model.declutter()
}

struct Found {
    op: SiteOp,
    inputs: [OutletId; 3],
}

fn around_values(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(Found { op, inputs }) = found(model, node) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &inputs)?;
    let by_row = patch.wire_node(format!("{}.by-row", node.name), op, &inputs)?;
    // To `[batch, heads, rows, width]`; the model usually moves the axes back at once.
    let by_head = patch.wire_node(&node.name, AxisOp::Move(1, 2), &by_row)?;
    patch.shunt_outside(model, node.id.into(), by_head[0])?;
    patch.obliterate(node.id)?;
    Ok(Some(patch))
}

fn found(model: &TypedModel, node: &TypedNode) -> Option<Found> {
    let values = node.op_as::<SiteOp>().filter(|op| op.is_heads())?;
    let [p, v] = node.inputs[..] else { return None };
    let softmax_node = sole(model, p)?;
    let RowOp::Softmax { or_zero } = *softmax_node.op_as::<RowOp>()? else { return None };
    let (scores_node, before) = scores_before(model, softmax_node.inputs[0])?;
    let scores = scores_node.op_as::<SiteOp>()?;
    let [q, k] = scores_node.inputs[..] else { return None };

    let [q, mut k, v] = [View::new(model, q)?, View::new(model, k)?, View::new(model, v)?];
    if [&q, &k, &v].iter().any(|view| view.shape.len() != 4) {
        return None;
    }
    // Kᵀ is given; its rows are wanted.
    k.shape.swap(2, 3);
    k.strides.swap(2, 3);
    let [batch, heads, rows, depth] = q.shape[..] else { return None };
    let sizes = Sizes { batch, heads, rows, keys: k.shape[2], depth, width: v.shape[3] };
    let fits = k.shape[..] == [batch, heads, sizes.keys, depth]
        && v.shape[..] == [batch, heads, sizes.keys, sizes.width];
    let empty = [batch, heads, rows, sizes.keys, depth, sizes.width].contains(&0);
    let contiguous = |view: &View| view.strides[3] == 1 || view.shape[3] == 1;
    if !fits || empty || ![&q, &k, &v].into_iter().all(contiguous) {
        return None;
    }
    let inputs = [q.source, k.source, v.source];
    let operands = [q, k, v].map(|view| Operand {
        offset: view.offset,
        strides: [view.strides[0], view.strides[1], view.strides[2]],
        factor: view.factor,
    });
    let softmax = Softmax { before, or_zero };
    Some(Found { op: SiteOp::attention(scores, values, operands, softmax, sizes)?, inputs })
}

/// The product of Q and K whose result, after what is done to it before Softmax, is `outlet`.
fn scores_before(model: &TypedModel, outlet: OutletId) -> Option<(&TypedNode, Vec<ScoreOp>)> {
    let node = sole(model, outlet)?;
    if node.op_as::<SiteOp>().is_some_and(SiteOp::is_heads) {
        return Some((node, Vec::new()));
    }
    let shape = dims(model, outlet)?;
    let scale = |[x, factor]: [OutletId; 2]| Some((x, ScoreOp::Scale(scalar(model, factor)?)));
    let add = |[x, bias]: [OutletId; 2]| {
        let bias = constant(model, bias)?;
        Some((x, bias_of(&bias, &shape)?))
    };
    let (x, op) = binary::<Mul>(node)
        .and_then(|factors| factors.into_iter().find_map(scale))
        .or_else(|| binary::<Add>(node).and_then(|terms| terms.into_iter().find_map(add)))?;
    if dims(model, x)? != shape {
        return None;
    }
    let (scores, mut ops) = scores_before(model, x)?;
    ops.push(op);
    Some((scores, ops))
}

/// A constant that is added to scores of `shape`.
fn bias_of(bias: &Tensor, shape: &[usize]) -> Option<ScoreOp> {
    let ([batch, heads, rows, keys], &[of_batch, of_heads, of_rows, of_keys]) = (bias.shape(), shape) else {
        return None;
    };
    let whole = [*rows, *keys] == [of_rows, of_keys];
    let repeats = (*batch == 1 || *batch == of_batch) && (*heads == 1 || *heads == of_heads);
    (whole && repeats)
        .then(|| Some(ScoreOp::Add { bias: floats(bias)?.into(), batch: *batch, heads: *heads }))?
}
