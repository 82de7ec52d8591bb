//! Rules of ops that move elements.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, GatherElements, Pad, PadMode, Slice as SliceOp, Topk, TypedConcat};
use tract_core::ops::change_axes::AxisOp;
use tract_ndarray::{Array2, ArrayD, Axis, Slice};

use super::{Grads, Saved, op_as};

/// The same elements in the same order: `dx = dy` in the input's shape.
pub(super) fn same_elements(dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let shape = saved.with_seeds(&dy);
    let dx = if dy.is_standard_layout() { dy } else { dy.as_standard_layout().into_owned() };
    Ok(vec![Some(dx.into_shape_with_order(shape)?)])
}

/// The inverse permutation.
pub(super) fn move_axis(dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let AxisOp::Move(from, to) = op_as::<AxisOp>(saved)? else { bail!("MoveAxis expected") };
    let mut order: Vec<usize> = (0..dy.ndim()).collect();
    let axis = order.remove(1 + to);
    order.insert(1 + from, axis);
    Ok(vec![Some(dy.permuted_axes(order).as_standard_layout().into_owned())])
}

/// Each input gets its own stretch of `dy`.
pub(super) fn concat(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axis = op_as::<TypedConcat>(saved)?.axis;
    let mut start = 0;
    let mut grads = Vec::new();
    for shape in &saved.shapes {
        let end = start + shape[axis];
        grads.push(Some(dy.slice_axis(Axis(1 + axis), Slice::from(start..end)).to_owned()));
        start = end;
    }
    Ok(grads)
}

/// `dy` without the margins; what they repeat gets theirs.
pub(super) fn pad(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Pad>(saved)?;
    if !matches!(op.mode, PadMode::Constant(_)) {
        return moved_elements(dy, saved, &[0]);
    }
    let mut dx = dy.view();
    for (axis, (&(before, _), &dim)) in op.pads.iter().zip(saved.shapes[0]).enumerate() {
        dx.slice_axis_inplace(Axis(1 + axis), Slice::from(before..before + dim));
    }
    Ok(vec![Some(dx.to_owned())])
}

/// `dx[start + i] = dy[i]` along the axis.
pub(super) fn slice(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<SliceOp>(saved)?;
    let mut dx = ArrayD::zeros(saved.with_seeds(dy));
    let start = op.start.to_usize()?;
    let range = Slice::from(start..start + dy.shape()[1 + op.axis]);
    dx.slice_axis_mut(Axis(1 + op.axis), range).assign(dy);
    Ok(vec![Some(dx)])
}

/// `dx[index of i] += dy[i]` along the axis, which in `dy` is as many axes as the indices have.
pub(super) fn gather(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axis = 1 + op_as::<Gather>(saved)?.axis;
    let indices = saved.input(1)?.cast_to::<i64>()?;
    let indices = indices.to_plain_array_view::<i64>()?;
    let mut dx = ArrayD::zeros(saved.with_seeds(dy));
    let len = dx.shape()[axis] as i64;
    let by_index = [&dx.shape()[..axis], &[indices.len()], &dx.shape()[axis + 1..]].concat();
    let dy = dy.to_shape(by_index)?;
    for (&index, dy) in indices.iter().zip(dy.axis_iter(Axis(axis))) {
        let index = if index < 0 { index + len } else { index } as usize;
        let mut dx = dx.index_axis_mut(Axis(axis), index);
        dx += &dy;
    }
    Ok(vec![Some(dx), None])
}

/// An op that only moves elements of the inputs `moved`, or puts zeros: run on the numbers of the elements, from 1 on,
/// it says where each output came from, so `dx[source of i] += dy[i]`.
pub(super) fn moved_elements(dy: &ArrayD<f32>, saved: &Saved, moved: &[usize]) -> Grads {
    let mut count = 1;
    let mut inputs = tvec!();
    for (index, shape) in saved.shapes.iter().enumerate() {
        if moved.contains(&index) {
            inputs.push(numbers(count, shape)?);
            count += shape.iter().product::<usize>();
        } else {
            inputs.push(saved.input(index)?.clone());
        }
    }
    let sources = saved.op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
    let all = add_at(dy, &sources, count)?;
    let mut grads = vec![None; saved.shapes.len()];
    let mut start = 1;
    for &index in moved {
        let shape = saved.shapes[index];
        let end = start + shape.iter().product::<usize>();
        let dx = all.slice_axis(Axis(1), Slice::from(start..end)).to_owned();
        grads[index] = Some(dx.into_shape_with_order([&dy.shape()[..1], shape].concat())?);
        start = end;
    }
    Ok(grads)
}

/// `first`, `first + 1`, … in `shape`.
pub(super) fn numbers(first: usize, shape: &[usize]) -> TractResult<TValue> {
    let numbers: Vec<i64> = (first as i64..).take(shape.iter().product()).collect();
    Ok(tensor1(&numbers).into_shape(shape)?.into_tvalue())
}

/// `[S, len]` with `dx[source of i] += dy[i]`.
fn add_at(dy: &ArrayD<f32>, sources: &Tensor, len: usize) -> TractResult<Array2<f32>> {
    let sources = sources.to_plain_array_view::<i64>()?;
    let mut all = Array2::zeros((dy.shape()[0], len));
    for (mut dx, dy) in all.outer_iter_mut().zip(dy.outer_iter()) {
        for (&source, &dy) in sources.iter().zip(dy) {
            dx[source as usize] += dy;
        }
    }
    Ok(all)
}

/// `dx[index of i] += dy[i]` along the axis.
pub(super) fn top_k(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Topk>(saved)?;
    let context = EvalContext::out_of_plan();
    let indices = op.eval(&context, tvec!(saved.input(0)?.clone(), saved.input(1)?.clone()))?.remove(1);
    let all = tvec!(numbers(0, saved.shapes[0])?, indices);
    let sources = GatherElements::new(op.axis).eval(&context, all)?.remove(0);
    let dx = add_at(dy, &sources, saved.shapes[0].iter().product())?;
    Ok(vec![Some(dx.into_shape_with_order(saved.with_seeds(dy))?), None])
}
