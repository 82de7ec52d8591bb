//! Which columns of a projection become the queries, the keys and the values of attention.
//!
//! The columns are followed from the projection to the products of attention, through whatever keeps them apart: layout,
//! norms, gates, rotary embeddings, pools and depthwise convolutions. What mixes them, or adds another value to them, ends
//! the way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ndarray::{ArrayD, Axis, Slice, concatenate};

use super::SiteKind;
use super::axes::{Axes, ELEMENTWISE, RESHAPES, axis_of, groups};
use crate::onnx::{Graph, NodeId, NodeProto, Use, tensor};

/// Operators that give each element, or what is around it in its channel, a new value.
const KEEPING: &[&str] = &[
    "Cast",
    "Clip",
    "Dropout",
    "Expand",
    "Identity",
    "Neg",
    "Pad",
    "Relu",
    "Resize",
    "Softmax",
    "AveragePool",
    "MaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
];

/// Functions whose result may gate another value.
const GATES: &[&str] = &["Sigmoid", "HardSigmoid", "Tanh", "Relu", "Erf", "Gelu", "Softmax", "Softplus"];

/// How many nodes are looked at behind one projection.
const MOST_NODES: usize = 256;

/// The role of each operand of a product of attention.
pub(super) type Roles = BTreeMap<Use, SiteKind>;

/// What one axis of a value is made of, outermost first: its length, and whether the channels of the projection run along
/// it.
pub(super) type Factors = Vec<(usize, bool)>;

/// Which column of the projection each element of a value comes from.
#[derive(Clone)]
pub(super) struct Columns {
    pub(super) axes: Vec<Factors>,
    /// Along the channels among the factors of `axes`, in their order.
    pub(super) columns: ArrayD<usize>,
}

/// What `roles` say of the projection that makes `output`, whose channels are its axis `channels`: `Q`, `K` or `V` if all of
/// it has that role alone, `Qkv` if its thirds have one each.
pub(super) fn of_projection<'g>(
    follower: &Follower<'_, 'g>,
    output: &'g str,
    channels: usize,
) -> Option<SiteKind> {
    let dims = follower.axes.dims(output)?;
    let count = *dims.get(channels)?;
    let found = follower.roles(output, Columns::of(&dims, channels));
    let whole: BTreeSet<usize> = (0..count).collect();
    let third = |columns: &BTreeSet<usize>| {
        let first = *columns.first()?;
        let third = first..first + count / 3;
        (first.is_multiple_of(count / 3) && columns.iter().copied().eq(third)).then_some(first)
    };
    match found.iter().collect::<Vec<_>>()[..] {
        [(role, columns)] if *columns == whole => Some(*role),
        [(_, a), (_, b), (_, c)] if count > 0 && count.is_multiple_of(3) => {
            let firsts: BTreeSet<usize> = [third(a)?, third(b)?, third(c)?].into();
            (firsts.len() == 3).then_some(SiteKind::Qkv)
        }
        _ => None,
    }
}

pub(super) struct Follower<'f, 'g> {
    pub(super) graph: &'g Graph,
    pub(super) axes: &'f Axes<'g>,
    pub(super) varying: &'f HashSet<&'g str>,
    pub(super) roles: &'f Roles,
}

