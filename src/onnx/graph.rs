//! A read-only index over the main graph: who makes a value, who uses it, what is constant.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{GraphProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, type_proto};
use super::{DataType, Model, node, tensor, validate};
use crate::error::{Error, Result};

/// A node of the main graph, by its position in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// One consumption of a value: input number `input` of `node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// The consumer.
    pub node: NodeId,
    /// The position among its inputs.
    pub input: usize,
}

/// The index. It borrows the model, and so describes it as long as it lives.
#[derive(Debug)]
pub struct Graph<'m> {
    proto: &'m GraphProto,
    opset: i64,
    producers: HashMap<&'m str, NodeId>,
    consumers: HashMap<&'m str, Vec<Use>>,
    constants: HashMap<&'m str, Cow<'m, TensorProto>>,
    infos: HashMap<&'m str, &'m ValueInfoProto>,
    outputs: HashSet<&'m str>,
    functions: HashSet<(&'m str, &'m str)>,
}

impl<'m> Graph<'m> {
    /// Indexes the main graph. An error if the model does not import the standard operators.
    pub fn new(model: &'m Model) -> Result<Self> {
        let graph = model.graph();
        let standard = model.proto.opset_import.iter().find(|import| node::is_standard(import.domain()));
        let opset = standard.map(OperatorSetIdProto::version).ok_or_else(|| {
            Error::unsupported("opset_import", "the model imports no version of the standard operators")
        })?;
        let mut index = Self {
            proto: graph,
            opset,
            producers: HashMap::new(),
            consumers: HashMap::new(),
            constants: graph.initializer.iter().map(|t| (t.name(), Cow::Borrowed(t))).collect(),
            infos: graph.value_info.iter().chain(&graph.input).chain(&graph.output).map(named).collect(),
            outputs: graph.output.iter().map(ValueInfoProto::name).collect(),
            functions: model.proto.functions.iter().map(|f| (f.domain(), f.name())).collect(),
        };
        for (id, node) in index.nodes() {
            index.outputs.extend(validate::captures(node));
            for (input, value) in node.input.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
                index.consumers.entry(value).or_default().push(Use { node: id, input });
            }
            for value in node.output.iter().filter(|value| !value.is_empty()) {
                index.producers.insert(value, id);
                if let Some(tensor) = constant_node(node) {
                    index.constants.insert(value, tensor);
                }
            }
        }
        Ok(index)
    }

    /// The node `id`.
    ///
    /// # Panics
    /// If `id` comes from another graph and is beyond this one.
    pub fn node(&self, id: NodeId) -> &'m NodeProto {
        &self.proto.node[id.0]
    }

    /// All nodes, in topological order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &'m NodeProto)> + use<'m> {
        self.proto.node.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }

    /// The node that makes `value`; `None` for inputs, initializers and unknown names.
    pub fn producer(&self, value: &str) -> Option<NodeId> {
        self.producers.get(value).copied()
    }

    /// The nodes of the main graph that take `value`, in their order. Subgraphs: see [`Graph::is_output`].
    pub fn consumers(&self, value: &str) -> &[Use] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// Like [`Graph::consumers`], with those of its Identity copies in place of the Identity nodes.
    pub fn consumers_through_identity(&self, value: &str) -> Vec<Use> {
        let mut found = Vec::new();
        let mut stack: Vec<Use> = self.consumers(value).iter().rev().copied().collect();
        while let Some(consumer) = stack.pop() {
            match identity_output(self.node(consumer.node)) {
                Some(copy) => stack.extend(self.consumers(copy).iter().rev()),
                None => found.push(consumer),
            }
        }
        found
    }

    /// The value that `value` is a copy of: walks back through Identity nodes.
    pub fn resolve<'a>(&self, mut value: &'a str) -> &'a str
    where
        'm: 'a,
    {
        while let Some(node) = self.producer(value).map(|id| self.node(id)) {
            match node.input.first() {
                Some(original) if node.is_op("Identity") => value = original,
                _ => break,
            }
        }
        value
    }

    /// The tensor behind `value` if it is an initializer or made by a Constant node, Identity nodes between or not.
    ///
    /// The values of sparse and string constants are not looked up.
    pub fn constant(&self, value: &str) -> Option<&TensorProto> {
        self.constants.get(self.resolve(value)).map(AsRef::as_ref)
    }

    /// Whether `value` is seen from outside the main graph's nodes: an output of the model, or taken by a subgraph.
    /// Its meaning must not change then.
    pub fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// The inputs that the caller must feed: those without an initializer.
    pub fn inputs(&self) -> impl Iterator<Item = &'m ValueInfoProto> {
        let fed = |input: &&ValueInfoProto| !self.constants.contains_key(input.name());
        self.proto.input.iter().filter(fed)
    }

    /// The outputs of the model.
    pub fn outputs(&self) -> &'m [ValueInfoProto] {
        &self.proto.output
    }

    /// Whether `op_type` of `domain` is a function that the model itself defines.
    pub fn has_function(&self, domain: &str, op_type: &str) -> bool {
        self.functions.contains(&(domain, op_type))
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The element type of `value`, where the file states it.
    pub fn data_type(&self, value: &str) -> Option<DataType> {
        if let Some(tensor) = self.constants.get(value) {
            return DataType::try_from(tensor.data_type()).ok();
        }
        let type_proto::Value::TensorType(tensor) = self.infos.get(value)?.r#type.as_ref()?.value.as_ref()?
        else {
            return None;
        };
        DataType::try_from(tensor.elem_type()).ok()
    }

    /// The shape of `value` as far as the file states it; a symbolic or unknown dim is `None`.
    pub fn shape(&self, value: &str) -> Option<Vec<Option<i64>>> {
        if let Some(tensor) = self.constants.get(value) {
            return Some(tensor.dims.iter().map(|&dim| Some(dim)).collect());
        }
        let type_proto::Value::TensorType(tensor) = self.infos.get(value)?.r#type.as_ref()?.value.as_ref()?
        else {
            return None;
        };
        let dim = |dim: &Dimension| match dim.value {
            Some(dimension::Value::DimValue(known)) => Some(known),
            _ => None,
        };
        Some(tensor.shape.as_ref()?.dim.iter().map(dim).collect())
    }
}

