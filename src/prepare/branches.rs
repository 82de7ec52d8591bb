//! `If` whose condition no input decides, such as whether an axis has size 1: the branch that is taken, in its place.

use std::collections::HashMap;

use super::interface::InputSpec;
use crate::onnx::node::{node, rename};
use crate::onnx::{AttributeProto, Edits, Graph, GraphProto, NodeProto, tensor};
use crate::runtime::{Facts, infer};

/// The edits that take every such branch, and that write out what is counted for a condition; `None` if there is none.
pub(super) fn take(graph: &Graph) -> Option<Edits> {
    if !graph.nodes().any(|(_, node)| node.is_op("If")) {
        return None;
    }
    let facts = infer(graph.model(), InputSpec::dims_of(graph));
    let mut edits = Edits::new(graph.model());
    let mut found = false;
    for (id, node) in graph.nodes().filter(|(_, node)| node.is_op("If")) {
        let Some(branch) = taken(graph, node, &facts) else { continue };
        let nodes = inlined(branch, node, &mut edits);
        edits.replace_node(id, nodes);
        found = true;
    }
    for (id, size) in graph.nodes().filter(|(_, node)| node.is_op("Size")) {
        if let Some(count) = counted(graph, size, &facts) {
            let value = AttributeProto::tensor("value", tensor::from_i64("", &[], &[count]));
            let output = size.output.iter().map(String::as_str);
            edits.replace_node(id, vec![node("Constant", size.name(), [], output).with(value)]);
            found = true;
        }
    }
    found.then_some(edits)
}

/// How many elements the operand of a `Size` has: of a Shape the rank, which is known where dims are open.
fn counted(graph: &Graph, size: &NodeProto, facts: &Facts) -> Option<i64> {
    let operand = graph.resolve(size.operand(0)?);
    let maker = |value: &str| graph.producer(value).map(|id| graph.node(id));
    if let Some(shape) = maker(operand).filter(|node| node.is_op("Shape") && node.attribute.is_empty()) {
        let value = graph.resolve(shape.operand(0)?);
        let flat = maker(value).filter(|node| node.is_op("Flatten")).map(|_| 2);
        return i64::try_from(flat.or(facts.rank(value))?).ok();
    }
    let dims = facts.dims(operand)?;
    dims.into_iter().try_fold(1i64, |count, dim| count.checked_mul(i64::try_from(dim?).ok()?))
}

fn taken<'n>(graph: &Graph, node: &'n NodeProto, facts: &Facts) -> Option<&'n GraphProto> {
    let condition = facts.ints(graph, node.input.first()?)?;
    let name = if *condition.first()? == 0 { "else_branch" } else { "then_branch" };
    let branch = node.attr(name)?.g.as_ref()?;
    (branch.output.len() == node.output.len() && branch.sparse_initializer.is_empty()).then_some(branch)
}

