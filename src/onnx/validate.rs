//! What must hold before anything else looks at a model.

use std::collections::HashSet;

use super::node::is_standard;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    TensorProto, ValueInfoProto,
};
use super::tensor;
use crate::error::{Error, Result};

/// Graphs inside graphs (bodies of If, Loop, Scan) beyond this are an attack on the stack.
const MAX_NESTING: usize = 16;

/// Refuses graphs nested too deep. Everything else that walks subgraphs relies on it.
pub(super) fn nesting(model: &ModelProto) -> Result<()> {
    let training = model.training_info.iter().flat_map(|t| [&t.initialization, &t.algorithm]).flatten();
    model.graph.iter().chain(training).try_for_each(|graph| nodes_nest(&graph.node, 1))?;
    for function in &model.functions {
        nest(&function.attribute_proto, 1)?;
        nodes_nest(&function.node, 1)?;
    }
    Ok(())
}

/// The newest IR version and opset of the standard operators that are known here. What a later one says may mean
/// something else than it seems to.
const NEWEST_IR: i64 = 14;
const NEWEST_OPSET: i64 = 28;

/// Refuses what was written for a later version of ONNX.
pub(super) fn versions(model: &ModelProto) -> Result<()> {
    const HELP: &str = "export the model again with an older one, such as opset 17";
    if model.ir_version() > NEWEST_IR {
        let why = format!("the newest that is known here is {NEWEST_IR}: {HELP}");
        return Err(Error::unsupported(format!("IR version {}", model.ir_version()), why));
    }
    let functions = model.functions.iter().flat_map(|function| &function.opset_import);
    let standard = model.opset_import.iter().chain(functions).filter(|import| is_standard(import.domain()));
    match standard.map(OperatorSetIdProto::version).find(|&version| version > NEWEST_OPSET) {
        Some(newer) => {
            let why = format!("the newest that is known here is {NEWEST_OPSET}: {HELP}");
            Err(Error::unsupported(format!("opset {newer}"), why))
        }
        None => Ok(()),
    }
}

/// Checks tensors, names and order in every graph and function. Tensors are inline by now.
pub(super) fn model(model: &ModelProto) -> Result<()> {
    let mut ids = HashSet::new();
    for function in &model.functions {
        if !ids.insert((function.domain(), function.name(), function.overload())) {
            return Err(Error::model(function_label(function), "is defined twice"));
        }
        check_function(function)?;
    }
    let Some(graph) = &model.graph else { return Ok(()) };
    let main = check_graph(graph, None)?;
    for training in &model.training_info {
        // Training may read and update whatever the main graph names.
        for graph in [&training.initialization, &training.algorithm].into_iter().flatten() {
            check_graph(graph, Some(&main))?;
        }
    }
    Ok(())
}

/// The values that `node` takes from around it through its subgraphs, beside its own inputs.
pub(crate) fn captures(node: &NodeProto) -> Vec<&str> {
    let mut found = Vec::new();
    node.subgraphs().for_each(|graph| graph_captures(graph, &mut found));
    found
}

/// The values that `graph` takes from around it.
pub(super) fn graph_captures<'m>(graph: &'m GraphProto, found: &mut Vec<&'m str>) {
    let mut used: Vec<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    let mut own: HashSet<&str> =
        graph.input.iter().map(ValueInfoProto::name).chain(constants(graph)).collect();
    for node in &graph.node {
        used.extend(node.input.iter().map(String::as_str));
        used.extend(captures(node));
        own.extend(node.output.iter().map(String::as_str));
    }
    found.extend(used.into_iter().filter(|value| !value.is_empty() && !own.contains(value)));
}

/// The names of the initializers, dense and sparse.
pub(super) fn constants(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    graph.initializer.iter().chain(sparse).map(TensorProto::name)
}

fn nodes_nest(nodes: &[NodeProto], depth: usize) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(Error::whole_model(format!("has graphs nested deeper than {MAX_NESTING}")));
    }
    nodes.iter().try_for_each(|node| nest(&node.attribute, depth))
}

fn nest(attributes: &[AttributeProto], depth: usize) -> Result<()> {
    attributes
        .iter()
        .flat_map(AttributeProto::subgraphs)
        .try_for_each(|graph| nodes_nest(&graph.node, depth + 1))
}

/// The values that a node may consume: those of its graph so far, and those of the graphs around it.
struct Scope<'m, 'o> {
    names: HashSet<&'m str>,
    outer: Option<&'o Scope<'m, 'o>>,
}