impl<'g> Follower<'_, 'g> {
    /// The columns that each role takes.
    fn roles(&self, output: &'g str, columns: Columns) -> BTreeMap<SiteKind, BTreeSet<usize>> {
        let mut found: BTreeMap<SiteKind, BTreeSet<usize>> = BTreeMap::new();
        let mut known: HashMap<&str, Columns> = HashMap::from([(output, columns)]);
        // Nodes are in topological order: whatever a node takes of the projection is known before it is its turn.
        let mut open: BTreeSet<NodeId> = self.graph.consumers(output).iter().map(|user| user.node).collect();
        for _ in 0..MOST_NODES {
            let Some(id) = open.pop_first() else { break };
            let node = self.graph.node(id);
            let mut is_operand = false;
            for (input, value) in node.input.iter().enumerate() {
                if let (Some(role), Some(value)) =
                    (self.roles.get(&Use { node: id, input }), known.get(value.as_str()))
                {
                    found.entry(*role).or_default().extend(&value.columns);
                    is_operand = true;
                }
            }
            if is_operand {
                continue;
            }
            for (index, output) in node.output.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
                if let Some(columns) = self.made(node, index, output, &known) {
                    known.insert(output, columns);
                    open.extend(self.graph.consumers(output).iter().map(|user| user.node));
                }
            }
        }
        found
    }

    /// The columns in output number `index` of a node.
    fn made(
        &self,
        node: &NodeProto,
        index: usize,
        output: &str,
        known: &HashMap<&str, Columns>,
    ) -> Option<Columns> {
        let dims = self.axes.dims(output)?;
        let of = |value: &str| known.get(value);
        let x = node.operand(0)?;
        if let Some(columns) = of(x).and_then(|x| self.laid_out(node, index, output, x)) {
            return Some(columns);
        }
        match node.op_type() {
            "Concat" => joined(node, &dims, known),
            "Conv" => {
                let channels = *self.axes.dims(x)?.get(1)? as i64;
                let depthwise = node.attr_int("group") == Some(channels) && *dims.get(1)? as i64 == channels;
                if depthwise { of(x)?.kept(&dims) } else { None }
            }
            "ReduceMax" | "ReduceMean" => {
                let axes = match node.operand(1) {
                    Some(axes) => tensor::i64s(self.graph.constant(axes)?).ok()?,
                    None => node.attr_ints("axes").unwrap_or_default().to_vec(),
                };
                of(x)?.reduced(&axes)?.reshaped(&dims)
            }
            op if KEEPING.contains(&op) => of(x)?.kept(&dims),
            op if ELEMENTWISE.contains(&op) => {
                let is_known = |value: &&String| of(value).is_some();
                let full = |value: &&String| self.axes.dims(value).is_some_and(|of_value| of_value == dims);
                let kept = node.input.iter().find(|value| is_known(value) && full(value))?;
                let others = node
                    .input
                    .iter()
                    .filter(|value| !is_known(value) && self.varying.contains(value.as_str()));
                let factor =
                    |value: &String| op == "Mul" && self.is_gate(value) || op != "Add" && !full(&value);
                let divided = op == "Div" && kept == &node.input[0];
                (divided || others.into_iter().all(factor)).then(|| of(kept)?.kept(&dims))?
            }
            _ => None,
        }
    }

    /// The columns in output number `index` of a node that only moves the elements of `x`.
    pub(super) fn laid_out(
        &self,
        node: &NodeProto,
        index: usize,
        output: &str,
        x: &Columns,
    ) -> Option<Columns> {
        let dims = self.axes.dims(output)?;
        match node.op_type() {
            "Transpose" => {
                let reversed: Vec<i64> = (0..dims.len() as i64).rev().collect();
                let perm = node.attr_ints("perm").filter(|perm| !perm.is_empty()).unwrap_or(&reversed);
                x.transposed(perm)
            }
            "Split" => {
                let along = axis_of(node, dims.len())?;
                let before = &node.output[..index];
                let lengths = before.iter().map(|part| self.axes.dims(part)?.get(along).copied());
                x.part(along, lengths.sum::<Option<usize>>()?, dims[along])
            }
            "Slice" => self.slice(node, x, &dims),
            "Gather" => {
                let along = axis_of(node, x.axes.len())?;
                let indices = self.graph.constant(node.operand(1)?)?;
                let [index] = tensor::i64s(indices).ok()?[..] else { return None };
                let length: usize = x.axes[along].iter().map(|(length, _)| length).product();
                let index = if index < 0 { index + length as i64 } else { index };
                let part = x.part(along, usize::try_from(index).ok()?, 1)?;
                match tensor::shape(indices).len() {
                    0 => part.reshaped(&dims),
                    _ => Some(part),
                }
            }
            op if RESHAPES.contains(&op) => x.reshaped(&dims),
            _ => None,
        }
    }

    /// Whether `value` is what an activation function makes, not a value of its own.
    fn is_gate(&self, value: &str) -> bool {
        let mut value = value;
        for _ in 0..MOST_NODES {
            let Some(node) = self.graph.producer(value).map(|id| self.graph.node(id)) else { return false };
            if GATES.iter().any(|op| node.is_op(op)) {
                return true;
            }
            if !RESHAPES.iter().chain(&["Transpose", "Cast", "Expand", "Identity"]).any(|op| node.is_op(op)) {
                return false;
            }
            let Some(before) = node.operand(0) else { return false };
            value = before;
        }
        false
    }

    /// A Slice of step 1, or one along no channels.
    fn slice(&self, node: &NodeProto, x: &Columns, dims: &[usize]) -> Option<Columns> {
        let ints = |input: usize| {
            let value = node.operand(input)?;
            self.graph.constant(value).and_then(|ints| tensor::i64s(ints).ok())
        };
        let of_input = x.dims();
        if of_input.len() != dims.len() {
            return None;
        }
        let cut: Vec<usize> = (0..dims.len()).filter(|&axis| dims[axis] != of_input[axis]).collect();
        let [along] = cut[..] else { return if cut.is_empty() { Some(x.clone()) } else { x.kept(dims) } };
        if !x.has_channels(along) {
            return x.kept(dims);
        }
        let axes = ints(3).unwrap_or_else(|| (0..dims.len() as i64).collect());
        let at = axes.iter().position(|&axis| axis.rem_euclid(dims.len() as i64) == along as i64)?;
        let start = *ints(1)?.get(at)?;
        let step = if node.operand(4).is_some() { *ints(4)?.get(at)? } else { 1 };
        let start = if start < 0 { start + of_input[along] as i64 } else { start };
        if step == 1 { x.part(along, usize::try_from(start).ok()?, dims[along]) } else { None }
    }
}

