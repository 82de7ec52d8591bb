//! A read-only index over the main graph: who makes a value, who uses it, what is constant.

use std::collections::{HashMap, HashSet};

use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, type_proto};
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

/// A model and the index over its main graph.
#[derive(Clone, Debug)]
pub struct Graph {
    model: Model,
    opset: i64,
    producers: HashMap<String, NodeId>,
    consumers: HashMap<String, Vec<Use>>,
    constants: HashMap<String, Constant>,
    infos: HashMap<String, ValueInfoProto>,
    outputs: HashSet<String>,
}

/// Where the tensor of a constant is.
#[derive(Clone, Debug)]
enum Constant {
    /// Among the initializers, at this index.
    Initializer(usize),
    /// In the attribute `value` of a Constant node.
    Attribute(NodeId),
    /// Made of the short attributes of a Constant node.
    Made(Box<TensorProto>),
}

impl Graph {
    /// Indexes the main graph. An error if the model does not import the standard operators.
    pub fn new(model: Model) -> Result<Self> {
        let imports = &model.proto.opset_import;
        let standard = imports.iter().find(|import| node::is_standard(import.domain()));
        let opset = standard.map(OperatorSetIdProto::version).ok_or_else(|| {
            Error::unsupported("opset_import", "the model imports no version of the standard operators")
        })?;
        let graph = model.graph();
        let initializers = graph.initializer.iter().enumerate();
        let infos = graph.value_info.iter().chain(&graph.input).chain(&graph.output);
        let mut constants: HashMap<_, _> =
            initializers.map(|(at, t)| (t.name().to_owned(), Constant::Initializer(at))).collect();
        let infos = infos.map(|info| (info.name().to_owned(), info.clone())).collect();
        let mut outputs: HashSet<_> = graph.output.iter().map(|output| output.name().to_owned()).collect();
        let (mut producers, mut consumers) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for (id, node) in graph.node.iter().enumerate().map(|(index, node)| (NodeId(index), node)) {
            outputs.extend(validate::captures(node).into_iter().map(ToOwned::to_owned));
            for (input, value) in node.input.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
                consumers.entry(value.clone()).or_default().push(Use { node: id, input });
            }
            for value in node.output.iter().filter(|value| !value.is_empty()) {
                producers.insert(value.clone(), id);
                if let Some(constant) = constant_node(id, node) {
                    constants.insert(value.clone(), constant);
                }
            }
        }
        Ok(Self { model, opset, producers, consumers, constants, infos, outputs })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model without its index.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// The node `id`.
    ///
    /// # Panics
    /// If `id` comes from another graph and is beyond this one.
    pub fn node(&self, id: NodeId) -> &NodeProto {
        &self.model.graph().node[id.0]
    }

    /// All nodes, in topological order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &NodeProto)> + ExactSizeIterator {
        self.model.graph().node.iter().enumerate().map(|(index, node)| (NodeId(index), node))
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
    pub fn resolve<'a>(&'a self, mut value: &'a str) -> &'a str {
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
        self.own_constant(self.resolve(value))
    }

    /// As [`Graph::constant`], but not through Identity nodes.
    fn own_constant(&self, value: &str) -> Option<&TensorProto> {
        match self.constants.get(value)? {
            Constant::Initializer(at) => self.model.graph().initializer.get(*at),
            Constant::Attribute(id) => self.node(*id).attr("value")?.t.as_ref(),
            Constant::Made(tensor) => Some(tensor),
        }
    }

    /// Whether `value` is seen from outside the main graph's nodes: an output of the model, or taken by a subgraph.
    /// Its meaning must not change then.
    pub fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// The inputs that the caller must feed: those without an initializer.
    pub fn inputs(&self) -> impl Iterator<Item = &ValueInfoProto> {
        self.model.graph().input.iter().filter(|input| !self.constants.contains_key(input.name()))
    }

    /// The outputs of the model.
    pub fn outputs(&self) -> &[ValueInfoProto] {
        &self.model.graph().output
    }

    /// Whether `op_type` of `domain` is a function that the model itself defines.
    pub fn has_function(&self, domain: &str, op_type: &str) -> bool {
        let functions = &self.model.proto.functions;
        functions.iter().any(|function| (function.domain(), function.name()) == (domain, op_type))
    }

    /// The first node that computes on integer codes, or makes or reads them: the model is quantized if there is one.
    pub fn quantized_node(&self) -> Option<&NodeProto> {
        self.model.graph().node.iter().find(|node| node.is_quantized())
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The element type of `value`, where the file states it.
    pub fn data_type(&self, value: &str) -> Option<DataType> {
        let code = match self.own_constant(value) {
            Some(tensor) => tensor.data_type(),
            None => self.tensor_type(value)?.elem_type(),
        };
        DataType::try_from(code).ok()
    }

    /// The shape of `value` as far as the file states it; a symbolic or unknown dim is `None`.
    pub fn shape(&self, value: &str) -> Option<Vec<Option<i64>>> {
        if let Some(tensor) = self.own_constant(value) {
            return Some(tensor.dims.iter().map(|&dim| Some(dim)).collect());
        }
        Some(self.tensor_type(value)?.shape.as_ref()?.dim.iter().map(known).collect())
    }

    /// Dim `axis` of `value`, where the file states it.
    pub fn dim(&self, value: &str, axis: usize) -> Option<i64> {
        match self.own_constant(value) {
            Some(tensor) => tensor.dims.get(axis).copied(),
            None => known(self.tensor_type(value)?.shape.as_ref()?.dim.get(axis)?),
        }
    }

    /// The number of axes of `value`, where the file states it.
    pub fn rank(&self, value: &str) -> Option<usize> {
        match self.own_constant(value) {
            Some(tensor) => Some(tensor.dims.len()),
            None => Some(self.tensor_type(value)?.shape.as_ref()?.dim.len()),
        }
    }

    fn tensor_type(&self, value: &str) -> Option<&type_proto::Tensor> {
        match self.infos.get(value)?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => Some(tensor),
            _ => None,
        }
    }
}

fn known(dim: &Dimension) -> Option<i64> {
    match dim.value {
        Some(dimension::Value::DimValue(known)) => Some(known),
        _ => None,
    }
}

fn identity_output(node: &NodeProto) -> Option<&str> {
    node.output.first().filter(|_| node.is_op("Identity")).map(String::as_str)
}

/// What a Constant node makes, in any of the numeric spellings (opset 12 added the short ones).
fn constant_node(id: NodeId, node: &NodeProto) -> Option<Constant> {
    let attribute = node.attribute.first().filter(|_| node.is_op("Constant"))?;
    let name = node.output.first()?;
    let made = match attribute.name() {
        "value" => return attribute.t.as_ref().map(|_| Constant::Attribute(id)),
        "value_float" => tensor::from_f32(name, &[], &[attribute.f?]),
        "value_floats" => tensor::from_f32(name, &[attribute.floats.len()], &attribute.floats),
        "value_int" => tensor::from_i64(name, &[], &[attribute.i?]),
        "value_ints" => tensor::from_i64(name, &[attribute.ints.len()], &attribute.ints),
        _ => return None,
    };
    Some(Constant::Made(made.into()))
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
        let graph = Graph::new(model).unwrap();
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
        let graph = Graph::new(model).unwrap();
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
        assert!(Graph::new(model).unwrap_err().to_string().contains("opset_import"));
    }
}
