//! Functions that the model defines itself, written out where they are called.

use std::collections::{HashMap, HashSet};
use std::slice;

use prost::Message as _;

use crate::onnx::node::{is_standard, node, rename};
use crate::onnx::proto::OperatorSetIdProto;
use crate::onnx::{AttributeProto, DOMAIN, Edits, FunctionProto, GraphProto, Model, NodeId, NodeProto};
use crate::{Error, Result};

/// Calls inside of calls beyond this are taken for a function that calls itself.
const MAX_DEPTH: usize = 16;

/// How many nodes and operands all calls may come to: two calls in each of sixteen functions are 65,536 of the innermost.
const MAX_NODES: usize = 1 << 17;

/// The edits that write the body of a function in the place of every call; `None` if there is no call. The functions of
/// this project stay, and those of another opset than the model's.
pub(super) fn inline(model: &Model) -> Result<Option<Edits>> {
    inline_those(model, |domain| domain != DOMAIN)
}

/// The same with the functions of this project too: what a quantized file computes, operator by operator.
pub(super) fn inline_all(model: &Model) -> Result<Option<Edits>> {
    inline_those(model, |_| true)
}

fn inline_those(model: &Model, wanted: impl Fn(&str) -> bool) -> Result<Option<Edits>> {
    let foreign = || model.proto.functions.iter().filter(|function| wanted(function.domain()));
    let imports = model.proto.opset_import.iter().map(|import| (plain(import.domain()), import.version()));
    let versions: HashMap<&str, i64> = imports.collect();
    let domains: HashSet<&str> = foreign().map(FunctionProto::domain).collect();
    let functions: HashMap<Key, &FunctionProto> = foreign()
        .filter(|function| can_inline(function, &versions, &domains))
        .map(|function| (key_of(function), function))
        .collect();
    let calls =
        || model.graph().node.iter().enumerate().filter(|(_, node)| functions.contains_key(&key(node)));
    if functions.is_empty() || calls().next().is_none() {
        return Ok(None);
    }
    let mut inliner = Inliner {
        functions: &functions,
        edits: Edits::new(model),
        nodes: MAX_NODES,
        bytes: model.limits.tensor_bytes,
    };
    for (index, call) in calls() {
        let nodes = inliner.body(call, functions[&key(call)], 1)?;
        inliner.edits.replace_node(NodeId(index), nodes);
    }
    let inside = model.graph().node.iter().flat_map(NodeProto::subgraphs);
    if functions.len() == foreign().count() && !inside.into_iter().any(|g| calls_functions(g, &functions)) {
        inliner.edits.keep_only_functions_of(DOMAIN);
    }
    Ok(Some(inliner.edits))
}

/// Domain, name and overload.
type Key<'m> = (&'m str, &'m str, &'m str);

fn key(call: &NodeProto) -> Key<'_> {
    (call.domain(), call.op_type(), call.overload())
}

fn key_of(function: &FunctionProto) -> Key<'_> {
    (function.domain(), function.name(), function.overload())
}

/// Whether the nodes of `function` mean the same in the model, which imports `versions` and defines functions of `domains`.
/// One that redefines a standard operator is not asked for. Of graphs inside, those of an If can be written out: they take
/// nothing but values from around them.
fn can_inline(function: &FunctionProto, versions: &HashMap<&str, i64>, domains: &HashSet<&str>) -> bool {
    let same = |import: &OperatorSetIdProto| {
        domains.contains(import.domain()) || versions.get(plain(import.domain())) == Some(&import.version())
    };
    let imported: HashSet<&str> = function.opset_import.iter().map(|import| plain(import.domain())).collect();
    !is_standard(function.domain())
        && function.opset_import.iter().all(same)
        && function.node.iter().all(|node| is_clear(node, &imported))
}

/// Whether `node` is of a domain among those `imported`, and so is what a graph inside it has, which calls no function.
fn is_clear(node: &NodeProto, imported: &HashSet<&str>) -> bool {
    let is_branch = |graph: &GraphProto| {
        let plain = graph.input.is_empty() && graph.initializer.is_empty();
        let inner = |node: &NodeProto| is_standard(node.domain()) && is_clear(node, imported);
        plain && graph.sparse_initializer.is_empty() && graph.node.iter().all(inner)
    };
    imported.contains(plain(node.domain())) && node.subgraphs().all(is_branch)
}

/// The domain, that of the standard operators in one spelling.
fn plain(domain: &str) -> &str {
    if is_standard(domain) { "" } else { domain }
}

fn calls_functions(graph: &GraphProto, functions: &HashMap<Key, &FunctionProto>) -> bool {
    graph.node.iter().any(|node| {
        functions.contains_key(&key(node)) || node.subgraphs().any(|graph| calls_functions(graph, functions))
    })
}

struct Inliner<'m> {
    functions: &'m HashMap<Key<'m>, &'m FunctionProto>,
    edits: Edits,
    /// How much may still be written.
    nodes: usize,
    bytes: usize,
}

