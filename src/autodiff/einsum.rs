//! `EinSum` of two float operands as batched matrix products, forward and backward.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_ndarray::{Array3, ArrayD, ArrayView3, ArrayViewD, Axis, Ix3, linalg::general_mat_mul};

/// `a,b->out`, one letter an axis; `b` is empty for a single operand.
struct Subscripts {
    a: Vec<char>,
    b: Vec<char>,
    out: Vec<char>,
}

/// Can [`eval`] run it? (One or two plain f32 operands.)
pub(super) fn is_float(op: &EinSum, inputs: &[TValue]) -> bool {
    op.q_params.is_none() && inputs.len() <= 2 && inputs.iter().all(|i| i.datum_type() == f32::datum_type())
}

pub(super) fn eval(op: &EinSum, inputs: &[TValue]) -> TractResult<TValue> {
    let one = tensor0(1f32);
    let b = inputs.get(1).map_or(&one, |b| b);
    let out = contract(&subscripts(op)?, &inputs[0].to_plain_array_view()?, &b.to_plain_array_view()?)?;
    Ok(out.into_tensor().into_tvalue())
}

/// For `a,b->o`: `da = o,b->a` of (dy, b) and `db = a,o->b` of (a, dy).
pub(super) fn vjp(
    op: &EinSum,
    dy: &ArrayD<f32>,
    inputs: &[TValue],
    needed: &[bool],
) -> TractResult<Vec<Option<ArrayD<f32>>>> {
    ensure!(is_float(op, inputs), "only float EinSum of one or two operands");
    let Subscripts { a, b, out } = subscripts(op)?;
    let one = tensor0(1f32);
    let operands = [&inputs[0], inputs.get(1).unwrap_or(&one.into_tvalue())].map(TValue::clone);
    let mut grads = Vec::new();
    for (i, &need) in needed.iter().enumerate() {
        let (of, other) = if i == 0 { (&a, &b) } else { (&b, &a) };
        let swapped = Subscripts { a: out.clone(), b: other.clone(), out: of.clone() };
        let other = operands[1 - i].to_plain_array_view()?;
        grads.push(if need { Some(contract(&swapped, &dy.view(), &other)?) } else { None });
    }
    Ok(grads)
}

fn subscripts(op: &EinSum) -> TractResult<Subscripts> {
    let letters = |slot: InOut| op.axes.axes(slot).map(|axis| axis.repr).collect();
    let b = if op.axes.input_count() == 2 { letters(InOut::In(1)) } else { vec![] };
    let s = Subscripts { a: letters(InOut::In(0)), b, out: letters(InOut::Out(0)) };
    for letters in [&s.a, &s.b, &s.out] {
        let repeated = letters.iter().enumerate().any(|(i, c)| letters[..i].contains(c));
        ensure!(!repeated, "EinSum with a repeated axis in one operand");
    }
    Ok(s)
}

/// Moves the axes to `[batch, m, k] · [batch, k, n]`, multiplies, and moves them back.
fn contract(s: &Subscripts, a: &ArrayViewD<f32>, b: &ArrayViewD<f32>) -> TractResult<ArrayD<f32>> {
    let (a, a_letters) = sum_private_axes(a, &s.a, &s.b, &s.out);
    let (b, b_letters) = sum_private_axes(b, &s.b, &s.a, &s.out);
    let mut dims: HashMap<char, usize> = HashMap::new();
    for (letter, &dim) in a_letters.iter().zip(a.shape()).chain(b_letters.iter().zip(b.shape())) {
        let known = dims.entry(*letter).or_insert(1);
        ensure!(dim == *known || dim == 1 || *known == 1, "axis {letter}: {dim} against {known}");
        *known = dim.max(*known);
    }
    ensure!(s.out.iter().all(|c| dims.contains_key(c)), "EinSum broadcasts a new axis");
    let pick = |from: &[char], wanted: &dyn Fn(&char) -> bool| -> Vec<char> {
        from.iter().copied().filter(|c| wanted(c)).collect()
    };
    let batch = pick(&s.out, &|c| a_letters.contains(c) && b_letters.contains(c));
    let m = pick(&s.out, &|c| a_letters.contains(c) && !b_letters.contains(c));
    let n = pick(&s.out, &|c| b_letters.contains(c) && !a_letters.contains(c));
    let k = pick(&a_letters, &|c| b_letters.contains(c) && !s.out.contains(c));

    let a = arrange(&a, &a_letters, [&batch, &m, &k], &dims)?;
    let b = arrange(&b, &b_letters, [&batch, &k, &n], &dims)?;
    let product = batched_product(&a.view(), &b.view());
    let order: Vec<char> = [batch, m, n].concat();
    let shape: Vec<usize> = order.iter().map(|c| dims[c]).collect();
    let product = product.into_shape_with_order(shape)?;
    let axes: Vec<usize> =
        s.out.iter().map(|c| order.iter().position(|o| o == c).expect("every output axis")).collect();
    Ok(product.permuted_axes(axes).as_standard_layout().into_owned())
}

/// Sums over the axes that only this operand has.
fn sum_private_axes(
    x: &ArrayViewD<f32>,
    letters: &[char],
    other: &[char],
    out: &[char],
) -> (ArrayD<f32>, Vec<char>) {
    let mut x = x.to_owned();
    let mut kept = Vec::new();
    for letter in letters {
        if other.contains(letter) || out.contains(letter) {
            kept.push(*letter);
        } else {
            x = x.sum_axis(Axis(kept.len()));
        }
    }
    (x, kept)
}

/// A copy of `x` with its axes in three groups, each flattened to one.
fn arrange(
    x: &ArrayD<f32>,
    letters: &[char],
    groups: [&Vec<char>; 3],
    dims: &HashMap<char, usize>,
) -> TractResult<Array3<f32>> {
    let order: Vec<char> = groups.iter().flat_map(|g| g.iter().copied()).collect();
    let axes: Vec<usize> =
        order.iter().map(|c| letters.iter().position(|l| l == c).expect("every axis has a group")).collect();
    let full: Vec<usize> = order.iter().map(|c| dims[c]).collect();
    let x = x.view().permuted_axes(axes);
    let x = x.broadcast(full).context("EinSum operands do not broadcast")?;
    let flat = groups.map(|g| g.iter().map(|c| dims[c]).product::<usize>());
    Ok(x.as_standard_layout().into_owned().into_shape_with_order(flat)?.into_dimensionality::<Ix3>()?)
}

fn batched_product(a: &ArrayView3<f32>, b: &ArrayView3<f32>) -> Array3<f32> {
    let mut out = Array3::zeros((a.shape()[0], a.shape()[1], b.shape()[2]));
    for (i, mut out) in out.outer_iter_mut().enumerate() {
        general_mat_mul(1.0, &a.index_axis(Axis(0), i), &b.index_axis(Axis(0), i), 0.0, &mut out);
    }
    out
}
