//! Operators that tract has for numbers alone, on the booleans and integers that ONNX allows, too.

use std::collections::HashMap;

use crate::onnx::node::node;
use crate::onnx::{AttributeProto, DataType, GraphProto, NodeProto};

/// Operators that make booleans.
const LOGIC: &[&str] = &[
    "And",
    "Or",
    "Xor",
    "Not",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "IsNaN",
    "IsInf",
];

/// How many nodes before a value are looked at.
const MOST_STEPS: usize = 16;

/// Writes an Equal of booleans as logic, and a `TopK` of integers as one of FLOAT, which orders them in the same way (up to
/// 2²⁴ they are exact).
pub(super) fn respell(graph: &mut GraphProto) {
    if !graph.node.iter().any(|node| node.is_op("Equal") || node.is_op("TopK")) {
        return;
    }
    let types = Types::of(graph);
    let change = |node: NodeProto| match node.operand(0).and_then(|x| types.find(x, MOST_STEPS)) {
        Some(DataType::Bool) if node.is_op("Equal") && node.output.len() == 1 => equal(&node),
        Some(DataType::Int64 | DataType::Int32) if node.is_op("TopK") && node.output.len() == 2 => top(node),
        _ => vec![node],
    };
    let changed = graph.node.iter().cloned().flat_map(change).collect();
    graph.node = changed;
}

fn equal(equal: &NodeProto) -> Vec<NodeProto> {
    let output = equal.output[0].as_str();
    let differ = format!("{output}/differ");
    let inputs: Vec<&str> = equal.input.iter().map(String::as_str).collect();
    vec![node("Xor", &differ, inputs, [differ.as_str()]), node("Not", output, [differ.as_str()], [output])]
}

fn top(mut top: NodeProto) -> Vec<NodeProto> {
    let values = top.output[0].clone();
    let [given, found] = ["given", "found"].map(|part| format!("{}/{part}", top.output[1]));
    let cast = |from: &str, to: &str, element: DataType| {
        node("Cast", to, [from], [to]).with(AttributeProto::int("to", element as i64))
    };
    let before = cast(&top.input[0], &given, DataType::Float);
    let after = (!values.is_empty()).then(|| cast(&found, &values, DataType::Int64));
    top.input[0] = given;
    if after.is_some() {
        top.output[0] = found;
    }
    [before, top].into_iter().chain(after).collect()
}

/// The types of values, as far as the nodes that make them tell.
struct Types {
    known: HashMap<String, DataType>,
    /// By a value: the one that has its type.
    like: HashMap<String, String>,
}

impl Types {
    fn of(graph: &GraphProto) -> Self {
        let (mut known, mut like) = (HashMap::new(), HashMap::new());
        for tensor in &graph.initializer {
            known.extend(DataType::try_from(tensor.data_type()).ok().map(|t| (tensor.name().to_owned(), t)));
        }
        for node in &graph.node {
            let Some(first) = node.output.first() else { continue };
            let named =
                |attribute: &str| node.attr_int(attribute).and_then(|to| DataType::try_from(to as i32).ok());
            match node.op_type() {
                op if LOGIC.contains(&op) => drop(known.insert(first.clone(), DataType::Bool)),
                "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => {
                    known.insert(first.clone(), DataType::Int64);
                }
                "Cast" => known.extend(named("to").map(|to| (first.clone(), to))),
                "Constant" => {
                    let tensor = node.attr("value").and_then(|value| value.t.as_ref());
                    let element = tensor.and_then(|tensor| DataType::try_from(tensor.data_type()).ok());
                    known.extend(element.map(|element| (first.clone(), element)));
                }
                "TopK" => known.extend(node.output.get(1).map(|indices| (indices.clone(), DataType::Int64))),
                "Gather" | "GatherElements" | "Reshape" | "Squeeze" | "Unsqueeze" | "Slice" | "Transpose"
                | "Expand" | "Identity" | "Flatten" | "Concat" | "Tile" => {
                    like.extend(node.operand(0).map(|from| (first.clone(), from.to_owned())));
                }
                _ => {}
            }
        }
        Self { known, like }
    }

    fn find(&self, value: &str, steps: usize) -> Option<DataType> {
        let known = self.known.get(value).copied();
        known.or_else(|| self.find(self.like.get(value)?, steps.checked_sub(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing::graph;

    fn ops(nodes: Vec<NodeProto>) -> String {
        let mut graph = graph("x", "y", nodes, vec![]);
        respell(&mut graph);
        graph.node.iter().map(NodeProto::op_type).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn types_decide_on_the_spelling() {
        let order = node("TopK", "", ["x", "k"], ["", "order"]);
        let moved = node("Unsqueeze", "", ["order", "axes"], ["moved"]);
        let rank = node("TopK", "", ["moved", "k"], ["best", "y"]);
        assert_eq!(ops(vec![order.clone(), moved, rank]), "TopK Unsqueeze Cast TopK Cast");
        let rank = node("TopK", "", ["order", "k"], ["", "y"]);
        assert_eq!(ops(vec![order, rank]), "TopK Cast TopK");
        let positive = node("Greater", "", ["x", "zero"], ["p"]);
        assert_eq!(ops(vec![positive, node("Equal", "", ["p", "p"], ["y"])]), "Greater Xor Not");
        assert_eq!(ops(vec![node("Equal", "", ["x", "x"], ["y"])]), "Equal");
    }
}
