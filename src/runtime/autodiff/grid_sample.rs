//! The gradient of `GridSample`, nearest and linear, in any number of spatial dimensions.

use tract_core::internal::*;
use tract_core::ops::nn::grid_sample::{GridSample, InterpolationMode, PaddingMode};
use tract_ndarray::{ArrayD, ArrayView1, ArrayView2, Axis};

use super::rules::{Grads, Saved, op_as};

/// Cubic interpolation has no rule.
pub(super) fn is_differentiable(op: &GridSample) -> bool {
    op.mode != InterpolationMode::Bicubic
}

/// A pixel that an output is made of.
struct Tap {
    /// Its place among the pixels of a channel; `None` for the zeros around the image.
    pixel: Option<usize>,
    weight: f32,
    /// `∂weight/∂(normalized coordinate)`, by the spatial dimension.
    slopes: TVec<f32>,
}

/// With `y = Σ w(g) x`: `dx = Σ w dy` at every pixel, and `dg = Σ_channels Σ w′ x dy` at every point of the grid.
///
/// x is `[N, C, D…]`, the grid `[N, O…, k]` with its coordinates from the last dimension to the first, y `[N, C, O…]`.
pub(super) fn vjp(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<GridSample>(saved)?;
    let (shape, points) = (saved.shapes[0], saved.shapes[1]);
    let (images, channels, sizes) = (shape[0], shape[1], &shape[2..]);
    let pixels: usize = sizes.iter().product();
    let (count, k) = (points[1..=sizes.len()].iter().product::<usize>(), sizes.len());
    let seeds = dy.shape()[0];
    let x = saved.input_array(0)?;
    let x = x.to_shape((images, channels, pixels))?;
    let grid = saved.input_array(1)?;
    let grid = grid.to_shape((images, count, k))?;
    let dy = dy.to_shape((seeds, images, channels, count))?;
    let mut dx = ArrayD::zeros(vec![seeds, images, channels, pixels]);
    let mut dgrid = ArrayD::zeros(vec![seeds, images, count, k]);
    for image in 0..images {
        let x: ArrayView2<f32> = x.index_axis(Axis(0), image);
        for point in 0..count {
            for tap in taps(op, &grid.index_axis(Axis(0), image).row(point), sizes) {
                let Some(pixel) = tap.pixel else { continue };
                for seed in 0..seeds {
                    for channel in 0..channels {
                        let dy = dy[[seed, image, channel, point]];
                        dx[[seed, image, channel, pixel]] += tap.weight * dy;
                        for (axis, slope) in tap.slopes.iter().enumerate() {
                            dgrid[[seed, image, point, k - 1 - axis]] += slope * x[[channel, pixel]] * dy;
                        }
                    }
                }
            }
        }
    }
    let in_shape =
        |gradient: ArrayD<f32>, shape: &[usize]| gradient.into_shape_with_order([&[seeds], shape].concat());
    Ok(vec![Some(in_shape(dx, shape)?), Some(in_shape(dgrid, points)?)])
}

/// The pixels that make the output at a point of the grid.
fn taps(op: &GridSample, point: &ArrayView1<f32>, sizes: &[usize]) -> Vec<Tap> {
    let k = sizes.len();
    let scale = |size: usize| if op.align_corners { (size as f32 - 1.0) / 2.0 } else { size as f32 / 2.0 };
    let centre = |size: usize| (size as f32 - 1.0) / 2.0;
    let bounds =
        |size: usize| if op.align_corners { (0.0, size as f32 - 1.0) } else { (-0.5, size as f32 - 0.5) };
    let mut places: TVec<f32> = sizes
        .iter()
        .enumerate()
        .map(|(axis, &size)| point[k - 1 - axis] * scale(size) + centre(size))
        .collect();
    if op.mode == InterpolationMode::Nearest {
        places.iter_mut().for_each(|place| *place = place.round_ties_even());
    }
    let mut slopes: TVec<f32> = sizes.iter().map(|&size| scale(size)).collect();
    let outside = |(place, &size): (&f32, &usize)| *place < bounds(size).0 || *place > bounds(size).1;
    if places.iter().zip(sizes).any(outside) {
        for ((place, slope), &size) in places.iter_mut().zip(&mut slopes).zip(sizes) {
            let (lo, hi) = bounds(size);
            let (padded, direction) = match op.padding_mode {
                PaddingMode::Zeros => (*place, 1.0),
                PaddingMode::Border => {
                    let inside = place.clamp(0.0, size as f32 - 1.0);
                    (inside, if inside == *place { 1.0 } else { 0.0 })
                }
                PaddingMode::Reflection => reflected(*place, lo, hi),
            };
            *place = padded;
            *slope *= direction;
        }
    }
    let pixel = |corner: &[f32]| -> Option<usize> {
        let mut at = 0;
        for (&place, &size) in corner.iter().zip(sizes) {
            let (lo, hi) = bounds(size);
            let place = match op.padding_mode {
                PaddingMode::Zeros if place < 0.0 || place >= size as f32 => return None,
                PaddingMode::Zeros => place,
                PaddingMode::Border => place.clamp(0.0, size as f32 - 1.0),
                PaddingMode::Reflection => reflected(place, lo, hi).0,
            };
            at = at * size + (place as usize).min(size - 1);
        }
        Some(at)
    };
    if op.mode == InterpolationMode::Nearest {
        return vec![Tap { pixel: pixel(&places), weight: 1.0, slopes: tvec!() }];
    }
    let corner = |number: usize| {
        let upper = |axis: usize| number >> axis & 1 == 1;
        let part = |axis: usize| {
            let share = places[axis] - places[axis].floor();
            if upper(axis) { share } else { 1.0 - share }
        };
        let places: TVec<f32> =
            places.iter().enumerate().map(|(axis, place)| place.floor() + f32::from(upper(axis))).collect();
        let others = |axis: usize| (0..k).filter(|other| *other != axis).map(part).product::<f32>();
        let slope = |axis: usize| if upper(axis) { slopes[axis] } else { -slopes[axis] };
        Tap {
            pixel: pixel(&places),
            weight: (0..k).map(part).product(),
            slopes: (0..k).map(|axis| slope(axis) * others(axis)).collect(),
        }
    };
    (0..1 << k).map(corner).collect()
}

/// A place reflected at the bounds until it lies between them, and the slope of that.
fn reflected(place: f32, lo: f32, hi: f32) -> (f32, f32) {
    let range = hi - lo;
    if range == 0.0 {
        return (lo, 0.0);
    }
    if (lo..=hi).contains(&place) {
        return (place, 1.0);
    }
    let (beyond, outwards) = if place < lo { (lo - place, -1.0) } else { (place - hi, 1.0) };
    let turns = (beyond / range).trunc();
    let rest = beyond - turns * range;
    // After an even number of turns it comes back from the bound that it crossed.
    let from_low = (place < lo) == (turns % 2.0 == 0.0);
    if from_low { (lo + rest, outwards) } else { (hi - rest, -outwards) }
}
