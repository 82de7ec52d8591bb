//! Sequences of tensors, whose elements are known one by one, as the tensors.

use std::collections::HashMap;
use std::rc::Rc;

use super::expansion::{Expansion, int_constant};
use super::shapes::{Ranks, dim};
use crate::onnx::{AttributeProto, Edits, Graph, NodeId, NodeProto, tensor};

/// How many elements all sequences of a model may have together. Every `SequenceInsert` makes a sequence of its own.
const MAX_ELEMENTS: usize = 1 << 14;

/// The edits that take what is read from a sequence directly from its elements; `None` if nothing is. The nodes that made
/// the sequence go with its last use.
pub(super) fn unpack(graph: &Graph) -> Option<Edits> {
    if graph.opset() < 13 || !graph.nodes().any(|(_, node)| reads_sequence(node)) {
        return None;
    }
    let mut unpacking = Unpacking {
        graph,
        ranks: Ranks::of(graph),
        edits: Edits::new(graph.model()),
        sequences: HashMap::new(),
        split: HashMap::new(),
        left: MAX_ELEMENTS,
    };
    let mut changed = false;
    for (id, node) in graph.nodes() {
        if reads_sequence(node) {
            if let Some(nodes) = unpacking.read(node) {
                unpacking.edits.replace_node(id, nodes);
                changed = true;
            }
        } else if let Some(sequence) = unpacking.made(id, node) {
            unpacking
                .sequences
                .extend(node.output.first().map(|output| (output.as_str(), Rc::new(sequence))));
        }
    }
    changed.then_some(unpacking.edits)
}

fn reads_sequence(node: &NodeProto) -> bool {
    node.is_op("SequenceAt") || node.is_op("ConcatFromSequence")
}

/// What is known of a sequence.
enum Sequence<'g> {
    /// Its elements.
    Of(Vec<&'g str>),
    /// The parts of a tensor, `size` long each along `axis`.
    Parts { node: NodeId, axis: i64, parts: Parts },
}

enum Parts {
    /// As long as these.
    Sizes(Vec<i64>),
    /// All so long, however many.
    Each(i64),
    /// One long, and without the axis.
    Single,
}

struct Unpacking<'g> {
    graph: &'g Graph,
    ranks: Ranks<'g>,
    edits: Edits,
    sequences: HashMap<&'g str, Rc<Sequence<'g>>>,
    /// The outputs of the Split in front of a node.
    split: HashMap<NodeId, Vec<String>>,
    left: usize,
}

