//! Where a model goes on with operators that cannot be computed here: what lies before them, and what behind.
//!
//! A detection head may have such operators behind a transformer that has none: the transformer is quantized, and the
//! head stays as it is.

use std::collections::{HashMap, HashSet};

use crate::Result;
use crate::onnx::{DataType, Graph, NodeId, NodeProto, ValueInfoProto, captures};
use crate::runtime::{Facts, infer, uncomputable};

/// A division of a model by the nodes that cannot be computed.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// The nodes that cannot be computed and stand behind no other such node, with the reasons.
    pub(crate) nodes: Vec<(NodeId, String)>,
    /// For each node behind one of them, and for them themselves: the index of the first one.
    behind: HashMap<NodeId, usize>,
    /// The float values that go from the computable part to the rest.
    pub(crate) boundary: Vec<String>,
    /// The computable part. Its outputs are those of the model that it has, and the boundary.
    pub(crate) graph: Graph,
    facts: Facts,
}

impl Cut {
    /// `None` if all of the model can be computed. The input has `dims`, `None` where the file leaves them open.
    pub(super) fn of(graph: &Graph, dims: [Option<usize>; 4]) -> Result<Option<Self>> {
        let mut reasons: HashMap<usize, String> = uncomputable(graph.model()).into_iter().collect();
        if reasons.is_empty() {
            return Ok(None);
        }
        let mut nodes = Vec::new();
        let mut behind: HashMap<NodeId, usize> = HashMap::new();
        for (id, node) in graph.nodes() {
            let before = inputs(node).filter_map(|value| behind.get(&graph.producer(value)?).copied()).min();
            let reason = reasons.remove(&id.0);
            let first = before.or_else(|| {
                nodes.push((id, reason?));
                Some(nodes.len() - 1)
            });
            behind.extend(first.map(|first| (id, first)));
        }
        let is_computed = |value: &str| graph.producer(value).is_none_or(|id| !behind.contains_key(&id));
        let crosses = |value: &str| graph.producer(value).is_some() && is_computed(value);
        let mut boundary: Vec<String> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for (_, node) in graph.nodes().filter(|(id, _)| behind.contains_key(id)) {
            let values = inputs(node).filter(|value| crosses(value) && graph.constant(value).is_none());
            boundary.extend(values.filter(|value| seen.insert(value)).map(str::to_owned));
        }
        let computed = graph.outputs().iter().filter(|output| is_computed(output.name())).cloned();
        let mut outputs: Vec<ValueInfoProto> = computed.collect();
        let kept = |id| !behind.contains_key(&id);
        let facts = infer(part(graph, kept, outputs.clone())?.model(), dims);
        let is_float = |value: &String| match graph.data_type(value) {
            Some(known) => known == DataType::Float,
            None => facts.is_float(value),
        };
        boundary.retain(is_float);
        let named = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
        let inner = boundary.iter().filter(|name| !graph.is_output(name)).map(named);
        outputs.extend(inner);
        let graph = part(graph, kept, outputs)?;
        Ok(Some(Self { nodes, behind, boundary, graph, facts }))
    }

    /// The node that cannot be computed and stands before node `id`, or is it.
    pub(crate) fn before(&self, id: NodeId) -> Option<NodeId> {
        self.behind.get(&id).map(|&first| self.nodes[first].0)
    }

    /// What is known of the computable values.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// What a node takes, the graphs inside it included.
fn inputs(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).chain(captures(node)).filter(|value| !value.is_empty())
}

/// The model of the nodes that are `kept`, with these outputs and the constants that it needs.
fn part(graph: &Graph, kept: impl Fn(NodeId) -> bool, outputs: Vec<ValueInfoProto>) -> Result<Graph> {
    let mut model = graph.model().clone();
    if let Some(proto) = &mut model.proto.graph {
        proto.node = graph.nodes().filter(|(id, _)| kept(*id)).map(|(_, node)| node.clone()).collect();
        proto.output = outputs;
        let mut used: HashSet<&str> = proto.node.iter().flat_map(inputs).collect();
        used.extend(proto.output.iter().map(ValueInfoProto::name));
        proto.initializer.retain(|tensor| used.contains(tensor.name()));
    }
    Graph::new(model)
}
