//! `EinSum` of float operands as matrix products of views, without copies, forward and backward.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_ndarray::{ArrayBase, ArrayD, ArrayViewD, ArrayViewMutD, Axis, CowArray, Data, IxDyn};

use crate::runtime::matmul::{self, Accum};

/// The axis of the seeds, which is no letter of tract's.
const SEEDS: char = '*';

/// `a,b,…->out`, one letter an axis.
struct Subscripts {
    operands: Vec<Vec<char>>,
    out: Vec<char>,
}

/// Two operands and what becomes of them.
struct Pair<'s> {
    a: &'s [char],
    b: &'s [char],
    out: &'s [char],
}

/// Can [`eval`] run it? (Plain f32 operands, no diagonals.)
pub(super) fn is_float(op: &EinSum, inputs: &[TValue]) -> bool {
    let float = |input: &TValue| input.datum_type() == f32::datum_type();
    is_differentiable(op) && inputs.iter().all(float)
}

/// Does [`vjp`] know this form?
pub(super) fn is_differentiable(op: &EinSum) -> bool {
    op.q_params.is_none() && subscripts(op).is_ok()
}

pub(super) fn eval(op: &EinSum, inputs: &[TValue]) -> TractResult<TValue> {
    let Subscripts { operands, out } = subscripts(op)?;
    let values = inputs.iter().map(|input| input.to_plain_array_view()).collect::<TractResult<Vec<_>>>()?;
    let factors: Vec<_> = operands.iter().map(Vec::as_slice).zip(values).collect();
    Ok(contract_all(&factors, &out)?.into_tensor().into_tvalue())
}

/// For `a,b->o`: `da = o,b->a` of (dy, b) and `db = a,o->b` of (a, dy), with the axis of the seeds before all others; of
/// more operands the same, with all the others in the place of one.
pub(super) fn vjp(
    op: &EinSum,
    dy: &ArrayD<f32>,
    shapes: &[&[usize]],
    inputs: &[Option<TValue>],
    needed: &[bool],
) -> TractResult<Vec<Option<ArrayD<f32>>>> {
    let Subscripts { operands, out } = subscripts(op)?;
    let dy_letters = [&[SEEDS], &out[..]].concat();
    let mut grads = Vec::new();
    for (i, &need) in needed.iter().enumerate() {
        let of = &operands[i];
        let others = || (0..operands.len()).filter(|&j| j != i);
        // What was summed before the product has the same gradient all along.
        let summed = |c: &char| !out.contains(c) && !others().any(|j| operands[j].contains(c));
        let kept: Vec<char> = [SEEDS].iter().chain(of.iter().filter(|c| !summed(c))).copied().collect();
        let grad = || -> TractResult<_> {
            let mut factors = vec![(&dy_letters[..], dy.view())];
            for j in others() {
                let other = inputs[j].as_ref().context("another operand was not kept")?;
                factors.push((&operands[j], other.to_plain_array_view()?));
            }
            let mut grad = contract_all(&factors, &kept)?;
            if !of.iter().any(summed) {
                return Ok(grad);
            }
            for (axis, _) in of.iter().enumerate().filter(|(_, c)| summed(c)) {
                grad = grad.insert_axis(Axis(1 + axis));
            }
            let shape: Vec<usize> =
                grad.shape().iter().zip([&[1], shapes[i]].concat()).map(|(&a, b)| a.max(b)).collect();
            Ok(grad.broadcast(shape).context("shape of the operand")?.to_owned())
        };
        grads.push(if need { Some(grad()?) } else { None });
    }
    Ok(grads)
}

fn subscripts(op: &EinSum) -> TractResult<Subscripts> {
    let letters = |slot: InOut| -> Vec<char> { op.axes.axes(slot).map(|axis| axis.repr).collect() };
    let operands: Vec<_> = (0..op.axes.input_count()).map(|slot| letters(InOut::In(slot))).collect();
    let s = Subscripts { operands, out: letters(InOut::Out(0)) };
    for letters in s.operands.iter().chain([&s.out]) {
        let repeated = letters.iter().enumerate().any(|(i, c)| letters[..i].contains(c));
        ensure!(!repeated, "EinSum with a repeated axis in one operand");
    }
    Ok(s)
}

/// The product of all factors, from left to right: an axis is summed once no factor to come has it.
fn contract_all(factors: &[(&[char], ArrayViewD<f32>)], out: &[char]) -> TractResult<ArrayD<f32>> {
    let one = tensor0(1f32);
    let one: ArrayViewD<f32> = one.to_plain_array_view()?;
    let last = factors.len() - 1;
    if let [(letters, value)] = factors {
        return contract(&Pair { a: letters, b: &[], out }, value, &one);
    }
    let mut letters = factors[0].0.to_vec();
    let mut product = CowArray::from(factors[0].1.clone());
    for (i, (next, value)) in factors.iter().enumerate().skip(1) {
        let mut kept = out.to_vec();
        if i < last {
            let is_read =
                |c: &&char| out.contains(c) || factors[i + 1..].iter().any(|(later, _)| later.contains(c));
            let new = next.iter().filter(|c| !letters.contains(c));
            kept = letters.iter().chain(new).filter(is_read).copied().collect();
        }
        product = contract(&Pair { a: &letters, b: next, out: &kept }, &product.view(), value)?.into();
        letters = kept;
    }
    Ok(product.into_owned())
}

