//! The gradients of ops that slide a window over the input: Conv, its transpose, and pools.

use tract_core::internal::*;
use tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_core::ops::cnn::{Deconv, MaxPool, PoolSpec, SumPool};
use tract_core::ops::nn::DataFormat;
use tract_ndarray::linalg::general_mat_mul;
use tract_ndarray::{Array2, Array3, ArrayD, Axis};

use super::rules::{Grads, Saved, op_as};

/// `dx[n, i, p·stride + q·dilation − pad] += Σ_o w[o, i, q] · dy[n, o, p]` over the positions p and taps q.
pub(super) fn conv(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Conv>(saved)?;
    ensure!(op.q_params.is_none(), "quantized Conv");
    let weight = weight(saved, op.kernel_fmt, op.group)?;
    let x = saved.shapes[0];
    let pads: Vec<usize> = op.pool_spec.computed_padding(&x[2..]).iter().map(|d| d.pad_before).collect();
    let taps = taps(&op.pool_spec, &pads, &x[2..], &dy.shape()[3..])?;
    let kernel: usize = op.pool_spec.kernel_shape.iter().product();
    let dy = planes(dy, op.group)?;
    let mut dx = Array3::zeros((dy.len_of(Axis(0)), x[1] / op.group, x[2..].iter().product()));
    for (number, (mut dx, dy)) in dx.outer_iter_mut().zip(dy.outer_iter()).enumerate() {
        // [o, i·q] and [i·q, p]
        let weight = weight.index_axis(Axis(0), number % op.group);
        let mut columns = Array2::zeros((weight.ncols(), dy.ncols()));
        general_mat_mul(1.0, &weight.t(), &dy, 0.0, &mut columns);
        for (mut dx, columns) in dx.outer_iter_mut().zip(columns.axis_chunks_iter(Axis(0), kernel)) {
            for tap in &taps {
                dx[tap.input] += columns[[tap.kernel, tap.output]];
            }
        }
    }
    first_of(dx, saved)
}

/// `dx[n, i, p] = Σ_{o, q} w[o, i, q] · dy[n, o, p·stride + q·dilation − pad]`.
pub(super) fn deconv(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Deconv>(saved)?;
    let weight = weight(saved, op.kernel_format, op.group)?;
    let (spec, x) = (&op.pool_spec, saved.shapes[0]);
    let (dilations, strides) = (spec.dilations(), spec.strides());
    let pads = spec.padding.compute_for_deconv(
        &x[2..],
        &spec.kernel_shape,
        &dilations,
        &strides,
        &op.adjustments,
    )?;
    let pads: Vec<usize> = pads.iter().map(|d| d.pad_before).collect();
    let taps = taps(spec, &pads, &dy.shape()[3..], &x[2..])?;
    let kernel: usize = spec.kernel_shape.iter().product();
    let dy = planes(dy, op.group)?;
    let mut dx = Array3::zeros((dy.len_of(Axis(0)), x[1] / op.group, x[2..].iter().product()));
    for (number, (mut dx, dy)) in dx.outer_iter_mut().zip(dy.outer_iter()).enumerate() {
        let weight = weight.index_axis(Axis(0), number % op.group);
        let weight = weight.into_shape_with_order((dy.nrows(), dx.nrows(), kernel))?;
        for (weight, dy) in weight.outer_iter().zip(dy.outer_iter()) {
            let mut columns = Array2::zeros((kernel, dx.ncols()));
            for tap in &taps {
                columns[[tap.kernel, tap.output]] = dy[tap.input];
            }
            general_mat_mul(1.0, &weight, &columns, 1.0, &mut dx);
        }
    }
    first_of(dx, saved)
}

/// `dx[p·stride + q·dilation − pad] += dy[p] / (what the sum at p is divided by)`.
pub(super) fn sum_pool(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<SumPool>(saved)?;
    let x = saved.shapes[0];
    let pads: Vec<usize> = op.pool_spec.computed_padding(&x[2..]).iter().map(|d| d.pad_before).collect();
    let taps = taps(&op.pool_spec, &pads, &x[2..], &dy.shape()[3..])?;
    let dy = planes(dy, 1)?;
    // Ones become the number of taps over the divisor.
    let one = PoolSpec { input_channels: 1, output_channels: 1, ..op.pool_spec.clone() };
    let ones = ArrayD::<f32>::ones([&[1, 1], &x[2..]].concat()).into_tensor().into_tvalue();
    let pool = SumPool { pool_spec: one, ..op.clone() };
    let mut shares: ArrayD<f32> =
        pool.eval(&EvalContext::out_of_plan(), tvec!(ones))?.remove(0).into_tensor().into_plain_array()?;
    let shares = shares.as_slice_mut().context("standard layout")?;
    let mut counts = vec![0f32; shares.len()];
    for tap in &taps {
        counts[tap.output] += 1.0;
    }
    shares.iter_mut().zip(counts).for_each(|(share, count)| *share /= count);
    let mut dx = Array3::zeros((dy.len_of(Axis(0)), x[1], x[2..].iter().product()));
    for (mut dx, dy) in dx.lanes_mut(Axis(2)).into_iter().zip(dy.lanes(Axis(2))) {
        for tap in &taps {
            dx[tap.input] += dy[tap.output] * shares[tap.output];
        }
    }
    first_of(dx, saved)
}