impl<'g> Unpacking<'g> {
    /// The sequence that `node` makes.
    fn made(&mut self, id: NodeId, node: &'g NodeProto) -> Option<Sequence<'g>> {
        let graph = self.graph;
        if node.is_op("SplitToSequence") {
            return self.parts(id, node);
        }
        let elements = if node.is_op("SequenceConstruct") {
            node.input.iter().map(String::as_str).collect()
        } else if node.is_op("SequenceEmpty") {
            vec![]
        } else if node.is_op("SequenceInsert") || node.is_op("SequenceErase") {
            let sequence = self.sequence(node)?;
            let Sequence::Of(old) = &*sequence else { return None };
            self.left = self.left.checked_sub(old.len())?;
            let mut elements = old.clone();
            let inserts = node.is_op("SequenceInsert");
            let position = node.operand(if inserts { 2 } else { 1 });
            let last = elements.len() + usize::from(inserts);
            let at = match position {
                Some(position) => index(scalar(graph, position)?, elements.len())?,
                None => last.checked_sub(1)?,
            };
            if inserts {
                elements.insert(at, node.operand(1)?);
            } else if at < elements.len() {
                elements.remove(at);
            } else {
                return None;
            }
            elements
        } else {
            return None;
        };
        self.left = self.left.checked_sub(elements.len())?;
        Some(Sequence::Of(elements))
    }

    fn parts(&mut self, id: NodeId, node: &'g NodeProto) -> Option<Sequence<'g>> {
        let graph = self.graph;
        let x = node.operand(0)?;
        let axis = node.attr_int("axis").unwrap_or(0);
        let length =
            self.ranks.get(x).and_then(|rank| dim(graph, x, rank.checked_sub(1 + index(axis, rank)?)?));
        let parts = match node.operand(1) {
            None if node.attr_int("keepdims") == Some(0) => Parts::Single,
            None => Parts::Each(1),
            Some(split) if graph.constant(split)?.dims.is_empty() => Parts::Each(scalar(graph, split)?),
            Some(split) => Parts::Sizes(int_constant(graph, split, self.left)?),
        };
        let parts = match (parts, length) {
            (Parts::Each(size), Some(length)) if size > 0 && length > 0 => {
                let count = usize::try_from(length.checked_add(size - 1)? / size).ok()?;
                self.left.checked_sub(count)?;
                let mut sizes = vec![size; count];
                sizes[count - 1] = length - size * (count as i64 - 1);
                Parts::Sizes(sizes)
            }
            (parts, _) => parts,
        };
        if let Parts::Sizes(sizes) = &parts {
            self.left = self.left.checked_sub(sizes.len())?;
        }
        Some(Sequence::Parts { node: id, axis, parts })
    }

    /// The nodes that make what `node` reads from a sequence.
    fn read(&mut self, node: &'g NodeProto) -> Option<Vec<NodeProto>> {
        let sequence = self.sequence(node)?;
        let output = node.output.first()?;
        if node.is_op("ConcatFromSequence") {
            return self.concatenated(node, &sequence, output);
        }
        let at = scalar(self.graph, node.operand(1)?)?;
        let element = match &*sequence {
            Sequence::Of(elements) => elements.get(index(at, elements.len())?)?.to_string(),
            Sequence::Parts { node: id, axis, parts: Parts::Sizes(sizes) } => {
                let at = index(at, sizes.len()).filter(|&at| at < sizes.len())?;
                self.split(*id, *axis, sizes)?[at].clone()
            }
            Sequence::Parts { node: id, axis, parts } => return self.part(node, *id, *axis, parts, at),
        };
        let mut nodes = Expansion::of(node, &mut self.edits);
        nodes.node("Identity", &[&element], "element");
        Some(nodes.into_nodes(output))
    }

    /// Part number `at` of a tensor, the number of whose parts is unknown.
    fn part(
        &mut self,
        node: &NodeProto,
        id: NodeId,
        axis: i64,
        parts: &Parts,
        at: i64,
    ) -> Option<Vec<NodeProto>> {
        let x = self.graph.node(id).operand(0)?;
        let mut nodes = Expansion::of(node, &mut self.edits);
        match *parts {
            Parts::Single => {
                let at = nodes.constant("at", |name| tensor::from_i64(name, &[], &[at]));
                nodes.node("Gather", &[x, &at], "element");
                nodes.with(AttributeProto::int("axis", axis));
            }
            Parts::Each(size) if at >= 0 && size > 0 => {
                let start = at.checked_mul(size)?;
                let bounds = [("from", start), ("to", start.checked_add(size)?), ("axis", axis)];
                let [from, to, axis] = bounds.map(|(part, value)| nodes.ints(part, &[value]));
                nodes.node("Slice", &[x, &from, &to, &axis], "element");
            }
            _ => return None,
        }
        Some(nodes.into_nodes(node.output.first()?))
    }

    fn concatenated(
        &mut self,
        node: &'g NodeProto,
        sequence: &Sequence<'g>,
        output: &str,
    ) -> Option<Vec<NodeProto>> {
        let axis = node.attr_int("axis")?;
        let len = match sequence {
            Sequence::Of(elements) => elements.len(),
            Sequence::Parts { parts: Parts::Sizes(sizes), .. } => sizes.len(),
            Sequence::Parts { .. } => 0,
        };
        self.left = self.left.checked_sub(len).filter(|_| len > 0)?;
        let elements: Vec<String> = match sequence {
            Sequence::Of(elements) => elements.iter().map(ToString::to_string).collect(),
            Sequence::Parts { node, axis, parts: Parts::Sizes(sizes) } => {
                self.split(*node, *axis, sizes)?.clone()
            }
            Sequence::Parts { .. } => return None,
        };
        let mut nodes = Expansion::of(node, &mut self.edits);
        let deeper = if node.attr_int("new_axis").unwrap_or(0) == 0 {
            elements
        } else {
            let axes = nodes.ints("axis", &[axis]);
            let deeper = |x: &String| nodes.node("Unsqueeze", &[x, &axes], "deeper");
            elements.iter().map(deeper).collect()
        };
        let inputs: Vec<&str> = deeper.iter().map(String::as_str).collect();
        nodes.node("Concat", &inputs, "together");
        nodes.with(AttributeProto::int("axis", axis));
        Some(nodes.into_nodes(output))
    }

    /// The sequence that `node` takes.
    fn sequence(&self, node: &'g NodeProto) -> Option<Rc<Sequence<'g>>> {
        self.sequences.get(self.graph.resolve(node.operand(0)?)).cloned()
    }

    /// The outputs of a Split that is put in front of node `id`.
    fn split(&mut self, id: NodeId, axis: i64, sizes: &[i64]) -> Option<&Vec<String>> {
        if !self.split.contains_key(&id) {
            let node = self.graph.node(id);
            let mut nodes = Expansion::of(node, &mut self.edits);
            let lengths = nodes.ints("sizes", sizes);
            let outputs: Vec<String> =
                (0..sizes.len()).map(|part| nodes.fresh(&format!("part_{part}"))).collect();
            nodes.node("Split", &[node.operand(0)?, &lengths], "split");
            nodes.with(AttributeProto::int("axis", axis));
            nodes.outputs_of_last(&outputs);
            let nodes = nodes.nodes();
            self.edits.insert_before(id, nodes);
            self.split.insert(id, outputs);
        }
        self.split.get(&id)
    }
}

/// The one integer that `value` is.
fn scalar(graph: &Graph, value: &str) -> Option<i64> {
    match int_constant(graph, value, 1)?[..] {
        [only] => Some(only),
        _ => None,
    }
}

/// A position among `len` elements, or at their end, of one that may count from the end.
fn index(at: i64, len: usize) -> Option<usize> {
    let at = if at < 0 { at.checked_add(len as i64)? } else { at };
    usize::try_from(at).ok().filter(|&at| at <= len)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, after_in, inputs, ints, ops, unchanged};
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model};

    fn scalars(values: &[(&str, i64)]) -> Vec<crate::onnx::TensorProto> {
        values.iter().map(|(name, value)| tensor::from_i64(name, &[], &[*value])).collect()
    }

    fn split(attributes: &[(&str, i64)]) -> NodeProto {
        let split = node("SplitToSequence", "s", ["x"], ["seq"]);
        attributes.iter().fold(split, |node, (name, value)| node.with(AttributeProto::int(name, *value)))
    }

    fn at(position: &str, output: &str) -> NodeProto {
        node("SequenceAt", "", ["seq", position], [output])
    }

    #[test]
    fn parts_of_known_sizes_are_a_split() {
        let mut sizes = split(&[("axis", 2)]);
        sizes.input.push("sizes".into());
        let nodes = vec![sizes, at("0", "a"), at("-1", "b"), node("Add", "", ["a", "b"], ["y"])];
        let constants = [scalars(&[("0", 0), ("-1", -1)]), vec![tensor::from_i64("sizes", &[3], &[2, 3, 2])]];
        let model = after(unpack, nodes, constants.concat());
        assert_eq!(ops(&model), "Split Identity Identity Add");
        assert_eq!(ints(&model, 0, 1), [2, 3, 2]);
        assert_eq!((inputs(&model, 1), inputs(&model, 2)), (vec!["s/part_0"], vec!["s/part_2"]));
        assert_eq!(model.graph().node[0].attr_int("axis"), Some(2));
    }

    #[test]
    fn parts_of_one_size_need_the_length_only_from_the_end() {
        let mut each = split(&[("axis", 1)]);
        each.input.push("2".into());
        let nodes = vec![each.clone(), at("1", "y")];
        let model = after(unpack, nodes, scalars(&[("1", 1), ("2", 2)]));
        assert_eq!(ops(&model), "Slice");
        assert_eq!([1, 2, 3].map(|input| ints(&model, 0, input)), [[2], [4], [1]]);
        unchanged(unpack, vec![each.clone(), at("-1", "y")], scalars(&[("-1", -1), ("2", 2)]));

        let mut graph = graph("x", "y", vec![each, at("-1", "y")], scalars(&[("-1", -1), ("2", 2)]));
        graph.input[0] = crate::onnx::testing::shaped("x", &[4, 5]);
        let model = after_in(unpack, crate::onnx::testing::model(graph, 17));
        assert_eq!(ops(&model), "Split Identity");
        assert_eq!((ints(&model, 0, 1), inputs(&model, 1)), (vec![2, 2, 1], vec!["s/part_2"]));
    }

    #[test]
    fn parts_without_their_axis_are_gathered() {
        let nodes = vec![split(&[("keepdims", 0), ("axis", 1)]), at("1", "y")];
        let model = after(unpack, nodes, scalars(&[("1", 1)]));
        assert_eq!((ops(&model), ints(&model, 0, 1)), ("Gather".into(), vec![1]));
    }

    #[test]
    fn sequences_made_of_tensors() {
        let nodes = vec![
            node("Relu", "", ["x"], ["h"]),
            node("SequenceConstruct", "", ["x", "h"], ["two"]),
            node("SequenceInsert", "", ["two", "x"], ["three"]),
            node("SequenceInsert", "", ["three", "h", "0"], ["four"]),
            node("SequenceErase", "", ["four", "0"], ["seq"]),
            at("-1", "last"),
            node("ConcatFromSequence", "", ["four"], ["c"]).with(AttributeProto::int("axis", 1)),
            node("ConcatFromSequence", "", ["seq"], ["d"])
                .with(AttributeProto::int("axis", 0))
                .with(AttributeProto::int("new_axis", 1)),
        ];
        let constants = scalars(&[("0", 0), ("-1", -1)]);
        let model = after_in(unpack, model(graph("x", "last c d", nodes, constants), 17));
        assert_eq!(ops(&model), "Relu Identity Concat Unsqueeze Unsqueeze Unsqueeze Concat");
        assert_eq!((inputs(&model, 1), inputs(&model, 2)), (vec!["x"], vec!["h", "x", "h", "x"]));
    }

    #[test]
    fn what_is_not_known_stays() {
        let open = node("SequenceAt", "", ["seq", "x"], ["y"]);
        unchanged(unpack, vec![split(&[]), open], vec![]);
        unchanged(unpack, vec![node("SequenceAt", "", ["x", "0"], ["y"])], scalars(&[("0", 0)]));
        let constructed = node("SequenceConstruct", "", ["x"], ["seq"]);
        unchanged(unpack, vec![constructed, at("1", "y")], scalars(&[("1", 1)]));
        unchanged(unpack, vec![split(&[]), at("1", "y")], scalars(&[("1", i64::MIN)]));
        unchanged(unpack, vec![node("SequenceAt", "", [], ["y"])], vec![]);
    }
}
