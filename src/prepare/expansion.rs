//! What the steps share: nodes that take the place of one, and what the nodes around a value tell of its shape.

use crate::onnx::node::node;
use crate::onnx::{AttributeProto, DataType, Edits, Graph, NodeProto, TensorProto, tensor};

/// How much of a node's name the names of new nodes repeat, in characters.
const MAX_BASE: usize = 1000;

/// How far [`rank`] and [`dim`] walk back.
const MAX_WALK: usize = 32;

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
        let base = name(origin).chars().take(MAX_BASE).collect();
        Self { base, heir: name(origin).to_string(), edits, nodes: Vec::new() }
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

/// The node's name, else that of its first output: what tract calls it.
pub(super) fn name(node: &NodeProto) -> &str {
    match node.name() {
        "" => node.output.first().map_or("", String::as_str),
        name => name,
    }
}

/// Input `index` of `node`, unless it is left out.
pub(super) fn input(node: &NodeProto, index: usize) -> Option<&str> {
    node.input.get(index).map(String::as_str).filter(|value| !value.is_empty())
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
    (elements(constant) <= most).then(|| tensor::i64s(constant).ok())?
}

/// The number of elements.
pub(super) fn elements(constant: &TensorProto) -> usize {
    tensor::shape(constant).iter().product()
}

/// Operators whose result has the axes of their first operand.
const SAME_AXES: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Gelu",
    "HardSwish",
    "HardSigmoid",
    "Clip",
    "Softmax",
    "Sqrt",
    "Exp",
    "Neg",
    "Identity",
    "Dropout",
    "Cast",
    "LayerNormalization",
    "BatchNormalization",
    "InstanceNormalization",
];

/// The number of axes of `value`, if the file states it or the nodes before it tell.
pub(super) fn rank<'g>(graph: &'g Graph, mut value: &'g str) -> Option<usize> {
    let mut least = 0;
    for _ in 0..MAX_WALK {
        if let Some(stated) = graph.rank(value) {
            return Some(stated.max(least));
        }
        let maker = graph.node(graph.producer(value)?);
        let constant = |index| input(maker, index).and_then(|value| graph.constant(value));
        let found = match maker.op_type() {
            _ if !maker.is_op(maker.op_type()) => return None,
            "Conv" | "ConvTranspose" => constant(1)?.dims.len(),
            "MaxPool" | "AveragePool" => maker.attr_ints("kernel_shape")?.len() + 2,
            "Reshape" => usize::try_from(*constant(1)?.dims.first()?).ok()?,
            "Transpose" if maker.attr("perm").is_some() => maker.attr_ints("perm")?.len(),
            "MatMul" if constant(1)?.dims.len() == 2 => {
                value = input(maker, 0)?;
                continue;
            }
            "Add" | "Mul" | "Sub" | "Div" => {
                let (term, other) = constant(1).map(|c| (c, 0)).or_else(|| Some((constant(0)?, 1)))?;
                least = least.max(term.dims.len());
                value = input(maker, other)?;
                continue;
            }
            op if op == "Transpose" || SAME_AXES.contains(&op) => {
                value = input(maker, 0)?;
                continue;
            }
            _ => return None,
        };
        return Some(found.max(least));
    }
    None
}

/// The dim of `value` that is `back` axes from its last, if the file states it or the nodes before it tell.
pub(super) fn dim<'g>(graph: &'g Graph, mut value: &'g str, mut back: usize) -> Option<i64> {
    let at = |dims: &[i64], back: usize| dims.len().checked_sub(back + 1).map(|axis| dims[axis]);
    for _ in 0..MAX_WALK {
        let axis = graph.rank(value).and_then(|rank| rank.checked_sub(back + 1));
        if let Some(stated) = axis.and_then(|axis| graph.dim(value, axis)) {
            return Some(stated).filter(|&dim| dim > 0);
        }
        let maker = graph.node(graph.producer(value)?);
        let constant = |index| input(maker, index).and_then(|value| graph.constant(value));
        match maker.op_type() {
            _ if !maker.is_op(maker.op_type()) => return None,
            "MatMul" if constant(1)?.dims.len() == 2 => {
                if back == 0 {
                    return Some(constant(1)?.dims[1]);
                }
                value = input(maker, 0)?;
            }
            "Reshape" => {
                let dims = int_constant(graph, input(maker, 1)?, MAX_WALK)?;
                return at(&dims, back).filter(|&dim| dim > 0);
            }
            "Transpose" => {
                let perm = maker.attr_ints("perm")?;
                let from = usize::try_from(at(perm, back)?).ok().filter(|&axis| axis < perm.len())?;
                (value, back) = (input(maker, 0)?, perm.len() - 1 - from);
            }
            "Add" | "Mul" | "Sub" | "Div" => {
                let (term, other) = constant(1).map(|c| (c, 0)).or_else(|| Some((constant(0)?, 1)))?;
                if let Some(dim) = at(&term.dims, back).filter(|&dim| dim > 1) {
                    return Some(dim);
                }
                value = input(maker, other)?;
            }
            op if SAME_AXES.contains(&op) => value = input(maker, 0)?,
            _ => return None,
        }
    }
    None
}
