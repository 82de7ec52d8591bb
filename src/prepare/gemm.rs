//! A Gemm that is more than a product and a row of biases, as the nodes that it stands for.

use super::expansion::{Budget, Expansion, float_constant, may_be_float};
use crate::onnx::{Edits, Graph, NodeProto, TensorProto, tensor};

/// The edits that make `MatMul` and Add of every Gemm with alpha, beta or transA, or whose C is not one row of constants;
/// `None` if there is none.
pub(super) fn split(graph: &Graph) -> Option<Edits> {
    let others = || graph.nodes().filter(|(_, node)| node.is_op("Gemm") && !is_plain(graph, node));
    others().next()?;
    let (mut edits, mut budget) = (Edits::new(graph.model()), Budget::of(graph));
    let mut changed = false;
    for (id, gemm) in others() {
        if let Some(nodes) = in_parts(graph, gemm, &mut edits, &mut budget) {
            edits.replace_node(id, nodes);
            changed = true;
        }
    }
    changed.then_some(edits)
}

fn alpha(gemm: &NodeProto) -> f32 {
    gemm.attr_float("alpha").unwrap_or(1.0)
}

fn beta(gemm: &NodeProto) -> f32 {
    gemm.attr_float("beta").unwrap_or(1.0)
}

fn is_set(gemm: &NodeProto, flag: &str) -> bool {
    gemm.attr_int(flag).unwrap_or(0) != 0
}

/// `A·B` or `A·Bᵀ`, to which one row of constants is added, or nothing.
fn is_plain(graph: &Graph, gemm: &NodeProto) -> bool {
    let is_row = |c: &str| {
        let Some(c) = graph.constant(c) else { return false };
        let flat = c.dims.iter().rev().skip(1).all(|&dim| dim == 1);
        let columns = gemm.operand(1).and_then(|b| graph.constant(b)).map(|b| {
            let axis = usize::from(!is_set(gemm, "transB"));
            b.dims.get(axis).copied().unwrap_or(0)
        });
        let last = c.dims.last().copied().unwrap_or(1);
        flat && (last == 1 || columns.is_none_or(|columns| columns == last))
    };
    alpha(gemm) == 1.0 && beta(gemm) == 1.0 && !is_set(gemm, "transA") && gemm.operand(2).is_none_or(is_row)
}

/// `Y = αA'·B' + βC`.
fn in_parts(
    graph: &Graph,
    gemm: &NodeProto,
    edits: &mut Edits,
    budget: &mut Budget,
) -> Option<Vec<NodeProto>> {
    let (a, b, c) = (gemm.operand(0)?, gemm.operand(1)?, gemm.operand(2));
    let output = gemm.output.first().filter(|output| !output.is_empty())?;
    if ![Some(a), Some(b), c].into_iter().flatten().all(|value| may_be_float(graph, value)) {
        return None;
    }
    let (alpha, beta) = (alpha(gemm), beta(gemm));
    let mut nodes = Expansion::of(gemm, edits);
    let a = if is_set(gemm, "transA") { nodes.transposed(a, &[1, 0], "a_transposed") } else { a.into() };
    let (b, scaled) = rhs(graph, b, is_set(gemm, "transB"), alpha, &mut nodes, budget)?;
    let mut y = nodes.heir("MatMul", &[&a, &b]);
    if !scaled {
        let alpha = nodes.scalar("alpha", alpha);
        y = nodes.node("Mul", &[&y, &alpha], "scaled");
    }
    if let Some(c) = c {
        let c = match float_constant(graph, c) {
            _ if beta == 1.0 => c.to_string(),
            Some(constant) if budget.take(tensor::len(constant)) => {
                let values: Vec<f32> = tensor::f32s(constant).ok()?.iter().map(|x| x * beta).collect();
                nodes.constant("c", |name| tensor::from_f32(name, &tensor::shape(constant), &values))
            }
            _ => {
                let beta = nodes.scalar("beta", beta);
                nodes.node("Mul", &[c, &beta], "c")
            }
        };
        nodes.node("Add", &[&y, &c], "sum");
    }
    Some(nodes.into_nodes(output))
}

