//! What the nodes before a value tell of its shape, where the file does not state it. (Most files state it.)

use std::collections::HashMap;

use super::expansion::int_constant;
use crate::onnx::{Graph, NodeProto};

/// More axes than any tensor has.
const MAX_RANK: usize = 64;

/// How many values [`dim`] looks at.
const MAX_STEPS: usize = 64;

/// Operators whose first result has the shape of their first operand; some are ONNX Runtime's.
const SAME_SHAPE: &[&str] = &[
    "Abs",
    "BatchNormalization",
    "BiasGelu",
    "Cast",
    "Clip",
    "Dropout",
    "Erf",
    "Exp",
    "FastGelu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "Neg",
    "QuickGelu",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Softmax",
    "Sqrt",
    "Tanh",
];

const BROADCAST: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow"];

/// The number of axes of values.
pub(super) struct Ranks<'g> {
    graph: &'g Graph,
    found: HashMap<&'g str, usize>,
}

impl<'g> Ranks<'g> {
    /// Of every value of `graph` where it can be told.
    pub(super) fn of(graph: &'g Graph) -> Self {
        let mut ranks = Self { graph, found: HashMap::new() };
        for (_, node) in graph.nodes() {
            let Some(rank) = ranks.of_result(node).filter(|rank| *rank <= MAX_RANK) else { continue };
            let results = if node.is_op("Split") { node.output.len() } else { 1 };
            ranks.found.extend(node.output.iter().take(results).map(|output| (output.as_str(), rank)));
        }
        ranks
    }

    /// The number of axes of `value`.
    pub(super) fn get(&self, value: &str) -> Option<usize> {
        self.graph.rank(value).or_else(|| self.found.get(value).copied())
    }

    fn of_result(&self, node: &NodeProto) -> Option<usize> {
        let operand = |index| self.get(node.operand(index)?);
        match node.op_type() {
            "Conv" | "ConvTranspose" => operand(1),
            "MaxPool" | "AveragePool" => Some(node.attr_ints("kernel_shape")?.len() + 2),
            "Reshape" => usize::try_from(self.graph.dim(self.graph.resolve(node.operand(1)?), 0)?).ok(),
            "Transpose" => node.attr_ints("perm").map(<[i64]>::len).or_else(|| operand(0)),
            "MatMul" | "FusedMatMul" => match (operand(0)?, operand(1)?) {
                (a, b) if a > 1 && b > 1 => Some(a.max(b)),
                _ => None,
            },
            "Gather" => (operand(0)? + operand(1)?).checked_sub(1),
            "Concat" | "Slice" | "Split" => operand(0),
            op if BROADCAST.contains(&op) => Some(operand(0)?.max(operand(1)?)),
            op if SAME_SHAPE.contains(&op) => operand(0),
            _ => None,
        }
    }
}

/// The dim of `value` that is `back` axes from its last.
pub(super) fn dim(graph: &Graph, value: &str, back: usize) -> Option<i64> {
    let mut steps = MAX_STEPS;
    dim_within(graph, value, back, &mut steps)
}

fn dim_within(graph: &Graph, value: &str, back: usize, steps: &mut usize) -> Option<i64> {
    *steps = steps.checked_sub(1)?;
    let at = |dims: &[i64], back: usize| dims.len().checked_sub(back + 1).map(|axis| dims[axis]);
    let axis = graph.rank(value).and_then(|rank| rank.checked_sub(back + 1));
    if let Some(stated) = axis.and_then(|axis| graph.dim(value, axis)) {
        return Some(stated).filter(|&dim| dim > 0);
    }
    let maker = graph.node(graph.producer(value)?);
    let (first, second) = (maker.operand(0)?, maker.operand(1));
    match maker.op_type() {
        "MatMul" if back == 0 => {
            let weight = second.filter(|weight| graph.rank(weight).is_none_or(|rank| rank > 1))?;
            dim_within(graph, weight, 0, steps)
        }
        "Reshape" => at(&int_constant(graph, second?, MAX_RANK)?, back).filter(|&dim| dim > 0),
        "Transpose" => {
            let perm = maker.attr_ints("perm")?;
            let from = usize::try_from(at(perm, back)?).ok().filter(|&axis| axis < perm.len())?;
            dim_within(graph, first, perm.len() - 1 - from, steps)
        }
        // A dim of one is stretched to that of the other.
        op if BROADCAST.contains(&op) => {
            let of_second = dim_within(graph, second?, back, steps).filter(|&dim| dim > 1);
            of_second.or_else(|| dim_within(graph, first, back, steps).filter(|&dim| dim > 1))
        }
        op if SAME_SHAPE.contains(&op) => dim_within(graph, first, back, steps),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model};
    use crate::onnx::{AttributeProto, tensor};

    #[test]
    fn shapes_come_from_the_nodes_before() {
        let w = tensor::from_f32("w", &[2, 3], &[0.0; 6]);
        let shape = tensor::from_i64("shape", &[4], &[0, 0, 2, 7]);
        let perm = AttributeProto::int_list("perm", &[0, 2, 3, 1]);
        let nodes = vec![
            node("Reshape", "", ["x", "shape"], ["heads"]),
            node("Transpose", "", ["heads"], ["moved"]).with(perm),
            node("MatMul", "", ["moved", "w"], ["product"]),
            node("Add", "", ["moved", "product"], ["sum"]),
            node("Relu", "", ["sum"], ["y"]),
            node("Neg", "", ["x"], ["z"]),
        ];
        let graph = Graph::new(model(graph("x", "y z", nodes, vec![w, shape]), 17)).unwrap();
        let ranks = Ranks::of(&graph);
        assert_eq!(
            ["heads", "y", "w", "z", "none"].map(|v| ranks.get(v)),
            [Some(4), Some(4), Some(2), None, None]
        );
        let dims = [
            ("heads", 0),
            ("heads", 2),
            ("moved", 1),
            ("product", 0),
            ("y", 0),
            ("y", 1),
            ("z", 0),
            ("w", 9),
        ];
        let expected = [Some(7), None, Some(7), Some(3), Some(3), Some(7), None, None];
        assert_eq!(dims.map(|(value, back)| dim(&graph, value, back)), expected);
    }

    #[test]
    fn the_search_for_a_dim_ends() {
        // Each sum has two ways back to the one before.
        let sum = |i: usize| node("Add", "", [format!("h{i}").as_str(); 2], [format!("h{}", i + 1).as_str()]);
        let nodes = [vec![node("Neg", "", ["x"], ["h0"])], (0..64).map(sum).collect()].concat();
        let graph = Graph::new(model(graph("x", "h64", nodes, vec![]), 17)).unwrap();
        assert_eq!((dim(&graph, "h64", 0), Ranks::of(&graph).get("h64")), (None, None));
    }
}
