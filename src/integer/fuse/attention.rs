//! Scores, Softmax and values become one node, which reads Q, K and V where the projection left them.

use tract_core::internal::*;
use tract_core::ops::change_axes::AxisOp;

use super::view::View;
use super::{dims, floats, rewrite};
use crate::integer::ops::{Operand, RowOp, SITE, ScoreOp, SiteOp, Sizes, Softmax};
use crate::pattern::{Graph as _, Pattern, any_constant, it, op, through, var};

/// Puts one node in the place of the two products of each attention.
pub(in crate::integer) fn attention(model: &mut TypedModel) -> TractResult<()> {
    rewrite(model, around_values)?;
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
    let softmax = model.node(p.node);
    let RowOp::Softmax { or_zero } = *softmax.op_as::<RowOp>()? else { return None };
    let masked = softmax.inputs[0];
    let way = scores().matches(model, masked).filter(|_| model.is_sole(&p))?;
    let scores = model.node(way.node("scores")).op_as::<SiteOp>().filter(|op| op.is_heads())?;
    let (q, k, shape) = (*way.value("q"), *way.value("k"), dims(model, masked)?);
    // The product comes last; what is done to it first is nearest to it.
    let (_, between) = way.nodes.split_last()?;
    let before = between.iter().rev().map(|&node| score_op(model, model.node(node), &shape));
    let before: Vec<ScoreOp> = before.collect::<Option<_>>()?;
    if dims(model, way.node("scores").into())? != shape {
        return None;
    }

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

/// `Q·Kᵀ`, multiplied by numbers and added to constants.
fn scores() -> Pattern {
    let steps = [op("Mul", [it(), any_constant()]).sole(), op("Add", [it(), any_constant()]).sole()];
    through(steps, op(SITE, [var("q"), var("k")]).node("scores").sole())
}

/// What a node between the product of Q and K and the Softmax does to scores of `shape`.
fn score_op(model: &TypedModel, node: &TypedNode, shape: &[usize]) -> Option<ScoreOp> {
    let constant = node.inputs.iter().find_map(|&input| floats(model, input))?;
    if dims(model, node.id.into())?[..] != *shape {
        return None;
    }
    match &*node.op().name() {
        "Mul" if constant.len() == 1 => Some(ScoreOp::Scale(elements(constant)?[0])),
        "Add" => bias_of(constant, shape),
        _ => None,
    }
}

fn elements(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(tensor.to_plain_array_view::<f32>().ok()?.iter().copied().collect())
}

/// A constant that is added to scores of `shape`.
fn bias_of(bias: &Tensor, shape: &[usize]) -> Option<ScoreOp> {
    let ([batch, heads, rows, keys], &[of_batch, of_heads, of_rows, of_keys]) = (bias.shape(), shape) else {
        return None;
    };
    let whole = [*rows, *keys] == [of_rows, of_keys];
    let repeats = (*batch == 1 || *batch == of_batch) && (*heads == 1 || *heads == of_heads);
    (whole && repeats)
        .then(|| Some(ScoreOp::Add { bias: elements(bias)?.into(), batch: *batch, heads: *heads }))?
}
