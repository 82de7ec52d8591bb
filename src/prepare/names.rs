//! One name for one node: sites are told apart by it, and tract refuses two of the same.

use std::collections::HashSet;

use crate::onnx::{Edits, Graph, TensorProto, ValueInfoProto};

/// The edits that give a node another name where an earlier node, an input or an initializer has it; `None` if all names
/// are distinct. A node without a name is called by its first output.
pub(super) fn distinct(graph: &Graph) -> Option<Edits> {
    let main = graph.model().graph();
    let inputs = main.input.iter().map(ValueInfoProto::name);
    let mut seen: HashSet<&str> = inputs.chain(main.initializer.iter().map(TensorProto::name)).collect();
    let again: Vec<_> = graph
        .nodes()
        .filter(|(_, node)| !node.name_or_output().is_empty() && !seen.insert(node.name_or_output()))
        .collect();
    if again.is_empty() {
        return None;
    }
    let mut edits = Edits::new(graph.model());
    for (id, node) in again {
        let mut renamed = node.clone();
        renamed.name = Some(edits.fresh(node.name_or_output()));
        edits.replace_node(id, vec![renamed]);
    }
    Some(edits)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, unchanged};
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::{NodeProto, tensor};

    #[test]
    fn the_first_keeps_its_name() {
        let relu = |name: &str, input: &str, output: &str| node("Relu", name, [input], [output]);
        let w = || vec![tensor::from_f32("w", &[1], &[0.0])];
        let names = |nodes: Vec<NodeProto>| {
            let model = after(distinct, nodes, w());
            model.graph().node.iter().map(|n| n.name().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            names(vec![relu("fc", "x", "a"), relu("fc", "a", "b"), relu("fc", "b", "y")]),
            ["fc", "fc_1", "fc_2"]
        );
        // The name of a value whose node has none, of an initializer, of the input.
        assert_eq!(
            names(vec![relu("a", "x", "h"), relu("", "h", "a"), relu("w", "a", "y")])[1..],
            ["a_1", "w_1"]
        );
        assert_eq!(names(vec![relu("x", "x", "y")]), ["x_1"]);
        unchanged(distinct, vec![relu("a", "x", "b"), relu("", "b", "c"), relu("y", "c", "y")], w());
    }
}
