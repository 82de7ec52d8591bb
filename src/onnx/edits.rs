//! Changes to a model, collected first and applied in one go.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use super::{Model, NodeId, node, validate};
use crate::error::{Error, Result};

/// A batch of edits to the main graph of one model. [`NodeId`]s mean the nodes before the batch.
#[derive(Debug)]
pub struct Edits {
    names: HashSet<String>,
    /// By base, the number of the last fresh name.
    numbers: HashMap<String, usize>,
    replaced: Vec<(NodeId, Vec<NodeProto>)>,
    before: Vec<(NodeId, Vec<NodeProto>)>,
    inputs: Vec<(NodeId, usize, String)>,
    initializers: Vec<TensorProto>,
    functions: Vec<FunctionProto>,
    no_functions_but: Option<&'static str>,
    imports: Vec<(String, i64)>,
}

impl Edits {
    /// No edits yet, to `model`.
    pub fn new(model: &Model) -> Self {
        let mut names = HashSet::new();
        collect_names(model.graph(), &mut names);
        Self {
            names,
            numbers: HashMap::new(),
            replaced: vec![],
            before: vec![],
            inputs: vec![],
            initializers: vec![],
            functions: vec![],
            no_functions_but: None,
            imports: vec![],
        }
    }

    /// A name like `base` that no value and no node of the model has, and that was not given out before.
    pub fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        if name.is_empty() || self.names.contains(&name) {
            let number = self.numbers.entry(name).or_default();
            loop {
                *number += 1;
                name = format!("{base}_{number}");
                if !self.names.contains(&name) {
                    break;
                }
            }
        }
        self.names.insert(name.clone());
        name
    }

    /// Puts `nodes` in the place of node `id`; one of them must make each of its outputs that is still used.
    pub fn replace_node(&mut self, id: NodeId, nodes: Vec<NodeProto>) {
        self.replaced.push((id, nodes));
    }

    /// Takes node `id` away; nothing may use its outputs any more.
    pub fn remove_node(&mut self, id: NodeId) {
        self.replace_node(id, vec![]);
    }

    /// Puts `nodes` in front of node `id`, behind what was put there before.
    pub fn insert_before(&mut self, id: NodeId, nodes: Vec<NodeProto>) {
        self.before.push((id, nodes));
    }

    /// Makes input number `index` of node `id` the value `value`.
    pub fn set_input(&mut self, id: NodeId, index: usize, value: impl Into<String>) {
        self.inputs.push((id, index, value.into()));
    }

    /// Adds a constant to the graph.
    pub fn add_initializer(&mut self, tensor: TensorProto) {
        self.initializers.push(tensor);
    }

    /// Adds a model-local function, once if it comes several times. Import its domain too.
    pub fn add_function(&mut self, function: FunctionProto) {
        self.functions.push(function);
    }

    /// Takes away the functions of every domain but `domain`. Nothing may call them any more.
    pub fn keep_only_functions_of(&mut self, domain: &'static str) {
        self.no_functions_but = Some(domain);
    }

    /// Sets the version of an operator domain. All nodes of that domain are read by this version from then on.
    pub fn import_opset(&mut self, domain: &str, version: i64) {
        self.imports.push((domain.to_owned(), version));
    }

    /// Applies everything, or on an error nothing.
    ///
    /// Nodes are sorted topologically again, each as near to its old place as that allows. Nodes and initializers
    /// that were used before and are not any more go, as does what is said about values that no longer exist.
    pub fn apply(self, model: &mut Model) -> Result<()> {
        let used_before: HashSet<String> = used(&model.proto).into_iter().map(Into::into).collect();
        let mut proto = model.proto.clone();
        let graph = proto.graph.as_mut().ok_or_else(|| Error::usage("edits of a model without a graph"))?;
        if !self.initializers.is_empty() {
            // Before this version an initializer had to be a graph input as well.
            proto.ir_version = proto.ir_version.max(Some(4));
        }
        graph.node =
            sort(rewritten(std::mem::take(&mut graph.node), self.replaced, self.before, self.inputs)?);
        graph.initializer.extend(self.initializers);
        if let Some(domain) = self.no_functions_but {
            proto.functions.retain(|function| function.domain() == domain);
        }
        for function in self.functions {
            proto.ir_version = proto.ir_version.max(Some(8));
            if !proto.functions.contains(&function) {
                proto.functions.push(function);
            }
        }
        for (domain, version) in self.imports {
            import(&mut proto.opset_import, domain, version);
        }
        drop_unused(&mut proto, &used_before);
        validate::nesting(&proto)?;
        validate::model(&proto)?;
        model.proto = proto;
        Ok(())
    }
}

