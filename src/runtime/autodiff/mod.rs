//! Reverse-mode differentiation over tract's typed graph: forward tape, backward walk, table of VJP rules.
//!
//! The graph must be typed but not decluttered (few op kinds, every ONNX value still there). Knows no ONNX.

mod einsum;
mod grid_sample;
mod resize;
mod rules;
#[cfg(test)]
mod rules_check;
mod windows;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashSet};

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::konst::Const;
use tract_core::ops::source::TypedSource;
use tract_ndarray::{ArrayD, ArrayViewD, Axis};

use crate::error::guarded;
use crate::{Error, Result};

/// A typed model ready to run: what does not depend on its input is computed once, here.
pub(super) struct Network {
    model: TypedModel,
    order: Vec<usize>,
    /// By node: its outputs, if they depend on no input of the model.
    fixed: Vec<Option<TVec<TValue>>>,
    /// By node: is its value read by a rule?
    kept: Vec<bool>,
    /// By node: how many read its outputs in the forward pass.
    readers: Vec<usize>,
    /// By node: does no gradient go through it, because it has no rule?
    ends: Vec<bool>,
}

/// The values of one forward pass, kept for the backward pass.
pub(super) struct Tape<'n> {
    network: &'n Network,
    values: Vec<Option<TVec<TValue>>>,
    /// By node: the shapes of its outputs.
    shapes: Vec<TVec<TVec<usize>>>,
}

impl Network {
    /// Prepares a model with one float input and concrete shapes. An error if what it computes from its constants takes
    /// more than `limit` bytes beyond theirs.
    pub(super) fn new(model: TypedModel, limit: usize) -> Result<Self> {
        let order = model.eval_order().map_err(|e| Error::model("graph", e))?;
        let mut fixed: Vec<Option<TVec<TValue>>> = vec![None; model.nodes.len()];
        let bytes =
            |values: &[TValue]| values.iter().map(|v| v.len() * v.datum_type().size_of()).sum::<usize>();
        // Weights may be kept once more in another layout.
        let weights = model.nodes.iter().filter_map(|node| node.op_as::<Const>());
        let mut room = weights.fold(limit, |room, weight| {
            room.saturating_add(2 * bytes(&[weight.val().clone().into_tvalue()]))
        });
        for &id in &order {
            let node = &model.nodes[id];
            if node.op_is::<TypedSource>() || node.inputs.iter().any(|i| fixed[i.node].is_none()) {
                continue;
            }
            let values = eval(node, inputs_of(node, &fixed))?;
            room = room.checked_sub(bytes(&values)).ok_or_else(|| {
                let why =
                    format!("the constants that the model makes of others take more than {limit} bytes");
                Error::model(format!("node `{}`", node.name), why)
            })?;
            fixed[id] = Some(values);
        }
        let mut kept = vec![false; model.nodes.len()];
        let mut readers = vec![0; model.nodes.len()];
        for node in model.nodes.iter().filter(|node| fixed[node.id].is_none()) {
            let varies: Vec<bool> = node.inputs.iter().map(|i| fixed[i.node].is_none()).collect();
            let rule = rules::find(node.op.as_ref());
            for (index, input) in node.inputs.iter().enumerate() {
                readers[input.node] += 1;
                kept[input.node] |= rule.is_some_and(|(keep, _)| keep.needs_input(index, &varies));
            }
            kept[node.id] |= rule.is_some_and(|(keep, _)| keep == rules::Keep::Output);
        }
        let ends = vec![false; model.nodes.len()];
        Ok(Self { model, order, fixed, kept, readers, ends })
    }

    /// Lets gradients end at every node without a rule on their way from `outputs` to `wanted`: the names and operators
    /// of these nodes, and the values that enter them, from which gradients can begin anew.
    pub(super) fn end_at_missing_rules(
        &mut self,
        outputs: &[OutletId],
        wanted: &[OutletId],
    ) -> (Vec<(String, String)>, Vec<OutletId>) {
        let leads = self.leads_to(wanted);
        let mut open = outputs.to_vec();
        let mut seen: HashSet<OutletId> = outputs.iter().copied().collect();
        let mut entering: BTreeSet<OutletId> = BTreeSet::new();
        while let Some(outlet) = open.pop() {
            let node = &self.model.nodes[outlet.node];
            let carriers = node.inputs.iter().filter(|i| leads[i.node] && self.is_float(**i));
            let carriers: Vec<OutletId> = carriers.copied().collect();
            if outlet.slot > 0 || rules::find(node.op.as_ref()).is_none() {
                entering.extend(&carriers);
                self.ends[node.id] |= !carriers.is_empty();
            }
            open.extend(carriers.into_iter().filter(|input| seen.insert(*input)));
        }
        let ends = self.model.nodes.iter().filter(|node| self.ends[node.id]);
        let named = ends.map(|node| (node.name.clone(), node.op.name().into_owned())).collect();
        (named, entering.into_iter().filter(|value| !outputs.contains(value)).collect())
    }