/// `dx[index of the first maximum at p] += dy[p]`.
pub(super) fn max_pool(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<MaxPool>(saved)?;
    ensure!(op.pool_spec.data_format == DataFormat::NCHW, "MaxPool layout");
    let x = saved.shapes[0];
    let op = MaxPool { with_index_outputs: Some(i64::datum_type()), ..op.clone() };
    let indices = op.eval(&EvalContext::out_of_plan(), tvec!(saved.input(0)?.clone()))?.remove(1);
    let indices = indices.to_plain_array_view::<i64>()?;
    let dy = planes(dy, 1)?;
    let indices = indices.to_shape((x[0], x[1], dy.len_of(Axis(2))))?;
    let mut dx = Array3::zeros((dy.len_of(Axis(0)), x[1], x[2..].iter().product()));
    let indices = indices.lanes(Axis(2)).into_iter().cycle();
    for ((mut dx, dy), indices) in dx.lanes_mut(Axis(2)).into_iter().zip(dy.lanes(Axis(2))).zip(indices) {
        dy.iter().zip(indices).for_each(|(dy, &index)| dx[index as usize] += dy);
    }
    first_of(dx, saved)
}

/// A tap of the kernel at an output position, and the input that it reads; all numbered in row-major order.
struct Tap {
    output: usize,
    kernel: usize,
    input: usize,
}

/// All taps that are not in the padding.
fn taps(spec: &PoolSpec, pads: &[usize], input: &[usize], output: &[usize]) -> TractResult<Vec<Tap>> {
    ensure!(spec.data_format == DataFormat::NCHW, "layout {:?}", spec.data_format);
    let mut taps = vec![Tap { output: 0, kernel: 0, input: 0 }];
    for axis in 0..input.len() {
        let mut line = Vec::new();
        for p in 0..output[axis] {
            for q in 0..spec.kernel_shape[axis] {
                let at = (p * spec.stride(axis) + q * spec.dilation(axis)).checked_sub(pads[axis]);
                line.extend(at.filter(|&at| at < input[axis]).map(|at| (p, q, at)));
            }
        }
        let one = |tap: &Tap, (p, q, at): (usize, usize, usize)| Tap {
            output: tap.output * output[axis] + p,
            kernel: tap.kernel * spec.kernel_shape[axis] + q,
            input: tap.input * input[axis] + at,
        };
        taps = taps.iter().flat_map(|tap| line.iter().map(move |&at| one(tap, at))).collect();
    }
    Ok(taps)
}

/// `[group, o, i·q]` of a constant weight, which is `[group·o, i, q..]`.
fn weight(saved: &Saved, format: KernelFormat, group: usize) -> TractResult<Array3<f32>> {
    ensure!(format == KernelFormat::OIHW, "layout of the weight");
    ensure!(
        saved.needed.iter().skip(1).all(|n| !n),
        "with respect to a weight or bias that depends on the input"
    );
    let weight = saved.input_array(1)?;
    let outputs = weight.shape()[0] / group;
    Ok(weight.to_shape((group, outputs, weight.len() / weight.shape()[0]))?.into_owned())
}

/// `[S·N·group, channels, positions]` of `[S, N, group·channels, positions..]`.
fn planes(dy: &ArrayD<f32>, group: usize) -> TractResult<Array3<f32>> {
    let (outer, channels) = (dy.shape()[0] * dy.shape()[1] * group, dy.shape()[2] / group);
    let positions = dy.shape()[3..].iter().product();
    Ok(dy.to_shape((outer, channels, positions))?.into_owned())
}

/// The gradient of the first input alone.
fn first_of(dx: Array3<f32>, saved: &Saved) -> Grads {
    let seeds = dx.len() / saved.shapes[0].iter().product::<usize>().max(1);
    let mut grads = vec![None; saved.needed.len()];
    grads[0] = Some(dx.into_dyn().into_shape_with_order([&[seeds], saved.shapes[0]].concat())?);
    Ok(grads)
}