fn rewritten(
    nodes: Vec<NodeProto>,
    replaced: Vec<(NodeId, Vec<NodeProto>)>,
    before: Vec<(NodeId, Vec<NodeProto>)>,
    inputs: Vec<(NodeId, usize, String)>,
) -> Result<Vec<NodeProto>> {
    struct Slot {
        before: Vec<NodeProto>,
        nodes: Vec<NodeProto>,
        edited: Option<&'static str>,
    }
    let mut slots: Vec<Slot> =
        nodes.into_iter().map(|node| Slot { before: vec![], nodes: vec![node], edited: None }).collect();
    let none = |id: NodeId| Error::usage(format!("edit of node {}: the graph has no such node", id.0));
    for (id, index, value) in inputs {
        let slot = slots.get_mut(id.0).ok_or_else(|| none(id))?;
        slot.edited = Some("replaced and given another input");
        let node = &mut slot.nodes[0];
        let label = node.label();
        let no_input = || Error::usage(format!("edit of {label}: it has no input {index}"));
        *node.input.get_mut(index).ok_or_else(no_input)? = value;
    }
    for (id, nodes) in before {
        slots.get_mut(id.0).ok_or_else(|| none(id))?.before.extend(nodes);
    }
    for (id, nodes) in replaced {
        let slot = slots.get_mut(id.0).ok_or_else(|| none(id))?;
        if let Some(both) = slot.edited.replace("replaced twice") {
            return Err(Error::usage(format!("edit of node {}: it is {both}", id.0)));
        }
        slot.nodes = nodes;
    }
    Ok(slots.into_iter().flat_map(|slot| slot.before.into_iter().chain(slot.nodes)).collect())
}

/// Topological order; among the nodes that may come next, the one that was first. A cycle is left at the end, where
/// validation finds it.
fn sort(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), index)));
    }
    let mut waits_for = vec![0_usize; nodes.len()];
    let mut feeds = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for producer in takes(node).filter_map(|value| producers.get(value)) {
            feeds[*producer].push(index);
            waits_for[index] += 1;
        }
    }
    let mut ready: BinaryHeap<_> = (0..nodes.len()).filter(|&i| waits_for[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &next in &feeds[index] {
            waits_for[next] -= 1;
            if waits_for[next] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    order.extend((0..nodes.len()).filter(|&i| waits_for[i] > 0));
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| nodes[index].take()).collect()
}

/// Every value that a node takes, directly or in its subgraphs.
fn takes(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|value| !value.is_empty()).chain(validate::captures(node))
}

/// What is used by something else than a node of the main graph.
fn roots(proto: &ModelProto) -> Vec<&str> {
    let mut found = Vec::new();
    found.extend(proto.graph.iter().flat_map(|graph| &graph.output).map(ValueInfoProto::name));
    for training in &proto.training_info {
        for graph in [&training.initialization, &training.algorithm].into_iter().flatten() {
            validate::graph_captures(graph, &mut found);
        }
        let bindings = training.initialization_binding.iter().chain(&training.update_binding);
        found.extend(bindings.flat_map(|binding| [binding.key(), binding.value()]));
    }
    found
}

fn used(proto: &ModelProto) -> HashSet<&str> {
    let nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    roots(proto).into_iter().chain(nodes.flat_map(takes)).collect()
}