    /// Runs the model on `input`; keeps the values of `wanted` and those that rules read.
    pub(super) fn forward(&self, input: Tensor, wanted: &[OutletId]) -> Result<Tape<'_>> {
        let mut readers = self.readers.clone();
        let mut shapes: Vec<TVec<TVec<usize>>> = vec![tvec!(); self.model.nodes.len()];
        for outlet in wanted {
            readers[outlet.node] += 1;
        }
        let mut values = self.fixed.clone();
        let source = self.model.inputs[0].node;
        values[source] = Some(tvec!(input.into_tvalue()));
        for &id in &self.order {
            if values[id].is_none() {
                let node = &self.model.nodes[id];
                values[id] = Some(eval(node, inputs_of(node, &values))?);
                for input in &node.inputs {
                    readers[input.node] -= 1;
                    if readers[input.node] == 0 && !self.kept[input.node] {
                        values[input.node] = None;
                    }
                }
            }
            shapes[id] = values[id].iter().flatten().map(|value| value.shape().into()).collect();
        }
        Ok(Tape { network: self, values, shapes })
    }

    /// By node: is it in `wanted`, or computed from a node that is? What comes through integers or truth values, such
    /// as an index or a mask, does not count: no gradient flows there.
    fn leads_to(&self, wanted: &[OutletId]) -> Vec<bool> {
        let nodes = &self.model.nodes;
        let mut leads = vec![false; nodes.len()];
        for &id in &self.order {
            let through = |i: &OutletId| leads[i.node] && self.is_float(*i);
            leads[id] = wanted.iter().any(|w| w.node == id) || nodes[id].inputs.iter().any(through);
        }
        leads
    }

    fn is_float(&self, outlet: OutletId) -> bool {
        self.model.nodes[outlet.node].outputs[outlet.slot].fact.datum_type.is_float()
    }
}