/// Moves the axes to `[batch.., m.., k..] · [batch.., k.., n..] = [batch.., m.., n..]`, all of them views, and
/// multiplies.
fn contract(s: &Pair, a: &ArrayViewD<f32>, b: &ArrayViewD<f32>) -> TractResult<ArrayD<f32>> {
    let (a, a_letters) = sum_private_axes(a, s.a, s.b, s.out);
    let (b, b_letters) = sum_private_axes(b, s.b, s.a, s.out);
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
    let batch = pick(s.out, &|c| a_letters.contains(c) && b_letters.contains(c));
    let m = pick(s.out, &|c| a_letters.contains(c) && !b_letters.contains(c));
    let n = pick(s.out, &|c| b_letters.contains(c) && !a_letters.contains(c));
    let k = pick(&a_letters, &|c| b_letters.contains(c) && !s.out.contains(c));

    let full = |letters: &[char]| letters.iter().map(|c| dims[c]).collect::<Vec<_>>();
    let axes = |from: &[char], to: &[char]| -> Vec<usize> {
        to.iter().map(|c| from.iter().position(|l| l == c).expect("every axis has a group")).collect()
    };
    let (a_order, b_order) = ([&batch[..], &m, &k].concat(), [&batch[..], &k, &n].concat());
    let a = a.view().permuted_axes(axes(&a_letters, &a_order));
    let b = b.view().permuted_axes(axes(&b_letters, &b_order));
    let mut a = a.broadcast(full(&a_order)).context("EinSum operands do not broadcast")?;
    let mut b = b.broadcast(full(&b_order)).context("EinSum operands do not broadcast")?;
    let mut out = ArrayD::zeros(full(s.out));
    let mut c = out.view_mut().permuted_axes(axes(s.out, &[&batch[..], &m, &n].concat()));
    let groups = Groups { batch: batch.len(), m: m.len(), n: n.len(), k: k.len() };
    groups.merge(&mut a, &mut b, &mut c);
    groups.multiply(a, b, c, Accum::Replace)?;
    Ok(out)
}

/// Sums over the axes that only this operand has.
fn sum_private_axes<'a>(
    x: &ArrayViewD<'a, f32>,
    letters: &[char],
    other: &[char],
    out: &[char],
) -> (CowArray<'a, f32, IxDyn>, Vec<char>) {
    let mut x = CowArray::from(x.clone());
    let mut kept = Vec::new();
    for letter in letters {
        if other.contains(letter) || out.contains(letter) {
            kept.push(*letter);
        } else {
            x = x.sum_axis(Axis(kept.len())).into();
        }
    }
    (x, kept)
}

/// How many axes of a product are of each kind.
#[derive(Clone, Copy)]
struct Groups {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Groups {
    /// Makes one axis of all of `m`, of `n` and of `k`, where both arrays that have them allow it without a copy.
    fn merge(self, a: &mut ArrayViewD<f32>, b: &mut ArrayViewD<f32>, c: &mut ArrayViewMutD<f32>) {
        let Self { batch, m, n, k } = self;
        for i in (1..m).rev() {
            merge_both((a, batch + i), (c, batch + i));
        }
        for i in (1..n).rev() {
            merge_both((b, batch + k + i), (c, batch + m + i));
        }
        for i in (1..k).rev() {
            merge_both((a, batch + m + i), (b, batch + i));
        }
    }

    /// `c = a · b` or `c += a · b`: loops over the axes of the batch, and over all but the last of `m`, `n` and `k`. (To add
    /// to new zeros costs two faults per page: one to read, one to write.)
    fn multiply(
        mut self,
        a: ArrayViewD<f32>,
        b: ArrayViewD<f32>,
        mut c: ArrayViewMutD<f32>,
        mut accum: Accum,
    ) -> TractResult<()> {
        let Self { batch, m, n, k } = self;
        if batch > 0 {
            self.batch -= 1;
            for ((a, b), c) in a.outer_iter().zip(b.outer_iter()).zip(c.outer_iter_mut()) {
                self.multiply(a, b, c, accum)?;
            }
        } else if m > 1 {
            self.m -= 1;
            for (a, c) in a.outer_iter().zip(c.outer_iter_mut()) {
                self.multiply(a, b.clone(), c, accum)?;
            }
        } else if n > 1 {
            self.n -= 1;
            for (b, c) in b.axis_iter(Axis(k)).zip(c.axis_iter_mut(Axis(m))) {
                self.multiply(a.clone(), b, c, accum)?;
            }
        } else if k > 1 {
            self.k -= 1;
            for (a, b) in a.axis_iter(Axis(m)).zip(b.outer_iter()) {
                self.multiply(a, b, c.view_mut(), accum)?;
                accum = Accum::Add;
            }
        } else {
            let a = if m == 0 { a.insert_axis(Axis(0)) } else { a };
            let a = if k == 0 { a.insert_axis(Axis(1)) } else { a };
            let b = if k == 0 { b.insert_axis(Axis(0)) } else { b };
            let b = if n == 0 { b.insert_axis(Axis(1)) } else { b };
            let c = if m == 0 { c.insert_axis(Axis(0)) } else { c };
            let c = if n == 0 { c.insert_axis(Axis(1)) } else { c };
            let (a, b) = (a.into_dimensionality()?, b.into_dimensionality()?);
            matmul::multiply(&a, &b, c.into_dimensionality()?, accum);
        }
        Ok(())
    }
}

/// Merges an axis of each array with the one before it, in both arrays or in none.
fn merge_both<X: Data<Elem = f32>, Y: Data<Elem = f32>>(
    (x, x_axis): (&mut ArrayBase<X, IxDyn>, usize),
    (y, y_axis): (&mut ArrayBase<Y, IxDyn>, usize),
) {
    let axes = |axis| (Axis(axis - 1), Axis(axis));
    let ((x_take, x_into), (y_take, y_into)) = (axes(x_axis), axes(y_axis));
    if x.view().merge_axes(x_take, x_into) && y.view().merge_axes(y_take, y_into) {
        x.merge_axes(x_take, x_into);
        y.merge_axes(y_take, y_into);
    }
}