/// Drops nodes and initializers that were used before and are not now, then what is said about values that are gone.
fn drop_unused(proto: &mut ModelProto, used_before: &HashSet<String>) {
    let mut used: HashSet<String> = roots(proto).into_iter().map(Into::into).collect();
    let Some(graph) = &mut proto.graph else { return };
    let keep = |value: &str, used: &HashSet<String>| used.contains(value) || !used_before.contains(value);
    // Consumers come after producers, so that walking backwards sees every use of a node before the node.
    let mut nodes = std::mem::take(&mut graph.node);
    nodes.reverse();
    nodes.retain(|node| {
        let outputs = || node.output.iter().filter(|o| !o.is_empty());
        let kept = outputs().any(|o| used.contains(o)) || outputs().all(|o| keep(o, &used));
        if kept {
            used.extend(takes(node).map(Into::into));
        }
        kept
    });
    nodes.reverse();
    graph.node = nodes;

    let gone: HashSet<String> =
        validate::constants(graph).filter(|name| !keep(name, &used)).map(Into::into).collect();
    graph.initializer.retain(|t| !gone.contains(t.name()));
    graph.sparse_initializer.retain(|t| !t.values.as_ref().is_some_and(|v| gone.contains(v.name())));
    // An input whose default value went would have to be fed.
    graph.input.retain(|input| !gone.contains(input.name()));

    let values: HashSet<String> = values(graph).map(Into::into).collect();
    graph.value_info.retain(|info| values.contains(info.name()));
    graph.quantization_annotation.retain(|annotation| values.contains(annotation.tensor_name()));
}

/// The values that exist in the graph itself.
fn values(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let outputs = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    graph.input.iter().map(ValueInfoProto::name).chain(validate::constants(graph)).chain(outputs)
}

fn import(imports: &mut Vec<OperatorSetIdProto>, domain: String, version: i64) {
    let same = |import: &&mut OperatorSetIdProto| {
        import.domain() == domain || (node::is_standard(&domain) && node::is_standard(import.domain()))
    };
    match imports.iter_mut().find(same) {
        Some(found) => found.version = Some(version),
        None => imports.push(OperatorSetIdProto { domain: Some(domain), version: Some(version) }),
    }
}

/// All names of values and nodes, those in subgraphs too.
fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(values(graph).map(Into::into));
    for node in &graph.node {
        names.insert(node.name().to_owned());
        node.subgraphs().for_each(|graph| collect_names(graph, names));
    }
}

#[cfg(test)]
mod tests {
    use super::super::AttributeProto;
    use super::super::node::node;
    use super::super::tensor;
    use super::super::testing::{file_of, graph, value};
    use super::*;

    /// `y = (x·w1 + w2)·2`, an unused Relu, and notes about every value.
    fn model() -> Model {
        let two = AttributeProto::tensor("value", tensor::from_f32("", &[1], &[2.0]));
        let nodes = vec![
            node("MatMul", "mm", ["x", "w1"], ["m"]),
            node("Relu", "dead", ["m"], ["unused"]),
            node("Add", "add", ["m", "w2"], ["a"]),
            node("Constant", "two", [], ["c"]).with(two),
            node("Mul", "mul", ["a", "c"], ["y"]),
        ];
        let initializers = ["w1", "w2", "stray"].map(|name| tensor::from_f32(name, &[1], &[1.0]));
        let graph = GraphProto {
            value_info: ["m", "a", "c", "unused"].map(value).into(),
            ..graph("x w1", "y", nodes, initializers.into())
        };
        Model::new(ModelProto { ir_version: Some(3), ..file_of(graph, 17) }).unwrap()
    }

    fn edited(edit: impl FnOnce(&mut Edits)) -> Result<Model> {
        let mut model = model();
        let mut edits = Edits::new(&model);
        edit(&mut edits);
        edits.apply(&mut model).map(|()| model)
    }

    /// Names of nodes, initializers, inputs and noted values that are left.
    #[track_caller]
    fn check(edit: impl FnOnce(&mut Edits), nodes: &str, initializers: &str, inputs: &str, infos: &str) {
        let model = edited(edit).unwrap();
        let graph = model.graph();
        let joined = |names: Vec<&str>| names.join(" ");
        assert_eq!(joined(graph.node.iter().map(NodeProto::name).collect()), nodes);
        assert_eq!(joined(graph.initializer.iter().map(TensorProto::name).collect()), initializers);
        assert_eq!(joined(graph.input.iter().map(ValueInfoProto::name).collect()), inputs);
        assert_eq!(joined(graph.value_info.iter().map(ValueInfoProto::name).collect()), infos);
    }