impl Tape<'_> {
    /// The float value at `outlet`, which must be among those wanted.
    pub(super) fn value(&self, outlet: OutletId) -> Result<ArrayViewD<'_, f32>> {
        let value = self.values[outlet.node].as_ref().map(|v| &v[outlet.slot]);
        let value =
            value.ok_or_else(|| Error::model(self.name(outlet.node), "its value was not asked for"))?;
        value.to_plain_array_view().map_err(|e| Error::model(self.name(outlet.node), e))
    }

    /// The shape of the value at `outlet`.
    pub(super) fn shape(&self, outlet: OutletId) -> &[usize] {
        &self.shapes[outlet.node][outlet.slot]
    }

    /// What the values that depend on the input take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let own = self.values.iter().zip(&self.network.fixed).filter(|(_, fixed)| fixed.is_none());
        let bytes = |value: &TValue| value.len() * value.datum_type().size_of();
        own.flat_map(|(values, _)| values.iter().flatten()).map(bytes).sum()
    }

    /// With S seeds `dy` for each outlet `o` of `from`, `[S, shape of o]`, the gradients
    /// `∂(Σ_o ⟨dy_o, value(o)⟩)/∂value(w)` of each `w` of `wanted`: `found(index of w, [S, shape of w])` is called when
    /// they are known; with zeros where nothing depends on `w`. Values are freed once no rule needs them.
    /// An error names an op on the way that has no rule, unless gradients [end](Network::end_at_missing_rules) there.
    pub(super) fn backward(
        mut self,
        from: Vec<(OutletId, ArrayD<f32>)>,
        wanted: &[OutletId],
        mut found: impl FnMut(usize, &ArrayD<f32>) -> Result<()>,
    ) -> Result<()> {
        let network = self.network;
        let model = &network.model;
        let leads = network.leads_to(wanted);
        let carries = |input: &OutletId| leads[input.node] && network.is_float(*input);
        let count = from.first().map_or(0, |(_, seeds)| seeds.shape()[0]);
        let mut missing = vec![true; wanted.len()];
        let mut grads: HashMap<OutletId, ArrayD<f32>> = from.into_iter().collect();
        for &id in self.network.order.iter().rev() {
            let node = &model.nodes[id];
            for slot in 0..node.outputs.len() {
                let outlet = OutletId::new(id, slot);
                let Some(dy) = grads.remove(&outlet) else { continue };
                if let Some(index) = wanted.iter().position(|w| *w == outlet) {
                    missing[index] = false;
                    found(index, &dy)?;
                }
                let needed: Vec<bool> = node.inputs.iter().map(carries).collect();
                if network.ends[id] || !needed.contains(&true) {
                    continue;
                }
                for (&input, dx) in node.inputs.iter().zip(self.pull_back(node, slot, dy, &needed)?) {
                    let Some(dx) = dx else { continue };
                    let dx = sum_to_shape(dx, self.shape(input));
                    match grads.entry(input) {
                        Entry::Occupied(mut sum) => *sum.get_mut() += &dx,
                        Entry::Vacant(sum) => drop(sum.insert(dx)),
                    }
                }
            }
            self.values[id] = None;
        }
        for index in (0..wanted.len()).filter(|&index| missing[index]) {
            found(index, &ArrayD::zeros([&[count], self.shape(wanted[index])].concat()))?;
        }
        Ok(())
    }

    /// The gradient of each needed input of `node`, in the shape of the broadcast operands.
    fn pull_back(
        &self,
        node: &TypedNode,
        slot: usize,
        dy: ArrayD<f32>,
        needed: &[bool],
    ) -> Result<Vec<Option<ArrayD<f32>>>> {
        let name = node.op.name();
        let (keep, rule) = rules::find(node.op.as_ref()).filter(|_| slot == 0).ok_or_else(|| {
            Error::unsupported(format!("node `{}`", node.name), format!("op {name} has no gradient rule"))
        })?;
        let value = |o: &OutletId| self.values[o.node].as_ref().map(|values| values[o.slot].clone());
        let saved = rules::Saved {
            op: node.op.as_ref(),
            shapes: node.inputs.iter().map(|&input| self.shape(input)).collect(),
            inputs: node.inputs.iter().map(value).collect(),
            output: value(&OutletId::new(node.id, 0)).filter(|_| keep == rules::Keep::Output),
            needed,
        };
        rule(dy, &saved).map_err(|e| Error::model(self.name(node.id), format!("gradient of {name}: {e}")))
    }

    fn name(&self, node: usize) -> String {
        format!("node `{}`", self.network.model.nodes[node].name)
    }
}

fn inputs_of(node: &TypedNode, values: &[Option<TVec<TValue>>]) -> TVec<TValue> {
    let value = |o: &OutletId| values[o.node].as_ref().expect("nodes come in order")[o.slot].clone();
    node.inputs.iter().map(value).collect()
}

/// tract's own evaluation, but for `EinSum`, which tract computes one element at a time before it is optimized.
fn eval(node: &TypedNode, inputs: TVec<TValue>) -> Result<TVec<TValue>> {
    let outcome = match node.op_as::<EinSum>() {
        Some(op) if einsum::is_float(op, &inputs) => einsum::eval(op, &inputs).map(|v| tvec!(v)),
        // tract panics on what a hostile model may ask for.
        _ => guarded(|| node.op.eval(&EvalContext::out_of_plan(), inputs)).map_err(TractError::msg).flatten(),
    };
    outcome.map_err(|e| Error::model(format!("node `{}`", node.name), format!("{}: {e}", node.op.name())))
}

/// Sums `grads`, `[S, ..]`, over the axes along which an operand of `shape` was broadcast.
fn sum_to_shape(mut grads: ArrayD<f32>, shape: &[usize]) -> ArrayD<f32> {
    while grads.ndim() > 1 + shape.len() {
        grads = grads.sum_axis(Axis(1));
    }
    for (axis, &dim) in (1..).zip(shape) {
        if dim == 1 && grads.shape()[axis] != 1 {
            grads = grads.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
    }
    grads
}
