//! Rules of scatters: elements of `data` are replaced by `updates`, or combined with them.

use std::collections::BTreeMap;

use tract_core::internal::*;
use tract_core::ops::array::{GatherElements, GatherNd, ScatterElements, ScatterNd, ScatterReduction};
use tract_ndarray::ArrayD;

use super::layout::{moved_elements, numbers};
use super::{Grads, Saved, op_as};

pub(super) fn scatter_elements(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<ScatterElements>(saved)?;
    scatter(dy, saved, op.reduction, &GatherElements::new(op.axis))
}

pub(super) fn scatter_nd(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    scatter(dy, saved, op_as::<ScatterNd>(saved)?.reduction, &GatherNd::new(0))
}

/// Updates that replace elements are moves. Of the others, `d data = dy · slope` and `d updates = gather(dy) · slope`.
fn scatter(dy: &ArrayD<f32>, saved: &Saved, reduction: ScatterReduction, gather: &dyn TypedOp) -> Grads {
    if reduction == ScatterReduction::None {
        return moved_elements(dy, saved, &[0, 2]);
    }
    let inputs = tvec!(numbers(0, saved.shapes[0])?, saved.input(1)?.clone());
    let places = gather.eval(&EvalContext::out_of_plan(), inputs)?.remove(0);
    let places: Vec<usize> =
        places.to_plain_array_view::<i64>()?.iter().map(|&place| place as usize).collect();
    let flat = |index: usize| Ok::<Vec<f32>, TractError>(saved.input_array(index)?.iter().copied().collect());
    let (of_data, of_updates) = slopes(&flat(0)?, &flat(2)?, &places, reduction);
    let mut data = dy.as_standard_layout().into_owned();
    let mut updates = ArrayD::zeros([&dy.shape()[..1], saved.shapes[2]].concat());
    for (mut updates, mut dy) in updates.outer_iter_mut().zip(data.outer_iter_mut()) {
        let dy = dy.as_slice_mut().context("standard layout")?;
        for ((update, &place), slope) in updates.iter_mut().zip(&places).zip(&of_updates) {
            *update = dy[place] * slope;
        }
        dy.iter_mut().zip(&of_data).for_each(|(dy, slope)| *dy *= slope);
    }
    Ok(vec![Some(data), None, Some(updates)])
}

/// `∂y/∂data` and `∂y/∂update`, where update k goes to `places[k]`. Equal extremes share the gradient.
fn slopes(
    data: &[f32],
    updates: &[f32],
    places: &[usize],
    reduction: ScatterReduction,
) -> (Vec<f32>, Vec<f32>) {
    let (mut of_data, mut of_updates) = (vec![1.0; data.len()], vec![1.0; updates.len()]);
    if reduction == ScatterReduction::Add {
        return (of_data, of_updates);
    }
    let mut met: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    places.iter().enumerate().for_each(|(update, &place)| met.entry(place).or_default().push(update));
    for (place, all) in met {
        // The element itself comes first.
        let values: Vec<f32> = std::iter::once(data[place]).chain(all.iter().map(|&k| updates[k])).collect();
        let slopes: Vec<f32> = if reduction == ScatterReduction::Mul {
            let others = |i: usize| values.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, x)| x);
            (0..values.len()).map(|i| others(i).product()).collect()
        } else {
            let least = reduction == ScatterReduction::Min;
            let best = values.iter().copied().fold(values[0], |a, b| if least { a.min(b) } else { a.max(b) });
            let share = 1.0 / values.iter().filter(|&&x| x == best).count() as f32;
            values.iter().map(|&x| if x == best { share } else { 0.0 }).collect()
        };
        of_data[place] = slopes[0];
        all.iter().zip(&slopes[1..]).for_each(|(&k, &slope)| of_updates[k] = slope);
    }
    (of_data, of_updates)
}