fn named(info: &ValueInfoProto) -> (&str, &ValueInfoProto) {
    (info.name(), info)
}

fn identity_output(node: &NodeProto) -> Option<&str> {
    node.output.first().filter(|_| node.is_op("Identity")).map(String::as_str)
}

/// What a Constant node makes, in any of the numeric spellings (opset 12 added the short ones).
fn constant_node(node: &NodeProto) -> Option<Cow<'_, TensorProto>> {
    let attribute = node.attribute.first().filter(|_| node.is_op("Constant"))?;
    let name = node.output.first()?;
    Some(match attribute.name() {
        "value" => Cow::Borrowed(attribute.t.as_ref()?),
        "value_float" => Cow::Owned(tensor::from_f32(name, &[], &[attribute.f?])),
        "value_floats" => Cow::Owned(tensor::from_f32(name, &[attribute.floats.len()], &attribute.floats)),
        "value_int" => Cow::Owned(tensor::from_i64(name, &[], &[attribute.i?])),
        "value_ints" => Cow::Owned(tensor::from_i64(name, &[attribute.ints.len()], &attribute.ints)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::AttributeProto;
    use super::super::testing::{file_of, graph};
    use super::*;
    use node::node;

    fn model() -> Model {
        let constant = |output: &str, attribute| node("Constant", "", [], [output]).with(attribute);
        let nodes = vec![
            node("Identity", "copy", ["w"], ["w2"]),
            node("Identity", "copy2", ["w2"], ["w3"]),
            constant("c0", AttributeProto::tensor("value", tensor::from_i64("", &[2], &[1, 2]))),
            constant("c1", AttributeProto::float("value_float", 0.5)),
            constant("c2", AttributeProto::float_list("value_floats", &[0.5, 1.5])),
            constant("c3", AttributeProto::int("value_int", 3)),
            constant("c4", AttributeProto::int_list("value_ints", &[4])),
            node("Mul", "mul", ["x", "w3"], ["h"]),
            node("Add", "add", ["h", "w"], ["y"]),
        ];
        let mut proto = file_of(graph("x w", "y", nodes, vec![tensor::from_f32("w", &[1], &[2.0])]), 17);
        proto.opset_import[0].domain = Some("ai.onnx".into());
        Model::new(proto).unwrap()
    }

    #[test]
    fn producers_and_consumers() {
        let model = model();
        let graph = Graph::new(&model).unwrap();
        let used = |node, input| Use { node: NodeId(node), input };
        assert_eq!(graph.opset(), 17);
        assert_eq!(graph.producer("h"), Some(NodeId(7)));
        assert_eq!(graph.producer("x"), None);
        assert_eq!(graph.consumers("w"), [used(0, 0), used(8, 1)]);
        assert_eq!(graph.consumers("y"), []);
        assert_eq!(graph.consumers_through_identity("w"), [used(7, 1), used(8, 1)]);
        assert_eq!(graph.resolve("w3"), "w");
        assert_eq!(graph.resolve("h"), "h");
        assert!(graph.is_output("y") && !graph.is_output("h"));
        assert_eq!(graph.inputs().map(ValueInfoProto::name).collect::<Vec<_>>(), ["x"]);
        assert_eq!(graph.outputs()[0].name(), "y");
    }

    #[test]
    fn constants_in_every_spelling() {
        let model = model();
        let graph = Graph::new(&model).unwrap();
        let floats = |value| tensor::f32s(graph.constant(value).unwrap()).unwrap();
        let ints = |value| tensor::i64s(graph.constant(value).unwrap()).unwrap();
        assert_eq!(floats("w"), [2.0]);
        assert_eq!(floats("w3"), [2.0]);
        assert_eq!(ints("c0"), [1, 2]);
        assert_eq!((floats("c1"), graph.shape("c1")), (vec![0.5], Some(vec![])));
        assert_eq!((floats("c2"), graph.shape("c2")), (vec![0.5, 1.5], Some(vec![Some(2)])));
        assert_eq!(ints("c3"), [3]);
        assert_eq!(ints("c4"), [4]);
        assert!(graph.constant("x").is_none() && graph.constant("h").is_none());
    }

    #[test]
    fn the_standard_operators_must_be_imported() {
        let mut model = model();
        model.proto.opset_import[0].domain = Some("ai.ptq4vit".into());
        assert!(Graph::new(&model).unwrap_err().to_string().contains("opset_import"));
    }
}
