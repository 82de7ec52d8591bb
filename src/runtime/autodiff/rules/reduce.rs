//! Rules of ops that compute along axes.

use tract_core::internal::*;
use tract_core::ops::array::CumSum;
use tract_core::ops::nn::{Reduce, Softmax, SoftmaxKind};
use tract_ndarray::{ArrayD, ArrayViewD, Axis, Zip};

use super::{Grads, Saved, op_as};

/// `dx = y ⊙ (dy − ⟨dy, y⟩)` along the softmax axes.
pub(super) fn softmax(mut dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Softmax>(saved)?;
    ensure!(matches!(op.kind, SoftmaxKind::Softmax), "LogSoftmax");
    let y = saved.output_array()?;
    for mut dy in dy.outer_iter_mut() {
        let mut inner = &dy * &y;
        for &axis in &op.axes {
            inner = inner.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
        dy -= &inner;
        dy *= &y;
    }
    Ok(vec![Some(dy)])
}

/// `dx = dy`, the same for all elements of a sum.
pub(super) fn summed<'a>(dy: &'a ArrayD<f32>, saved: &Saved) -> TractResult<ArrayViewD<'a, f32>> {
    dy.broadcast(saved.with_seeds(dy)).context("shape of the sum")
}

/// `dx = dy · 2x / n` with n elements in each mean.
pub(super) fn mean_of_squares(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let n: usize = op_as::<Reduce>(saved)?.axes.iter().map(|&axis| saved.shapes[0][axis]).product();
    let slopes = saved.input_array(0)?.mapv(|x| 2.0 * x / n as f32);
    Ok(vec![Some(&summed(dy, saved)? * &slopes)])
}

/// `dx = dy · (product of the other elements)`.
pub(super) fn product(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let axes = &op_as::<Reduce>(saved)?.axes;
    let x = saved.input_array(0)?;
    let zeros = fold(x.mapv(|x| f32::from(x == 0.0)), axes, 0.0, |n, zero| n + zero);
    let others = fold(x.to_owned(), axes, 1.0, |p, x| if x == 0.0 { p } else { p * x });
    let (zeros, others) = (zeros.broadcast(x.dim()), others.broadcast(x.dim()));
    let slopes = Zip::from(&x).and(&zeros.context("zeros")?).and(&others.context("others")?).map_collect(
        |&x, &zeros, &others| match (x == 0.0, zeros) {
            (false, 0.0) => others / x,
            (true, 1.0) => others,
            _ => 0.0,
        },
    );
    Ok(vec![Some(&summed(dy, saved)? * &slopes)])
}

/// `dx = dy · [x = y] / (number of x = y)`: elements that are equally large share it.
pub(super) fn extreme(dy: &ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<Reduce>(saved)?;
    let x = saved.input_array(0)?;
    let y = op.reducer.reduce(&op.axes, saved.input(0)?)?;
    let y = y.to_plain_array_view::<f32>()?;
    let y = y.broadcast(x.dim()).context("shape of the extreme")?;
    let equal = Zip::from(&x).and(&y).map_collect(|x, y| f32::from(x == y));
    let count = fold(equal.clone(), &op.axes, 0.0, |n, equal| n + equal);
    Ok(vec![Some(&summed(dy, saved)? * &(equal / count))])
}

/// The sum from the other end.
pub(super) fn cumulative_sum(dy: ArrayD<f32>, saved: &Saved) -> Grads {
    let op = op_as::<CumSum>(saved)?;
    let adjoint = CumSum { axis: op.axis + 1, reverse: !op.reverse, ..*op };
    let dx = adjoint.eval(&EvalContext::out_of_plan(), tvec!(dy.into_tensor().into_tvalue()))?.remove(0);
    Ok(vec![Some(dx.into_tensor().into_plain_array()?)])
}

/// Folds over `axes`, which become 1.
fn fold(x: ArrayD<f32>, axes: &[usize], first: f32, f: impl Fn(f32, f32) -> f32) -> ArrayD<f32> {
    axes.iter().fold(x, |x, &axis| x.fold_axis(Axis(axis), first, |&a, &b| f(a, b)).insert_axis(Axis(axis)))
}