impl<'m> Inliner<'m> {
    /// The nodes of `function` with the operands, results and attributes of `call`.
    fn body(
        &mut self,
        call: &NodeProto,
        function: &'m FunctionProto,
        depth: usize,
    ) -> Result<Vec<NodeProto>> {
        if depth > MAX_DEPTH {
            let why = format!("it calls functions nested deeper than {MAX_DEPTH}, or itself");
            return Err(Error::unsupported(call.label(), why));
        }
        self.spend(call, function.input.len() + function.output.len(), 0)?;
        let base = call.name_or_output().to_string();
        let given = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
        let mut names: HashMap<&str, String> =
            function.input.iter().map(String::as_str).zip(given.map(String::from)).collect();
        let mut copies = Vec::new();
        for (inner, outer) in function.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty())
        {
            match names.get(inner.as_str()) {
                Some(value) => copies.push(node("Identity", "", [value.as_str()], [outer.as_str()])),
                None => drop(names.insert(inner, outer.clone())),
            }
        }
        let mut nodes = Vec::new();
        for inner in &function.node {
            self.spend(call, 1, inner.encoded_len())?;
            let mut new = inner.clone();
            resolve(&mut new, call, function);
            for value in results(inner) {
                if !names.contains_key(value) {
                    names.insert(value, self.edits.fresh(&format!("{base}/{value}")));
                }
            }
            rename(slice::from_mut(&mut new), &|value| names.get(value).cloned());
            if !new.name().is_empty() {
                new.name = Some(self.edits.fresh(&format!("{base}/{}", new.name())));
            }
            self.spend(call, 0, new.encoded_len())?;
            match self.functions.get(&key(&new)).copied() {
                Some(function) => nodes.extend(self.body(&new, function, depth + 1)?),
                None => nodes.push(new),
            }
        }
        nodes.extend(copies);
        Ok(nodes)
    }

    fn spend(&mut self, call: &NodeProto, nodes: usize, bytes: usize) -> Result<()> {
        let left = self.nodes.checked_sub(nodes).zip(self.bytes.checked_sub(bytes));
        let large =
            || Error::unsupported(call.label(), "the functions of the model, written out, are too large");
        (self.nodes, self.bytes) = left.ok_or_else(large)?;
        Ok(())
    }
}

/// What a node makes, and the nodes of the graphs inside it.
fn results(node: &NodeProto) -> Vec<&str> {
    let own = node.output.iter().map(String::as_str).filter(|value| !value.is_empty());
    own.chain(node.subgraphs().flat_map(|graph| &graph.node).flat_map(results)).collect()
}