/// The matrix `b` as the rhs of a `MatMul`, transposed if asked for, and whether `alpha` is in it: a constant takes it over.
pub(super) fn rhs(
    graph: &Graph,
    b: &str,
    transposed: bool,
    alpha: f32,
    nodes: &mut Expansion,
    budget: &mut Budget,
) -> Option<(String, bool)> {
    if !transposed && alpha == 1.0 {
        return Some((b.to_string(), true));
    }
    match float_constant(graph, b).filter(|constant| constant.dims.len() == 2) {
        Some(constant) => {
            budget.take(tensor::len(constant)).then_some(())?;
            let (shape, values) = matrix(constant, transposed, alpha)?;
            Some((nodes.constant("weight", |name| tensor::from_f32(name, &shape, &values)), true))
        }
        None if transposed => Some((nodes.transposed(b, &[1, 0], "b_transposed"), alpha == 1.0)),
        None => Some((b.to_string(), false)),
    }
}

/// Shape and elements of `αM` or `αMᵀ`.
fn matrix(constant: &TensorProto, transposed: bool, alpha: f32) -> Option<([usize; 2], Vec<f32>)> {
    let [rows, columns] = tensor::shape(constant)[..] else { return None };
    let values = tensor::f32s(constant).ok()?;
    Some(if transposed {
        let of_column = |column| (0..rows).map(move |row| row * columns + column);
        let moved = (0..columns).flat_map(of_column).map(|at| values[at] * alpha);
        ([columns, rows], moved.collect())
    } else {
        ([rows, columns], values.iter().map(|x| x * alpha).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, floats, inputs, ops, unchanged};
    use super::*;
    use crate::onnx::AttributeProto;
    use crate::onnx::node::node;

    fn constants() -> Vec<TensorProto> {
        let named = |(name, dims): (&str, &[usize])| {
            let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| i as f32).collect();
            tensor::from_f32(name, dims, &values)
        };
        [("w", &[2, 3][..]), ("row", &[3]), ("one", &[]), ("table", &[2, 3]), ("column", &[2, 1])]
            .map(named)
            .into()
    }

    fn gemm(c: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
        let gemm = node("Gemm", "fc", ["x", "w"].iter().chain(c).copied(), ["y"]);
        attributes.into_iter().fold(gemm, NodeProto::with)
    }

    #[test]
    fn a_product_and_a_row_stay() {
        unchanged(split, vec![gemm(&[], vec![])], constants());
        unchanged(split, vec![gemm(&["row"], vec![AttributeProto::float("alpha", 1.0)])], constants());
        unchanged(split, vec![gemm(&["one"], vec![])], constants());
        unchanged(split, vec![gemm(&[], vec![AttributeProto::int("transB", 1)])], constants());
        unchanged(
            split,
            vec![node("Gemm", "", ["x"], ["y"]).with(AttributeProto::float("alpha", 2.0))],
            vec![],
        );
    }

    #[test]
    fn what_is_added_is_an_add() {
        for c in ["table", "column", "x"] {
            let model = after(split, vec![gemm(&[c], vec![])], constants());
            assert_eq!(ops(&model), "MatMul Add");
            assert_eq!((inputs(&model, 0), inputs(&model, 1)[1]), (vec!["x", "w"], c));
            assert_eq!(model.graph().node[0].name(), "fc");
        }
    }

    #[test]
    fn factors_go_into_constants() {
        let attributes = || {
            vec![
                AttributeProto::float("alpha", 2.0),
                AttributeProto::float("beta", -1.0),
                AttributeProto::int("transA", 1),
                AttributeProto::int("transB", 1),
            ]
        };
        let model = after(split, vec![gemm(&["row"], attributes())], constants());
        assert_eq!(ops(&model), "Transpose MatMul Add");
        assert_eq!(floats(&model, 1, 1), (vec![3, 2], vec![0.0, 6.0, 2.0, 8.0, 4.0, 10.0]));
        assert_eq!(floats(&model, 2, 1).1, [0.0, -1.0, -2.0]);

        let mut computed = gemm(&["x"], attributes());
        computed.input[1] = "x".into();
        let model = after(split, vec![computed], constants());
        assert_eq!(ops(&model), "Transpose Transpose MatMul Mul Mul Add");
    }
}
