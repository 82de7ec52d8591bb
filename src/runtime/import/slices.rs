//! Slices with a step. tract makes a `Downsample` of them, and fails when it moves one over a Reshape.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, StridedSlice};

/// Puts a Gather with constant indices in the place of every slice with a step, where its bounds are constant.
pub(super) fn gather(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let Some(op) = node.op_as::<StridedSlice>() else { continue };
        let Some(axes) = indices(model, node, op)? else { continue };
        let mut patch = TypedModelPatch::default();
        let mut wire = patch.tap_model(model, node.inputs[0])?;
        for (axis, indices) in axes {
            let name = format!("{}.axis{axis}", node.name);
            let indices = patch.add_const(format!("{name}.indices"), tensor1(&indices))?;
            wire = patch.wire_node(name, Gather::new(axis), &[wire, indices])?[0];
        }
        patch.shunt_outside(model, id.into(), wire)?;
        patch.apply(model)?;
    }
    Ok(())
}

/// An axis, and the places along it of what is kept.
type Kept = (usize, Vec<i64>);

/// For every sliced axis, the places of what is kept; `None` if no axis has a step, or if they are not known.
fn indices(model: &TypedModel, node: &TypedNode, op: &StridedSlice) -> TractResult<Option<Vec<Kept>>> {
    let constant = |index: usize| -> TractResult<Option<Arc<Tensor>>> {
        Ok(model.outlet_fact(node.inputs[index])?.konst.clone())
    };
    let ints = |tensor: &Tensor| -> TractResult<Vec<i64>> {
        Ok(tensor.cast_to::<i64>()?.to_plain_array_view::<i64>()?.iter().copied().collect())
    };
    let shape = &model.outlet_fact(node.inputs[0])?.shape;
    let (Some(begin), Some(end)) = (constant(1)?, constant(2)?) else { return Ok(None) };
    let Some(steps) = op.optional_steps_input.map(&constant).transpose()?.flatten() else { return Ok(None) };
    let steps: Vec<i32> = ints(&steps)?.into_iter().map(|step| step as i32).collect();
    let axes = match op.optional_axes_input {
        Some(input) => match constant(input)? {
            Some(axes) => ints(&axes)?,
            None => return Ok(None),
        },
        None => (0..begin.len() as i64).collect(),
    };
    if op.shrink_axis_mask != 0 || steps.iter().all(|&step| step == 1) || steps.contains(&0) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (at, axis) in axes.into_iter().enumerate() {
        let axis = if axis < 0 { axis + shape.rank() as i64 } else { axis } as usize;
        let dim = op.prepare_one_dim(at, &shape[axis], &begin, &end, &steps)?;
        let (Ok(first), Ok(count)) = (dim.begin.to_i64(), dim.soft_len()?.to_i64()) else { return Ok(None) };
        found.push((axis, (0..count).map(|i| first + i * i64::from(dim.stride)).collect()));
    }
    Ok(Some(found))
}