/// The nodes of `branch`, which makes the outputs of `call`, under names of their own.
fn inlined(branch: &GraphProto, call: &NodeProto, edits: &mut Edits) -> Vec<NodeProto> {
    let mut names: HashMap<String, String> = HashMap::new();
    for value in branch.node.iter().flat_map(|node| &node.output).filter(|value| !value.is_empty()) {
        names.insert(value.clone(), edits.fresh(value));
    }
    for tensor in &branch.initializer {
        let name = edits.fresh(tensor.name());
        let mut tensor = tensor.clone();
        names.insert(tensor.name().to_string(), name.clone());
        tensor.name = Some(name);
        edits.add_initializer(tensor);
    }
    let mut nodes = branch.node.clone();
    rename(&mut nodes, &|value| names.get(value).cloned());
    for node in nodes.iter_mut().filter(|node| node.name.is_some()) {
        node.name = Some(edits.fresh(node.name()));
    }
    for (inner, outer) in branch.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty()) {
        let inner = names.get(inner.name()).map_or(inner.name(), String::as_str);
        let name = edits.fresh(&format!("{outer}_taken"));
        nodes.push(node("Identity", &name, [inner], [outer.as_str()]));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::attribute_proto::AttributeType;
    use crate::onnx::{ValueInfoProto, testing};

    /// `y = If(c, x + 1, Relu(x))`, where `c` is computed from what `nodes` make.
    fn operators(nodes: Vec<NodeProto>) -> Option<Vec<String>> {
        let branch = |name: &str, node: NodeProto, initializer| {
            let output = node.output[0].clone();
            let graph = testing::graph("", &output, vec![node], initializer);
            let r#type = Some(AttributeType::Graph as i32);
            AttributeProto { name: Some(name.into()), r#type, g: Some(graph), ..Default::default() }
        };
        let one = tensor::from_f32("one", &[], &[1.0]);
        let call = node("If", "if", ["c"], ["y"])
            .with(branch("then_branch", node("Add", "inner", ["x", "one"], ["sum"]), vec![one]))
            .with(branch("else_branch", node("Relu", "inner", ["x"], ["sum"]), vec![]));
        let ints = [("axis", 1), ("three", 3)].map(|(name, int)| tensor::from_i64(name, &[], &[int]));
        let mut graph = testing::graph("x", "y", [nodes, vec![call]].concat(), ints.into());
        graph.input[0] = image("x");
        let mut model = testing::model(graph, 17);
        take(&Graph::new(model.clone()).unwrap())?.apply(&mut model).unwrap();
        Some(model.graph().node.iter().map(|node| node.op_type().to_string()).collect())
    }

    fn image(name: &str) -> ValueInfoProto {
        use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
        use crate::onnx::proto::{TensorShapeProto, TypeProto, type_proto};
        let dims = [Value::DimParam("N".into()), Value::DimValue(3), Value::DimValue(8), Value::DimValue(8)];
        let dim = dims.map(|dim| Dimension { value: Some(dim), ..Default::default() }).into();
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
        let value = Some(type_proto::Value::TensorType(tensor));
        ValueInfoProto { r#type: Some(TypeProto { value, ..Default::default() }), ..testing::value(name) }
    }

    fn dim_is_three(axis: &str) -> Vec<NodeProto> {
        vec![
            node("Shape", "shape", ["x"], ["dims"]),
            node("Gather", "gather", ["dims", axis], ["dim"]),
            node("Equal", "equal", ["dim", "three"], ["c"]),
        ]
    }

    #[test]
    fn the_branch_that_a_fixed_dim_decides_is_taken() {
        assert_eq!(operators(dim_is_three("axis")).unwrap(), ["Add", "Identity"]);
        let not = vec![node("Not", "not", ["e"], ["c"])];
        let mut nodes = dim_is_three("axis");
        nodes[2].output[0] = "e".into();
        assert_eq!(operators([nodes, not].concat()).unwrap(), ["Relu", "Identity"]);
    }

    /// Exporters ask for the rank in this way, of values with open dims too.
    #[test]
    fn the_branch_that_a_rank_decides_is_taken() {
        let nodes = vec![
            node("Shape", "shape", ["x"], ["s"]),
            node("Size", "size", ["s"], ["n"]),
            node("Cast", "cast", ["n"], ["c"]).with(AttributeProto::int("to", 9)),
        ];
        let written = operators(nodes.clone()).unwrap();
        assert_eq!(written, ["Constant", "Cast", "If"]);
    }

    #[test]
    fn what_an_open_dim_or_the_image_decides_stays() {
        let mut nodes = dim_is_three("axis");
        nodes.insert(0, node("Sub", "sub", ["axis", "axis"], ["batch"]));
        nodes[2].input[1] = "batch".into();
        assert_eq!(operators(nodes), None);
        assert_eq!(operators(vec![node("Cast", "cast", ["x"], ["c"])]), None);
    }
}
