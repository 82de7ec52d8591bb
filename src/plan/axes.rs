//! Where an axis of a value comes from: backwards through the nodes that keep, split, merge or move it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::onnx::{Graph, NodeId, NodeProto, tensor};
use crate::prepare::Prepared;
use crate::runtime::Facts;

/// Operators whose output has the elements of their first input in the same order, under other axes.
pub(super) const RESHAPES: &[&str] = &["Reshape", "Squeeze", "Unsqueeze", "Flatten"];

/// Operators all of whose inputs broadcast to their output.
pub(super) const ELEMENTWISE: &[&str] =
    &["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Sum", "Mean", "Where", "PRelu"];

/// Further than any head is from its projection; also what recursion may take of the stack.
const LONGEST_WAY: usize = 64;

/// How many axes are looked at to find where one comes from.
const MOST_AXES: usize = 512;

/// An open batch: it divides no other dim, so that it is not mistaken for one.
const OPEN_BATCH: usize = 1009;

/// The axes of the values of a model at one size of its input.
pub(super) struct Axes<'g> {
    graph: &'g Graph,
    facts: &'g Facts,
    input: [usize; 4],
}

/// A node on the way of an axis.
pub(super) struct Step<'g> {
    pub(super) id: NodeId,
    pub(super) node: &'g NodeProto,
    /// Which of the `rank` axes of its output it is.
    pub(super) axis: usize,
    pub(super) rank: usize,
}

