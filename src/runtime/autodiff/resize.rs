//! The gradient of Resize, whatever its mode.

use tract_core::internal::*;
use tract_ndarray::{Array2, ArrayD, ArrayViewD, Axis};

use super::rules::{Grads, Saved};

/// `dx = Wᵀ dy` along every axis of an image, because Resize is `y = W x` along one after the other.
pub(super) fn vjp(mut dx: ArrayD<f32>, saved: &Saved) -> Grads {
    let x = saved.shapes[0];
    ensure!(
        x.len() > 2 && dx.shape()[1..3] == x[..2],
        "only images are resized, not their number or channels"
    );
    for (axis, &len) in x.iter().enumerate().skip(2) {
        let weights = weights(saved, axis, dx.shape()[1 + axis])?;
        let last = dx.ndim() - 1;
        dx.swap_axes(1 + axis, last);
        let mut shape = dx.shape().to_vec();
        let lines = dx.to_shape((dx.len() / shape[last], shape[last]))?.dot(&weights);
        shape[last] = len;
        dx = lines.into_shape_with_order(shape)?.into_dyn();
        dx.swap_axes(1 + axis, last);
    }
    let mut grads = vec![None; saved.shapes.len()];
    grads[0] = Some(dx);
    Ok(grads)
}

/// `W`, `[out, in]`, of an axis: what becomes of the basis vectors, of which each channel of each image holds one. They
/// are constant along the other axes, and so is what becomes of them, if weights add up to 1.
fn weights(saved: &Saved, axis: usize, out: usize) -> TractResult<Array2<f32>> {
    let x = saved.shapes[0];
    let (len, channels) = (x[axis], x[0] * x[1]);
    let mut weights = Array2::zeros((out, len));
    for first in (0..len).step_by(channels) {
        let basis =
            ArrayD::from_shape_fn(x, |at| f32::from(at[axis] == first + at[0] * x[1] + at[1])).into_tensor();
        let mut inputs = tvec!(basis.into_tvalue());
        for index in 1..saved.shapes.len() {
            inputs.push(saved.input(index)?.clone());
        }
        let y = saved.op.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
        let y: ArrayViewD<f32> = y.to_plain_array_view()?;
        for number in first..len.min(first + channels) {
            let mut line = y.index_axis(Axis(0), (number - first) / x[1]);
            line.index_axis_inplace(Axis(0), (number - first) % x[1]);
            for other in (2..x.len()).rev().filter(|other| *other != axis) {
                line.index_axis_inplace(Axis(other - 2), 0);
            }
            weights.column_mut(number).assign(&line);
        }
    }
    let adds_up = |sum: &f32| (sum - 1.0).abs() < 1e-4;
    ensure!(weights.sum_axis(Axis(1)).iter().all(adds_up), "values from outside the input");
    Ok(weights)
}