impl Scope<'_, '_> {
    fn has(&self, value: &str) -> bool {
        self.names.contains(value) || self.outer.is_some_and(|outer| outer.has(value))
    }
}

fn check_graph<'m, 'o>(graph: &'m GraphProto, outer: Option<&'o Scope<'m, 'o>>) -> Result<Scope<'m, 'o>> {
    for initializer in &graph.initializer {
        check_tensor(initializer)?;
    }
    graph.sparse_initializer.iter().try_for_each(check_sparse)?;
    let mut names = HashSet::new();
    for name in constants(graph) {
        if !names.insert(name) {
            return Err(Error::model(format!("initializer `{name}`"), "there are two of this name"));
        }
    }
    names.extend(graph.input.iter().map(ValueInfoProto::name));
    let mut scope = Scope { names, outer };
    check_nodes(&graph.node, &mut scope)?;
    match graph.output.iter().find(|v| !scope.has(v.name())) {
        Some(output) => Err(Error::model(format!("graph output `{}`", output.name()), "nothing produces it")),
        None => Ok(scope),
    }
}

fn check_function(function: &FunctionProto) -> Result<()> {
    let within = |e: Error| Error::model(function_label(function), e);
    check_attributes(&function.attribute_proto, &Scope { names: HashSet::new(), outer: None })
        .map_err(within)?;
    let mut scope = Scope { names: function.input.iter().map(String::as_str).collect(), outer: None };
    check_nodes(&function.node, &mut scope).map_err(within)?;
    match function.output.iter().find(|output| !scope.has(output)) {
        Some(output) => Err(within(Error::model(format!("output `{output}`"), "nothing produces it"))),
        None => Ok(()),
    }
}

fn function_label(function: &FunctionProto) -> String {
    format!("function `{}::{}`", function.domain(), function.name())
}

/// Adds the outputs of `nodes` to `scope` one by one, so that each node sees what is before it.
fn check_nodes<'m>(nodes: &'m [NodeProto], scope: &mut Scope<'m, '_>) -> Result<()> {
    for (index, node) in nodes.iter().enumerate() {
        for value in node.input.iter().filter(|value| !value.is_empty()) {
            if !scope.has(value) {
                return Err(Error::model(node.label(), unavailable(value, &nodes[index..])));
            }
        }
        check_attributes(&node.attribute, scope).map_err(|e| Error::model(node.label(), e))?;
        if node.output.first().is_none_or(String::is_empty) {
            return Err(Error::model(node.label(), "it has no first output"));
        }
        for value in node.output.iter().filter(|value| !value.is_empty()) {
            if !scope.names.insert(value) {
                return Err(Error::model(node.label(), format!("its output `{value}` exists already")));
            }
        }
    }
    Ok(())
}

fn unavailable(value: &str, rest: &[NodeProto]) -> String {
    match rest.iter().find(|node| node.output.iter().any(|o| o == value)) {
        Some(later) => format!(
            "its input `{value}` comes from {} further down: the nodes are not topologically sorted, or form a cycle",
            later.label()
        ),
        None => format!("nothing produces its input `{value}`"),
    }
}

fn check_attributes<'m>(attributes: &'m [AttributeProto], scope: &Scope<'m, '_>) -> Result<()> {
    for attribute in attributes {
        attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
        attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).try_for_each(check_sparse)?;
        for graph in attribute.subgraphs() {
            check_graph(graph, Some(scope))?;
        }
    }
    Ok(())
}

fn check_tensor(tensor: &TensorProto) -> Result<()> {
    tensor::check(tensor).map_err(|why| Error::model(format!("tensor `{}`", tensor.name()), why))
}

fn check_sparse(sparse: &SparseTensorProto) -> Result<()> {
    let name = sparse.values.as_ref().map_or("", |values| values.name());
    let place = || format!("sparse tensor `{name}`");
    tensor::element_count(&sparse.dims).map_err(|why| Error::model(place(), why))?;
    sparse.values.iter().chain(&sparse.indices).try_for_each(check_tensor)
}

#[cfg(test)]
mod tests {
    use super::super::node::node;
    use super::super::tensor::from_f32;
    use super::super::testing;
    use super::*;

    fn graph(nodes: Vec<NodeProto>) -> GraphProto {
        testing::graph("x", "y", nodes, vec![from_f32("w", &[1], &[0.0])])
    }

