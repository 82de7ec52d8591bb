//! What the steps share: nodes that take the place of one, and how to ask a node for its operands.

use crate::onnx::node::node;
use crate::onnx::{AttributeProto, DataType, Edits, Graph, NodeProto, TensorProto, tensor};

/// How much of a node's name the names of new nodes repeat, in characters.
const MAX_BASE: usize = 1000;

/// The nodes that take the place of one node, in the making.
pub(super) struct Expansion<'e> {
    base: String,
    heir: String,
    edits: &'e mut Edits,
    nodes: Vec<NodeProto>,
}

impl<'e> Expansion<'e> {
    /// New values and nodes are called after `origin`.
    pub(super) fn of(origin: &NodeProto, edits: &'e mut Edits) -> Self {
        let base = origin.name_or_output().chars().take(MAX_BASE).collect();
        Self { base, heir: origin.name_or_output().to_string(), edits, nodes: Vec::new() }
    }

    /// A constant of the name that `make` is given.
    pub(super) fn constant(&mut self, part: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.fresh(part);
        self.edits.add_initializer(make(&name));
        name
    }

    /// A FLOAT scalar.
    pub(super) fn scalar(&mut self, part: &str, value: f32) -> String {
        self.constant(part, |name| tensor::from_f32(name, &[], &[value]))
    }

    /// A vector of INT64.
    pub(super) fn ints(&mut self, part: &str, values: &[i64]) -> String {
        self.constant(part, |name| tensor::from_i64(name, &[values.len()], values))
    }

    /// A node; the name of its output.
    pub(super) fn node(&mut self, op_type: &str, inputs: &[&str], part: &str) -> String {
        let name = self.fresh(part);
        self.nodes.push(node(op_type, &name, inputs.iter().copied(), [name.as_str()]));
        name
    }

    /// The node that is what the origin was in the main, and has its name.
    pub(super) fn heir(&mut self, op_type: &str, inputs: &[&str]) -> String {
        let output = self.node(op_type, inputs, "product");
        if !self.heir.is_empty() {
            self.last().name = Some(self.heir.clone());
        }
        output
    }

    /// Gives the last node one more attribute.
    pub(super) fn with(&mut self, attribute: AttributeProto) {
        self.last().attribute.push(attribute);
    }

    pub(super) fn transposed(&mut self, x: &str, axes: &[i64], part: &str) -> String {
        let output = self.node("Transpose", &[x], part);
        self.with(AttributeProto::int_list("perm", axes));
        output
    }

    /// The mean over `axes`, which stay, in a model of this opset.
    pub(super) fn mean(&mut self, opset: i64, x: &str, axes: &[i64], part: &str) -> String {
        if opset >= 18 {
            let axes = self.ints("axes", axes);
            return self.node("ReduceMean", &[x, &axes], part);
        }
        let mean = self.node("ReduceMean", &[x], part);
        self.with(AttributeProto::int_list("axes", axes));
        mean
    }

    /// `[N, T, H·D]` as `[N, H, T, D]`.
    pub(super) fn in_heads(&mut self, x: &str, heads: i64, part: &str) -> String {
        let shape = self.ints(&format!("{part}_shape"), &[0, 0, heads, -1]);
        let apart = self.node("Reshape", &[x, &shape], &format!("{part}_apart"));
        self.transposed(&apart, &[0, 2, 1, 3], &format!("{part}_heads"))
    }

    /// The last node makes `output`. Its nodes.
    pub(super) fn into_nodes(mut self, output: &str) -> Vec<NodeProto> {
        self.outputs_of_last(&[output.to_string()]);
        self.nodes()
    }

    pub(super) fn nodes(self) -> Vec<NodeProto> {
        self.nodes
    }

    /// The last node makes `outputs`.
    pub(super) fn outputs_of_last(&mut self, outputs: &[String]) {
        self.last().output = outputs.to_vec();
    }

    /// A new name of a value or a node.
    pub(super) fn fresh(&mut self, part: &str) -> String {
        self.edits.fresh(&format!("{}/{part}", self.base))
    }

    fn last(&mut self) -> &mut NodeProto {
        self.nodes.last_mut().expect("a node was just added")
    }
}

/// How many bytes of constants a step may make. A file can name one constant in many nodes.
pub(super) struct Budget(usize);

impl Budget {
    /// As many as the largest tensor of `graph` may have.
    pub(super) fn of(graph: &Graph) -> Self {
        Self(graph.model().limits.tensor_bytes)
    }

    /// Takes room for so many f32.
    pub(super) fn take(&mut self, elements: usize) -> bool {
        let left = elements.checked_mul(4).and_then(|bytes| self.0.checked_sub(bytes));
        left.map(|left| self.0 = left).is_some()
    }
}

/// Whether output `index` of `node` is taken by anyone.
pub(super) fn is_used(graph: &Graph, node: &NodeProto, index: usize) -> bool {
    node.output.get(index).is_some_and(|value| {
        !value.is_empty() && (!graph.consumers(value).is_empty() || graph.is_output(value))
    })
}

/// Whether `value` is FLOAT, as far as is known.
pub(super) fn may_be_float(graph: &Graph, value: &str) -> bool {
    graph.data_type(graph.resolve(value)).is_none_or(|found| found == DataType::Float)
}

/// The FLOAT constant behind `value`.
pub(super) fn float_constant<'g>(graph: &'g Graph, value: &str) -> Option<&'g TensorProto> {
    graph.constant(value).filter(|constant| constant.data_type() == DataType::Float as i32)
}

/// The elements of an integer constant, if they are at most `most`: whoever asks often must not ask for many.
pub(super) fn int_constant(graph: &Graph, value: &str, most: usize) -> Option<Vec<i64>> {
    let constant = graph.constant(value)?;
    (tensor::len(constant) <= most).then(|| tensor::i64s(constant).ok())?
}
