//! The gradients of Conv with respect to its input.

use tract_core::internal::*;
use tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_core::ops::nn::DataFormat;
use tract_ndarray::{ArrayD, ArrayViewD, Dimension};

/// `dx[n, i, p·stride + q·dilation − pad] += Σ_o w[o, i, q] · dy[n, o, p]` over the positions p and taps q.
pub(super) fn vjp(
    op: &Conv,
    dy: &ArrayD<f32>,
    x_shape: &[usize],
    weight: &TValue,
    needed: &[bool],
) -> TractResult<Vec<Option<ArrayD<f32>>>> {
    let spec = &op.pool_spec;
    ensure!(op.q_params.is_none(), "quantized Conv");
    ensure!(spec.data_format == DataFormat::NCHW && op.kernel_fmt == KernelFormat::OIHW, "Conv layout");
    ensure!(needed.iter().skip(1).all(|n| !n), "gradient with respect to a Conv weight");
    let w: ArrayViewD<f32> = weight.to_plain_array_view()?;
    let padding = spec.computed_padding(&x_shape[2..]);
    let (in_per_group, out_per_group) = (w.shape()[1], w.shape()[0] / op.group);
    let mut dx = ArrayD::<f32>::zeros([&dy.shape()[..1], x_shape].concat());
    for (at, &g) in dy.indexed_iter() {
        let at = at.as_array_view().to_vec();
        let (seed, n, o, p) = (at[0], at[1], at[2], &at[3..]);
        for q in tract_ndarray::indices(&w.shape()[2..]) {
            let q = q.as_array_view().to_vec();
            let position = |d: usize| {
                (p[d] * spec.stride(d) + q[d] * spec.dilation(d)).checked_sub(padding[d].pad_before)
            };
            let Some(mut target) = (0..p.len()).map(position).collect::<Option<Vec<usize>>>() else {
                continue;
            };
            if target.iter().zip(&x_shape[2..]).any(|(t, dim)| t >= dim) {
                continue;
            }
            target.splice(0..0, [seed, n, 0]);
            let mut tap = [&[o, 0][..], &q].concat();
            for i in 0..in_per_group {
                target[2] = o / out_per_group * in_per_group + i;
                tap[1] = i;
                dx[&target[..]] += w[&tap[..]] * g;
            }
        }
    }
    let mut grads = vec![None; needed.len()];
    grads[0] = Some(dx);
    Ok(grads)
}