/// Gives the attributes that refer to one of the caller its value, else the default, else drops them.
fn resolve(node: &mut NodeProto, call: &NodeProto, function: &FunctionProto) {
    for graph in node.subgraphs_mut() {
        graph.node.iter_mut().for_each(|node| resolve(node, call, function));
    }
    node.attribute.retain_mut(|attribute| {
        let referred = attribute.ref_attr_name();
        if referred.is_empty() {
            return true;
        }
        let default = || function.attribute_proto.iter().find(|default| default.name() == referred);
        let Some(value) = call.attr(referred).or_else(default) else { return false };
        *attribute = AttributeProto { name: attribute.name.take(), ..value.clone() };
        true
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{inputs, ops};
    use super::*;
    use crate::onnx::proto::attribute_proto::AttributeType;
    use crate::onnx::testing::{file_of, graph};

    fn function(
        domain: &str,
        name: &str,
        inputs: &[&str],
        outputs: &[&str],
        nodes: Vec<NodeProto>,
    ) -> FunctionProto {
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        };
        FunctionProto {
            domain: Some(domain.into()),
            name: Some(name.into()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            node: nodes,
            opset_import: vec![import("", 17), import("own", 1)],
            ..Default::default()
        }
    }

    fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        node(name, "call", inputs.iter().copied(), outputs.iter().copied()).in_domain("own")
    }

    fn model(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> Model {
        Model::new(crate::onnx::ModelProto { functions, ..file_of(graph("x", "y", nodes, vec![]), 17) })
            .unwrap()
    }

    fn inlined(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> Result<Option<Model>> {
        let mut model = model(nodes, functions);
        let Some(edits) = inline(&model)? else { return Ok(None) };
        edits.apply(&mut model).unwrap();
        Ok(Some(model))
    }

    #[test]
    fn bodies_take_the_place_of_calls() {
        let attribute = |name: &str| AttributeProto::reference(name, name, AttributeType::Int);
        let body = vec![
            node("Softmax", "soft", ["a"], ["h"]).with(attribute("axis")),
            call("Inner", &["h", "b"], &["c"]),
            node("Concat", "", ["c", "h"], ["d"]).with(AttributeProto::reference(
                "axis",
                "other",
                AttributeType::Int,
            )),
        ];
        let mut outer = function("own", "Outer", &["a", "b"], &["d", "h", "a"], body);
        outer.attribute_proto = vec![AttributeProto::int("other", 2)];
        let inner = function("own", "Inner", &["a", "b"], &["c"], vec![node("Clip", "", ["a", "b"], ["c"])]);
        let call = call("Outer", &["x"], &["p", "", "q"]).with(AttributeProto::int("axis", 1));
        let model =
            inlined(vec![call, node("Add", "", ["p", "q"], ["y"])], vec![outer, inner]).unwrap().unwrap();

        assert_eq!(ops(&model), "Softmax Clip Concat Identity Add");
        assert_eq!((inputs(&model, 0), inputs(&model, 1)), (vec!["x"], vec!["call/h", ""]));
        assert_eq!((inputs(&model, 2), inputs(&model, 4)), (vec!["call/c", "call/h"], vec!["p", "q"]));
        let nodes = &model.graph().node;
        assert_eq!(
            (nodes[0].name(), nodes[0].attr_int("axis"), nodes[2].attr_int("axis")),
            ("call/soft", Some(1), Some(2))
        );
        assert!(model.proto.functions.is_empty());
    }

    #[test]
    fn attributes_that_nobody_gives_are_dropped() {
        let reference = AttributeProto::reference("axis", "axis", AttributeType::Int);
        let f = function("own", "F", &["a"], &["b"], vec![node("Softmax", "", ["a"], ["b"]).with(reference)]);
        let model = inlined(vec![call("F", &["x"], &["y"])], vec![f]).unwrap().unwrap();
        assert!(model.graph().node[0].attribute.is_empty());
    }

    #[test]
    fn our_functions_and_those_of_another_opset_stay() {
        let relu = || vec![node("Relu", "", ["a"], ["b"])];
        let ours = function(DOMAIN, "F", &["a"], &["b"], relu());
        let site = node("F", "call", ["x"], ["y"]).in_domain(DOMAIN);
        assert!(inlined(vec![site], vec![ours.clone()]).unwrap().is_none());
        let mut old = function("own", "F", &["a"], &["b"], relu());
        old.opset_import[0].version = Some(13);
        assert!(inlined(vec![call("F", &["x"], &["y"])], vec![old.clone()]).unwrap().is_none());
        old.opset_import.clear();
        assert!(inlined(vec![call("F", &["x"], &["y"])], vec![old]).unwrap().is_none());
        let f = function("own", "F", &["a"], &["b"], relu());
        let model = inlined(vec![call("F", &["x"], &["y"])], vec![f, ours]).unwrap().unwrap();
        assert_eq!((ops(&model).as_str(), model.proto.functions.len()), ("Relu", 1));
    }

    #[test]
    fn the_branches_of_an_if_are_written_out() {
        let branch = |op: &str, name: &str| {
            let body = vec![node(op, "", ["h"], ["t"]).with(AttributeProto::reference(
                "axis",
                "axis",
                AttributeType::Int,
            ))];
            AttributeProto { g: Some(graph("", "t", body, vec![])), ..AttributeProto::string(name, "") }
        };
        let choice = |then: AttributeProto| {
            node("If", "choice", ["c"], ["b"]).with(then).with(branch("LogSoftmax", "else_branch"))
        };
        let body = |choice| vec![node("Neg", "", ["a"], ["h"]), choice];
        let f = function("own", "F", &["a", "c"], &["b"], body(choice(branch("Softmax", "then_branch"))));
        let called = call("F", &["x", "x"], &["y"]).with(AttributeProto::int("axis", 1));
        let model = inlined(vec![called], vec![f]).unwrap().unwrap();
        assert_eq!(ops(&model), "Neg If");
        let chosen = &model.graph().node[1];
        for (graph, op) in chosen.subgraphs().zip(["Softmax", "LogSoftmax"]) {
            assert_eq!((graph.node[0].op_type(), graph.node[0].attr_int("axis")), (op, Some(1)));
            assert_eq!((&*graph.node[0].input[0], graph.output[0].name()), ("call/h", "call/t"));
        }

        // What a body takes or holds would need names of its own.
        let mut odd = branch("Softmax", "then_branch");
        odd.g.as_mut().unwrap().initializer.push(crate::onnx::tensor::from_f32("k", &[], &[1.0]));
        let f = function("own", "F", &["a", "c"], &["b"], body(choice(odd)));
        assert!(inlined(vec![call("F", &["x", "x"], &["y"])], vec![f]).unwrap().is_none());
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let itself = function("own", "F", &["a"], &["b"], vec![call("F", &["a"], &["b"])]);
        let error = inlined(vec![call("F", &["x"], &["y"])], vec![itself]).unwrap_err().to_string();
        assert!(error.contains("nested deeper"), "{error}");
        // Sixteen times four calls each.
        let level = |i: usize| {
            let calls = (0..4).map(|part| call(&format!("F{}", i + 1), &["a"], &[&format!("b{part}")]));
            function("own", &format!("F{i}"), &["a"], &["b0"], calls.collect())
        };
        let mut functions: Vec<_> = (0..14).map(level).collect();
        functions.push(function("own", "F14", &["a"], &["b"], vec![node("Relu", "", ["a"], ["b"])]));
        let error = inlined(vec![call("F0", &["x"], &["y"])], functions).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
}