    #[test]
    fn edits_take_what_they_leave_unused() {
        let relu = |input, output| vec![node("Relu", "new", [input], [output])];
        check(|_| (), "mm dead add two mul", "w1 w2 stray", "x w1", "m a c unused");
        check(
            |e| e.replace_node(NodeId(4), relu("a", "y")),
            "mm dead add new",
            "w1 w2 stray",
            "x w1",
            "m a unused",
        );
        check(|e| e.set_input(NodeId(4), 1, "a"), "mm dead add mul", "w1 w2 stray", "x w1", "m a unused");
        check(|e| e.remove_node(NodeId(1)), "mm add two mul", "w1 w2 stray", "x w1", "m a c");
        let upstream = |e: &mut Edits| {
            e.remove_node(NodeId(1));
            e.set_input(NodeId(4), 0, "x");
        };
        check(upstream, "two mul", "stray", "x", "c");
    }

    #[test]
    fn nodes_stay_sorted() {
        let insert = |e: &mut Edits| {
            // The new node is put behind its consumer.
            e.insert_before(NodeId(4), vec![node("Relu", "new", ["x"], ["r"])]);
            e.set_input(NodeId(0), 0, "r");
        };
        check(insert, "two new mm dead add mul", "w1 w2 stray", "x w1", "m a c unused");
        let cycle = edited(|e| e.set_input(NodeId(0), 0, "y")).unwrap_err().to_string();
        assert!(cycle.contains("cycle"), "{cycle}");
    }

    #[test]
    fn nonsense_is_an_error_and_changes_nothing() {
        type Edit = fn(&mut Edits);
        let mut model = model();
        let before = model.proto.clone();
        let edits: [(Edit, &str); 7] = [
            (|e| e.set_input(NodeId(9), 0, "x"), "no such node"),
            (|e| e.set_input(NodeId(0), 2, "x"), "no input 2"),
            (|e| e.set_input(NodeId(0), 0, "q"), "nothing produces its input `q`"),
            (|e| e.remove_node(NodeId(2)), "nothing produces its input `a`"),
            (|e| e.add_initializer(tensor::from_f32("w1", &[1], &[0.0])), "two of this name"),
            (
                |e| {
                    e.remove_node(NodeId(1));
                    e.remove_node(NodeId(1));
                },
                "replaced twice",
            ),
            (
                |e| {
                    e.set_input(NodeId(1), 0, "x");
                    e.remove_node(NodeId(1));
                },
                "replaced and given another input",
            ),
        ];
        for (edit, why) in edits {
            let mut edits = Edits::new(&model);
            edit(&mut edits);
            let error = edits.apply(&mut model).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(model.proto, before);
        }
    }

    #[test]
    fn fresh_names_are_new() {
        let mut edits = Edits::new(&model());
        assert_eq!(edits.fresh("q"), "q");
        assert_eq!(edits.fresh("q"), "q_1");
        assert_eq!(edits.fresh("mm"), "mm_1");
        assert_eq!(edits.fresh("a"), "a_1");
        assert_eq!(edits.fresh(""), "_1");
    }

    #[test]
    fn functions_and_imports() {
        let function = FunctionProto { name: Some("F".into()), ..Default::default() };
        let model = edited(|e| {
            e.add_function(function.clone());
            e.add_function(function);
            e.import_opset("ai.ptq4vit", 1);
            e.import_opset("ai.onnx", 20);
        })
        .unwrap();
        assert_eq!((model.proto.functions.len(), model.proto.ir_version), (1, Some(8)));
        let imports: Vec<_> = model.proto.opset_import.iter().map(|i| (i.domain(), i.version())).collect();
        assert_eq!(imports, [("", 20), ("ai.ptq4vit", 1)]);
    }
}