/// What a Concat makes.
fn joined(node: &NodeProto, dims: &[usize], known: &HashMap<&str, Columns>) -> Option<Columns> {
    let along = axis_of(node, dims.len())?;
    let parts: Vec<&Columns> = node.input.iter().filter_map(|value| known.get(value.as_str())).collect();
    let first = parts.first().filter(|first| first.axes.len() == dims.len())?;
    if !first.has_channels(along) {
        return first.kept(dims);
    }
    let alike = |part: &&Columns| part.columns.ndim() == first.columns.ndim();
    if parts.len() != node.input.len() || !parts.iter().all(alike) {
        return None;
    }
    let views: Vec<_> = parts.iter().map(|part| part.columns.view()).collect();
    let columns = concatenate(Axis(first.channel_axis(along)?), &views).ok()?;
    let mut axes = first.axes.clone();
    axes[along] = vec![(dims[along], true)];
    Some(Columns { axes, columns })
}

impl Columns {
    /// The output of a projection itself.
    pub(super) fn of(dims: &[usize], channels: usize) -> Self {
        let axes = dims.iter().enumerate().map(|(axis, &dim)| vec![(dim, axis == channels)]).collect();
        Self { axes, columns: ArrayD::from_shape_fn(&[dims[channels]][..], |at| at[0]) }
    }

    fn dims(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.iter().map(|(length, _)| length).product()).collect()
    }

    fn has_channels(&self, axis: usize) -> bool {
        self.axes[axis].iter().any(|(_, channel)| *channel)
    }

    /// Which axis of `columns` an axis is along which nothing but channels run.
    fn channel_axis(&self, axis: usize) -> Option<usize> {
        let before = self.axes[..axis].iter().flatten().filter(|(_, channel)| *channel).count();
        matches!(self.axes[axis][..], [(_, true)]).then_some(before)
    }

    fn transposed(&self, perm: &[i64]) -> Option<Self> {
        let perm: Vec<usize> = perm.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<_>>()?;
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.axes.len()) {
            return None;
        }
        let channels = |axis: usize| self.axes[axis].iter().filter(|(_, channel)| *channel).count();
        let of_axis = |&axis: &usize| {
            let first: usize = (0..axis).map(channels).sum();
            first..first + channels(axis)
        };
        let order: Vec<usize> = perm.iter().flat_map(of_axis).collect();
        let columns = self.columns.view().permuted_axes(order).as_standard_layout().into_owned();
        Some(Self { axes: perm.iter().map(|&axis| self.axes[axis].clone()).collect(), columns })
    }

    /// The elements `start..start + length` of an axis.
    fn part(&self, axis: usize, start: usize, length: usize) -> Option<Self> {
        let mut part = self.clone();
        self.axes.get(axis)?;
        if !self.has_channels(axis) {
            part.axes[axis] = vec![(length, false)];
            return Some(part);
        }
        let channels = Axis(self.channel_axis(axis)?);
        if start.checked_add(length)? > self.columns.len_of(channels) {
            return None;
        }
        part.columns = self.columns.slice_axis(channels, Slice::from(start..start + length)).into_owned();
        part.axes[axis] = vec![(length, true)];
        Some(part)
    }

    /// One element along each of `axes`, along which no channels run.
    fn reduced(&self, axes: &[i64]) -> Option<Self> {
        let mut reduced = self.clone();
        for axis in axes {
            let axis = usize::try_from(axis.rem_euclid(self.axes.len().max(1) as i64)).ok()?;
            if axis >= self.axes.len() || self.has_channels(axis) {
                return None;
            }
            reduced.axes[axis] = vec![(1, false)];
        }
        Some(reduced)
    }

    /// The same columns in a value of `dims`, which has other lengths only where no channels run.
    fn kept(&self, dims: &[usize]) -> Option<Self> {
        let mut kept = self.clone();
        if dims.len() != self.axes.len() {
            return None;
        }
        for (axis, (&dim, before)) in dims.iter().zip(self.dims()).enumerate() {
            if dim != before && self.has_channels(axis) {
                return None;
            }
            if dim != before {
                kept.axes[axis] = vec![(dim, false)];
            }
        }
        Some(kept)
    }

    /// The same elements under other axes.
    fn reshaped(&self, dims: &[usize]) -> Option<Self> {
        // First into the finest axes that both have, which splits factors; then these are merged.
        let flat: Factors = self.axes.iter().flatten().copied().filter(|factor| factor.0 != 1).collect();
        let lengths: Vec<usize> = flat.iter().map(|factor| factor.0).collect();
        let mut axes: Vec<Factors> = vec![vec![]; dims.len()];
        for (from, to) in groups(&lengths, dims)? {
            let long: Vec<usize> = to.filter(|&axis| dims[axis] != 1).collect();
            match (&flat[from], &long[..]) {
                (factors, &[axis]) => axes[axis] = factors.to_vec(),
                (&[(_, channel)], several) => {
                    for &axis in several {
                        axes[axis] = vec![(dims[axis], channel)];
                    }
                }
                (factors, several) if factors.iter().all(|(_, channel)| !channel) => {
                    for &axis in several {
                        axes[axis] = vec![(dims[axis], false)];
                    }
                }
                _ => return None,
            }
        }
        let channels = axes.iter().flatten().filter(|factor| factor.1).map(|factor| factor.0);
        let columns = self.columns.to_shape(channels.collect::<Vec<_>>()).ok()?.into_owned();
        Some(Self { axes, columns })
    }
}