    fn with_body(body: GraphProto) -> NodeProto {
        node("If", "if", ["x"], ["y"]).with(AttributeProto {
            name: Some("then_branch".into()),
            g: Some(body),
            ..Default::default()
        })
    }

    fn body(nodes: Vec<NodeProto>) -> GraphProto {
        GraphProto { input: vec![], initializer: vec![], ..graph(nodes) }
    }

    fn check(graph: GraphProto) -> Result<()> {
        let proto = ModelProto { graph: Some(graph), ..Default::default() };
        nesting(&proto).and_then(|()| model(&proto))
    }

    #[test]
    fn sound_graphs_pass() {
        check(graph(vec![node("Relu", "a", ["x"], ["y"])])).unwrap();
        check(graph(vec![node("Clip", "a", ["x", "", "w"], ["h", ""]), node("Relu", "b", ["h"], ["y"])]))
            .unwrap();
        // A body sees the values around it and may use the names of its own node's outputs.
        check(graph(vec![with_body(body(vec![node("Add", "b", ["x", "w"], ["y"])]))])).unwrap();
    }

    #[test]
    fn unsound_graphs_are_refused_by_name() {
        #[track_caller]
        fn refused(graph: GraphProto, parts: &[&str]) {
            let why = check(graph).expect_err(parts[0]).to_string();
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        }
        let relu = |name: &str, input: &str, output: &str| node("Relu", name, [input], [output]);
        refused(graph(vec![relu("a", "h", "y")]), &["node `a`", "nothing produces its input `h`"]);
        refused(graph(vec![relu("a", "x", "h")]), &["graph output `y`"]);
        refused(graph(vec![relu("a", "h", "y"), relu("b", "x", "h")]), &["node `a`", "node `b`", "sorted"]);
        refused(graph(vec![relu("a", "y", "y")]), &["node `a`", "cycle"]);
        refused(graph(vec![relu("a", "x", "y"), relu("b", "x", "y")]), &["node `b`", "`y` exists"]);
        refused(graph(vec![relu("a", "x", "w"), relu("b", "x", "y")]), &["node `a`", "`w` exists"]);
        refused(graph(vec![with_body(body(vec![relu("b", "q", "y")]))]), &["node `if`", "node `b`", "`q`"]);
        let mut twice = graph(vec![relu("a", "x", "y")]);
        twice.initializer.push(from_f32("w", &[1], &[0.0]));
        refused(twice, &["initializer `w`", "two"]);
        let mut short = graph(vec![relu("a", "x", "y")]);
        short.initializer[0].dims = vec![2];
        refused(short, &["tensor `w`", "needs 8 bytes"]);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| {
            (1..depth).fold(body(vec![node("Relu", "a", ["x"], ["y"])]), |b, _| body(vec![with_body(b)]))
        };
        let at_depth = |depth| GraphProto { input: graph(vec![]).input, ..nested(depth) };
        check(at_depth(16)).unwrap();
        let why = check(at_depth(17)).unwrap_err().to_string();
        assert!(why.contains("nested deeper than 16"), "{why}");
    }

    #[test]
    fn later_versions_of_onnx_are_refused() {
        #[track_caller]
        fn refused(change: impl FnOnce(&mut ModelProto), part: &str) {
            let mut file = testing::file_of(graph(vec![node("Relu", "a", ["x"], ["y"])]), NEWEST_OPSET);
            file.ir_version = Some(NEWEST_IR);
            versions(&file).unwrap();
            change(&mut file);
            let why = versions(&file).expect_err(part);
            assert!(why.exit_code() == 4 && why.to_string().contains(part), "{why}");
        }
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        };
        refused(
            |file| file.opset_import[0].version = Some(99),
            "opset 99: the newest that is known here is 28",
        );
        refused(|file| file.opset_import.push(import("ai.onnx", 29)), "opset 29");
        refused(|file| file.ir_version = Some(15), "IR version 15: the newest that is known here is 14");
        refused(
            |file| {
                let opset_import = vec![import("", 99)];
                file.functions.push(FunctionProto { opset_import, ..Default::default() });
            },
            "opset 99",
        );
        let mut file = testing::file_of(graph(vec![]), 17);
        file.opset_import.push(import("mine", 99));
        versions(&file).unwrap();
    }

    #[test]
    fn captures_are_the_names_from_outside() {
        let inner = body(vec![node("Add", "b", ["x", "w"], ["h"]), node("Mul", "c", ["h", "v"], ["y"])]);
        assert_eq!(captures(&with_body(inner)), ["x", "w", "v"]);
    }
}
