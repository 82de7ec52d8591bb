//! Rules of ops that compute each element from one element of each operand.

use std::f32::consts::{FRAC_2_SQRT_PI, PI};

use tract_core::internal::*;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::nn::LeakyRelu;
use tract_ndarray::{ArrayD, ArrayViewD, Zip};

use super::{Grads, Saved, op_as};
use crate::elementary::exp;

/// `dx = dy ⊙ f(kept)`, where the rule keeps x or y, and not both.
pub(super) fn unary(mut dy: ArrayD<f32>, saved: &Saved, slope: impl Fn(f32) -> f32) -> Grads {
    let kept = if saved.output.is_some() { saved.output_array()? } else { saved.input_array(0)? };
    let mut slopes = kept.to_owned();
    slopes.mapv_inplace(slope);
    for mut dy in dy.outer_iter_mut() {
        dy *= &slopes;
    }
    Ok(vec![Some(dy)])
}

/// The derivative of `erf(x)`.
pub(super) fn erf_slope(x: f32) -> f32 {
    FRAC_2_SQRT_PI * exp(-x * x)
}

/// The derivative of `x·½(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn gelu_tanh_slope(x: f32) -> f32 {
    let c = (2.0 / PI).sqrt();
    let t = 1.0 - 2.0 / (1.0 + exp(2.0 * c * (x + 0.044_715 * x * x * x)));
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044_715 * x * x)
}

/// The derivative of `x·σ(x)`.
pub(super) fn silu_slope(x: f32) -> f32 {
    let y = 1.0 / (1.0 + exp(-x));
    y * (1.0 + x * (1.0 - y))
}

/// The derivative of `x·clip(x/6 + ½, 0, 1)`.
pub(super) fn hard_swish_slope(x: f32) -> f32 {
    if x.abs() < 3.0 { x / 3.0 + 0.5 } else { f32::from(x > 0.0) }
}

/// The derivative of `max(x, 0) + α·min(x, 0)`.
pub(super) fn leaky_relu_slope(saved: &Saved) -> TractResult<impl Fn(f32) -> f32 + use<>> {
    let alpha = op_as::<ElementWiseOp>(saved)?.0.downcast_ref::<LeakyRelu>().context("LeakyRelu")?.alpha;
    Ok(move |x| if x < 0.0 { alpha } else { 1.0 })
}

/// `da = dy` and `db = f(dy)`.
pub(super) fn sum(dy: ArrayD<f32>, saved: &Saved, f: impl Fn(f32) -> f32) -> Vec<Option<ArrayD<f32>>> {
    match saved.needed {
        [_, false] => vec![Some(dy), None],
        [false, _] => vec![None, Some(dy.mapv_into(f))],
        _ => vec![Some(dy.clone()), Some(dy.mapv_into(f))],
    }
}

/// `da = f(dy, a, b)` and `db = g(dy, a, b)`, elementwise over the broadcast operands.
pub(super) fn binary(
    dy: ArrayD<f32>,
    saved: &Saved,
    f: impl Fn(f32, f32, f32) -> f32,
    g: impl Fn(f32, f32, f32) -> f32,
) -> Grads {
    // What is not kept is not read: any number will do.
    let unread = ArrayD::zeros(vec![]);
    let array = |index: usize| match saved.inputs[index] {
        Some(_) => saved.input_array(index),
        None => Ok(unread.view()),
    };
    let (a, b) = (array(0)?, array(1)?);
    let a = a.broadcast(&dy.shape()[1..]).context("broadcast")?;
    let b = b.broadcast(&dy.shape()[1..]).context("broadcast")?;
    let da = |dy| Some(by_seed(dy, &a, &b, &f));
    let db = |dy| Some(by_seed(dy, &a, &b, &g));
    Ok(match saved.needed {
        [_, false] => vec![da(dy), None],
        [false, _] => vec![None, db(dy)],
        _ => vec![da(dy.clone()), db(dy)],
    })
}

/// `f(dy, a, b)` element by element, the same a and b for every seed.
fn by_seed(
    mut dy: ArrayD<f32>,
    a: &ArrayViewD<f32>,
    b: &ArrayViewD<f32>,
    f: impl Fn(f32, f32, f32) -> f32,
) -> ArrayD<f32> {
    for dy in dy.outer_iter_mut() {
        Zip::from(dy).and(a).and(b).for_each(|dy, &a, &b| *dy = f(*dy, a, b));
    }
    dy
}

/// `dt = c ? dy : 0`, `df = c ? 0 : dy`.
pub(super) fn select(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let c: ArrayViewD<bool> = saved.input(0)?.to_plain_array_view()?;
    let c = c.broadcast(dy.raw_dim()).context("broadcast")?;
    let keep = |when: bool| Zip::from(dy).and(&c).map_collect(|&dy, &c| if c == when { dy } else { 0.0 });
    Ok(vec![None, saved.needed[1].then(|| keep(true)), saved.needed[2].then(|| keep(false))])
}
