//! What a pattern asks of a graph, and the answers of an ONNX graph.

use std::borrow::Cow;
use std::fmt::Debug;
use std::hash::Hash;

use crate::onnx::node::is_standard;
use crate::onnx::{self, NodeId, tensor};

/// A graph that patterns are matched in.
pub trait Graph {
    /// A value: what a node makes or takes.
    type Value: Clone + Eq + Hash + Debug;
    /// A node.
    type Node: Copy + PartialEq + Debug;

    /// The value that `value` is a copy of.
    fn resolve(&self, value: &Self::Value) -> Self::Value;
    /// The node that makes `value`.
    fn producer(&self, value: &Self::Value) -> Option<Self::Node>;
    /// The operator of a node, by the name that patterns know it by.
    fn operator(&self, node: Self::Node) -> Cow<'_, str>;
    /// What a node takes.
    fn inputs(&self, node: Self::Node) -> Vec<Self::Value>;
    /// Whether one node takes `value`, once, and nothing else sees it.
    fn is_sole(&self, value: &Self::Value) -> bool;
    /// The shape of `value`, if it is a constant.
    fn constant_dims(&self, value: &Self::Value) -> Option<Vec<usize>>;
    /// The elements of `value`, if it is a float constant.
    fn constant_values(&self, value: &Self::Value) -> Option<Vec<f32>>;

    /// The number behind a constant of one element.
    fn number(&self, value: &Self::Value) -> Option<f64> {
        let dims = self.constant_dims(value)?;
        let values = dims.iter().all(|&dim| dim == 1).then(|| self.constant_values(value))??;
        values.first().map(|&x| f64::from(x))
    }
}

/// A float constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
}

impl Graph for onnx::Graph {
    type Value = String;
    type Node = NodeId;

    fn resolve(&self, value: &String) -> String {
        self.resolve(value).to_string()
    }

    fn producer(&self, value: &String) -> Option<NodeId> {
        self.producer(value)
    }

    /// Of a standard operator its name, of others `domain::name`.
    fn operator(&self, node: NodeId) -> Cow<'_, str> {
        let node = self.node(node);
        match is_standard(node.domain()) {
            true => node.op_type().into(),
            false => format!("{}::{}", node.domain(), node.op_type()).into(),
        }
    }

    fn inputs(&self, node: NodeId) -> Vec<String> {
        self.node(node).input.clone()
    }

    fn is_sole(&self, value: &String) -> bool {
        self.consumers_through_identity(value).len() == 1
    }

    fn constant_dims(&self, value: &String) -> Option<Vec<usize>> {
        self.constant(value).map(tensor::shape)
    }

    fn constant_values(&self, value: &String) -> Option<Vec<f32>> {
        tensor::f32s(self.constant(value)?).ok()
    }
}