/// What an axis is made of, one node back.
enum Origin<'g> {
    /// The channels of a weight: their number is in the file.
    Channels,
    /// An axis of any of these inputs, or a factor of it.
    Same(Vec<(&'g str, usize)>),
    /// These axes, one after another or multiplied.
    All(Vec<(&'g str, usize)>),
}

impl<'g> Axes<'g> {
    pub(super) fn new(model: &'g Prepared) -> Self {
        let spec = model.input();
        let batch = spec.as_ref().ok().and_then(|spec| spec.dims[0]).unwrap_or(OPEN_BATCH);
        let [channels, height, width] = spec.map_or([3, 224, 224], |spec| spec.typical_image());
        Self { graph: model.graph(), facts: model.facts(), input: [batch, channels, height, width] }
    }

    /// The dims of a value.
    pub(super) fn dims(&self, value: &str) -> Option<Vec<usize>> {
        match self.graph.constant(value) {
            Some(constant) => Some(tensor::shape(constant)),
            None => self.facts.dims_at(value, self.input),
        }
    }

    /// Whether the length of an axis is that of the channels of a projection, or a factor of it.
    pub(super) fn is_of_channels(&self, value: &'g str, axis: usize) -> bool {
        self.leads_to_channels(value, axis, LONGEST_WAY, &mut HashMap::new())
    }

    fn leads_to_channels(
        &self,
        value: &'g str,
        axis: usize,
        left: usize,
        known: &mut HashMap<(&'g str, usize), bool>,
    ) -> bool {
        let Some(left) = left.checked_sub(1) else { return false };
        if let Some(known) = known.get(&(value, axis)) {
            return *known;
        }
        known.insert((value, axis), false);
        let origin = self.graph.producer(value).zip(self.dims(value));
        let leads = match origin.and_then(|(id, dims)| self.origin(self.graph.node(id), &dims, axis)) {
            None => false,
            Some(Origin::Channels) => true,
            Some(Origin::Same(axes)) => {
                axes.into_iter().any(|(v, a)| self.leads_to_channels(v, a, left, known))
            }
            Some(Origin::All(axes)) => {
                axes.into_iter().all(|(v, a)| self.leads_to_channels(v, a, left, known))
            }
        };
        known.insert((value, axis), leads);
        leads
    }

    /// Follows an axis of `value`, counted from 1 for the last, backwards. `visit` is told each step, and whether to go on
    /// beyond it is what it says.
    pub(super) fn follow(&self, value: &'g str, from_end: usize, mut visit: impl FnMut(Step<'g>) -> bool) {
        let first = self.dims(value).and_then(|dims| dims.len().checked_sub(from_end));
        let (mut seen, mut open) = (HashSet::new(), Vec::from_iter(first.map(|axis| (value, axis))));
        while let Some((value, axis)) = open.pop() {
            if seen.len() == MOST_AXES || !seen.insert((value, axis)) {
                continue;
            }
            let (Some(id), Some(dims)) = (self.graph.producer(value), self.dims(value)) else { continue };
            let node = self.graph.node(id);
            if visit(Step { id, node, axis, rank: dims.len() })
                && let Some(Origin::Same(axes) | Origin::All(axes)) = self.origin(node, &dims, axis)
            {
                open.extend(axes);
            }
        }
    }

    /// What `node` makes an axis of its output of `dims` from; `None` for what is made there, or not known.
    fn origin(&self, node: &'g NodeProto, dims: &[usize], axis: usize) -> Option<Origin<'g>> {
        if axis >= dims.len() {
            return None;
        }
        let x = node.operand(0)?;
        match node.op_type() {
            "MatMul" => self.of_product(x, node.operand(1)?, dims.len() - axis),
            "Gemm" if axis == 0 => {
                Some(Origin::Same(vec![(x, usize::from(node.attr_int("transA").unwrap_or(0) != 0))]))
            }
            "Gemm" => Some(Origin::Channels),
            "Conv" | "ConvTranspose" => (axis == 1).then_some(Origin::Channels),
            "Transpose" => {
                let from = match node.attr_ints("perm").filter(|perm| !perm.is_empty()) {
                    Some(perm) => usize::try_from(*perm.get(axis)?).ok()?,
                    None => dims.len() - 1 - axis,
                };
                Some(Origin::Same(vec![(x, from)]))
            }
            "Concat" => {
                let along = axis_of(node, dims.len())?;
                let axes = node.input.iter().map(|x| (x.as_str(), axis)).collect();
                Some(if along == axis { Origin::All(axes) } else { Origin::Same(axes) })
            }
            "Split" | "Slice" => Some(Origin::Same(vec![(x, axis)])),
            "Gather" => {
                let along = axis_of(node, self.dims(x)?.len())?;
                let indices = self.dims(node.operand(1)?)?.len();
                let from = match axis {
                    _ if axis < along => axis,
                    _ if axis >= along + indices => axis + 1 - indices,
                    _ => return None,
                };
                Some(Origin::Same(vec![(x, from)]))
            }
            op if RESHAPES.contains(&op) => {
                let of_input = self.dims(x)?;
                let (from, to) = groups(&of_input, dims)?.into_iter().find(|(_, to)| to.contains(&axis))?;
                let from: Vec<_> = from.filter(|&axis| of_input[axis] != 1).map(|axis| (x, axis)).collect();
                // Of several axes that become several others, none is a part of one alone.
                let mixed = from.len() > 1 && to.filter(|&axis| dims[axis] != 1).count() > 1;
                (!mixed && dims[axis] != 1).then_some(Origin::All(from))
            }
            op => {
                let inputs = if ELEMENTWISE.contains(&op) { node.input.len() } else { 1 };
                let from_end = dims.len() - axis;
                let aligned = |x: &'g String| {
                    let of_input = self.dims(x)?;
                    let axis = of_input.len().checked_sub(from_end)?;
                    let keeps = inputs > 1 || of_input.len() == dims.len();
                    let whole = of_input[axis] != 1 && of_input[axis] == dims[dims.len() - from_end];
                    (keeps && whole).then_some((x.as_str(), axis))
                };
                Some(Origin::Same(node.input[..inputs].iter().filter_map(aligned).collect()))
            }
        }
    }

    /// The axis `from_end` of `a·b`, counted from 1 for the last.
    fn of_product(&self, a: &'g str, b: &'g str, from_end: usize) -> Option<Origin<'g>> {
        let (of_a, of_b) = (self.dims(a)?.len(), self.dims(b)?.len());
        let at = |value: &'g str, rank: usize| {
            let axis = rank.checked_sub(from_end)?;
            (self.graph.constant(value).is_none() && *self.dims(value)?.get(axis)? != 1)
                .then_some((value, axis))
        };
        let is_weight = |value| self.graph.constant(value).is_some();
        match from_end {
            1 if is_weight(b) => Some(Origin::Channels),
            1 => Some(Origin::Same(at(b, of_b).into_iter().collect())),
            2 if is_weight(a) => Some(Origin::Channels),
            2 => Some(Origin::Same(at(a, of_a).into_iter().collect())),
            _ => Some(Origin::Same([at(a, of_a), at(b, of_b)].into_iter().flatten().collect())),
        }
    }
}

/// The attribute `axis` of a node whose value has so many axes.
pub(super) fn axis_of(node: &NodeProto, rank: usize) -> Option<usize> {
    // Softmax counts from the end by default, Gather and Split from the front.
    let default = if node.is_op("Softmax") { -1 } else { 0 };
    let axis = node.attr_int("axis").unwrap_or(default);
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The smallest runs of axes of `from` and of `to` that hold the same elements, when a tensor of the dims `from` is
/// reshaped to `to`; `None` if these do not have as many elements. Axes of length 1 may be in any run.
pub(super) fn groups(from: &[usize], to: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let count = |dims: &[usize]| dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    if count(from)? != count(to)? || from.contains(&0) || to.contains(&0) {
        return None;
    }
    let long = |dims: &[usize]| (0..dims.len()).filter(|&axis| dims[axis] != 1).collect::<Vec<usize>>();
    let (mut of_from, mut of_to) = (long(from).into_iter().peekable(), long(to).into_iter().peekable());
    let mut groups: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let (mut start, mut start_to) = (0, 0);
    loop {
        let (mut left, mut right) = (1, 1);
        while left != right || left == 1 {
            let (axes, dims, product) = match left <= right {
                true => (&mut of_from, from, &mut left),
                false => (&mut of_to, to, &mut right),
            };
            let Some(axis) = axes.next() else { break };
            *product *= dims[axis];
        }
        // What is of length 1 belongs to the run before it.
        let (end, end_to) =
            (of_from.peek().copied().unwrap_or(from.len()), of_to.peek().copied().unwrap_or(to.len()));
        groups.push((start..end, start_to..end_to));
        (start, start_to) = (end, end_to);
        if of_from.peek().is_none() && of_to.peek().is_none() {
            return Some(groups);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &[usize], to: &[usize], expected: Option<&[(Range<usize>, Range<usize>)]>) {
        assert_eq!(groups(from, to).as_deref(), expected, "{from:?} to {to:?}");
    }

    #[test]
    fn runs_of_a_reshape_are_the_smallest() {
        check(&[2, 16, 48], &[2, 4, 4, 3, 2, 8], Some(&[(0..1, 0..1), (1..2, 1..3), (2..3, 3..6)]));
        check(&[7, 3, 4, 8], &[21, 32], Some(&[(0..2, 0..1), (2..4, 1..2)]));
        check(&[5, 6], &[6, 5], Some(&[(0..2, 0..2)]));
        check(&[1, 16, 8], &[16, 1, 2, 4], Some(&[(0..2, 0..2), (2..3, 2..4)]));
        check(&[3, 1, 1], &[1, 3, 1], Some(&[(0..3, 0..3)]));
        check(&[1, 1], &[1], Some(&[(0..2, 0..1)]));
        check(&[], &[1], Some(&[(0..0, 0..1)]));
        check(&[4, 2], &[9], None);
        check(&[0, 2], &[2, 0], None);
    }
}
