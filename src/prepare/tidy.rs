//! Nodes that hand on what they take, and operands that are left out in so many words.

use std::collections::{HashMap, HashSet};
use std::slice;

use super::expansion::is_used;
use crate::onnx::node::rename;
use crate::onnx::{Edits, Graph, NodeId, NodeProto, tensor};

/// The edits that take away Identity and Dropout between computed values, and empty names at the end of a node's inputs;
/// `None` if there are none. (An Identity behind a constant is looked through by [`Graph::constant`].)
pub(super) fn tidy(graph: &Graph) -> Option<Edits> {
    let has_work = |(_, node): (NodeId, &NodeProto)| ends_empty(node) || hands_on(graph, node).is_some();
    if !graph.nodes().any(has_work) {
        return None;
    }
    let (renamed, gone) = dissolved(graph);
    let mut edits = Edits::new(graph.model());
    let mut changed = !gone.is_empty();
    for (id, node) in graph.nodes() {
        if gone.contains(&id) {
            edits.remove_node(id);
            continue;
        }
        let mut new = node.clone();
        rename(slice::from_mut(&mut new), &|value| {
            let name = renamed.get(value)?;
            Some(renamed.get(name.as_str()).unwrap_or(name).clone())
        });
        while ends_empty(&new) {
            new.input.pop();
        }
        if new != *node {
            edits.replace_node(id, vec![new]);
            changed = true;
        }
    }
    changed.then_some(edits)
}

/// Whether the last operand is left out by an empty name. `PyTorch` writes some operators so, and everyone reads them.
fn ends_empty(node: &NodeProto) -> bool {
    const USUAL: &[&str] = &["Pad", "Clip", "Resize"];
    node.input.last().is_some_and(String::is_empty) && !USUAL.contains(&node.op_type())
}

/// The values that get another's name, and the nodes that are needed no more. No chain of names is longer than two: the
/// value behind the nodes that handed it on, then the output of the model that it becomes.
fn dissolved(graph: &Graph) -> (HashMap<&str, String>, HashSet<NodeId>) {
    let mut renamed: HashMap<&str, String> = HashMap::new();
    let mut origins: HashMap<&str, &str> = HashMap::new();
    let mut gone = HashSet::new();
    for (id, node) in graph.nodes() {
        let Some((from, to)) = hands_on(graph, node) else { continue };
        let origin = *origins.get(from).unwrap_or(&from);
        if !graph.is_output(to) {
            origins.insert(to, origin);
            renamed.insert(to, origin.to_string());
        } else if graph.producer(origin).is_some()
            && !graph.is_output(origin)
            && !renamed.contains_key(origin)
        {
            renamed.insert(origin, to.to_string());
        } else {
            continue;
        }
        gone.insert(id);
    }
    (renamed, gone)
}

/// The computed value that `node` hands on, and its name after that.
fn hands_on<'g>(graph: &'g Graph, node: &'g NodeProto) -> Option<(&'g str, &'g str)> {
    if !(node.is_op("Identity") || node.is_op("Dropout") && is_inference(graph, node)) {
        return None;
    }
    let (from, to) = (node.operand(0)?, node.output.first().filter(|to| !to.is_empty())?);
    graph.constant(from).is_none().then_some((from, to))
}

fn is_inference(graph: &Graph, dropout: &NodeProto) -> bool {
    let trains = match dropout.operand(2) {
        Some(mode) => graph.constant(mode).is_none_or(|mode| tensor::bools(mode) != Some(vec![false])),
        None => false,
    };
    !trains && !is_used(graph, dropout, 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, after_in, inputs, ops, unchanged};
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model};

    #[test]
    fn what_hands_on_goes() {
        let model = after(
            tidy,
            vec![
                node("Identity", "", ["x"], ["a"]),
                node("Relu", "", ["a"], ["b"]),
                node("Dropout", "", ["b"], ["c", "mask"]),
                node("Identity", "", ["c"], ["d"]),
                node("Neg", "", ["d"], ["e"]),
                node("Add", "", ["b", "e"], ["f"]),
                node("Abs", "", ["f"], ["g"]),
                node("Add", "", ["f", "g"], ["h"]),
                node("Identity", "", ["h"], ["y"]),
            ],
            vec![],
        );
        assert_eq!(ops(&model), "Relu Neg Add Abs Add");
        assert_eq!([inputs(&model, 0), inputs(&model, 1), inputs(&model, 2)].concat(), ["x", "b", "b", "e"]);
        assert_eq!(model.graph().node[4].output, ["y"]);
    }

    #[test]
    fn outputs_keep_their_names() {
        // Two names of one value, and the input itself.
        let nodes = vec![
            node("Relu", "", ["x"], ["h"]),
            node("Identity", "", ["h"], ["y"]),
            node("Identity", "", ["h"], ["z"]),
            node("Identity", "", ["x"], ["v"]),
        ];
        let model = after_in(tidy, model(graph("x", "y z v", nodes, vec![]), 17));
        assert_eq!(ops(&model), "Relu Identity Identity");
        assert_eq!(inputs(&model, 1), ["y"]);
    }

    #[test]
    fn copies_of_constants_and_dropout_in_training_stay() {
        let on = tensor::from_bools("on", &[], &[true]);
        let w = tensor::from_f32("w", &[1], &[1.0]);
        let copied = vec![node("Identity", "", ["w"], ["v"]), node("Add", "", ["x", "v"], ["y"])];
        unchanged(tidy, copied, vec![w]);
        unchanged(tidy, vec![node("Dropout", "", ["x", "", "on"], ["y"])], vec![on]);
        let masked =
            vec![node("Dropout", "", ["x"], ["a", "mask"]), node("Where", "", ["mask", "a", "x"], ["y"])];
        unchanged(tidy, masked, vec![]);
    }

    #[test]
    fn empty_operands_at_the_end_go() {
        let clip = node("Clip", "", ["x", "w", ""], ["a"]);
        let norm = node("LayerNormalization", "", ["a", "w", ""], ["y"]);
        let model = after(tidy, vec![clip, norm], vec![tensor::from_f32("w", &[1], &[1.0])]);
        assert_eq!([inputs(&model, 0), inputs(&model, 1)].concat(), ["x", "w", "", "a", "w"]);
    }
}
