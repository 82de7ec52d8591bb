//! An Einsum that is a matrix product, as Transpose and `MatMul`.

use super::expansion::Expansion;
use crate::onnx::{Edits, Graph, NodeProto};

/// The edits that make `MatMul` of every Einsum of two operands that share one summed axis; `None` if there is none.
pub(super) fn expand(graph: &Graph) -> Option<Edits> {
    let einsums = || graph.nodes().filter(|(_, node)| node.is_op("Einsum"));
    einsums().next()?;
    let mut edits = Edits::new(graph.model());
    let mut changed = false;
    for (id, einsum) in einsums() {
        if let Some(nodes) = as_product(einsum, &mut edits) {
            edits.replace_node(id, nodes);
            changed = true;
        }
    }
    changed.then_some(edits)
}

fn as_product(einsum: &NodeProto, edits: &mut Edits) -> Option<Vec<NodeProto>> {
    let [a, b] = &einsum.input[..] else { return None };
    let output = einsum.output.first().filter(|output| !output.is_empty())?;
    let (terms, result) = terms(einsum.attr_str("equation")?)?;
    let in_order = product(&terms.0, &terms.1, &result)
        .map(|product| (a, b, terms.0.as_str(), terms.1.as_str(), product));
    let (a, b, a_term, b_term, product) = in_order.or_else(|| {
        let swapped = product(&terms.1, &terms.0, &result)?;
        Some((b, a, terms.1.as_str(), terms.0.as_str(), swapped))
    })?;
    let mut nodes = Expansion::of(einsum, edits);
    let mut moved = |x: &str, from: &str, to: &str, part: &str| match perm(from, to) {
        Some(perm) => nodes.transposed(x, &perm, part),
        None => x.to_string(),
    };
    let (a, b) = (moved(a, a_term, &product.a, "a_moved"), moved(b, b_term, &product.b, "b_moved"));
    let y = nodes.heir("MatMul", &[&a, &b]);
    if let Some(perm) = perm(&product.y, &result) {
        nodes.transposed(&y, &perm, "moved");
    }
    Some(nodes.into_nodes(output))
}

/// The letters of both operands, and of the result: `ab,bc->ac`. Each letter occurs once in a term.
fn terms(equation: &str) -> Option<((String, String), String)> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, result) = equation.split_once("->")?;
    let (a, b) = operands.split_once(',')?;
    let sound = |term: &str| {
        let mut letters = term.chars();
        letters.all(|c| c.is_ascii_alphabetic())
            && term.chars().enumerate().all(|(i, c)| term.find(c) == Some(i))
    };
    [a, b, result].into_iter().all(sound).then(|| ((a.into(), b.into()), result.into()))
}

/// The axes of a `MatMul`: of its operands, and of what it makes.
struct Product {
    a: String,
    b: String,
    y: String,
}

/// `None` if the terms are no matrix product with `a` on the left: axes of both that stay go first, and then either has one
/// of its own; or `b` is a matrix, and `a` may have any number.
fn product(a: &str, b: &str, result: &str) -> Option<Product> {
    let axes = |term: &str, in_other: bool, other: &str, stays: bool| -> String {
        term.chars().filter(|&c| other.contains(c) == in_other && result.contains(c) == stays).collect()
    };
    let (batch, summed) = (axes(a, true, b, true), axes(a, true, b, false));
    let lost = [axes(a, false, b, false), axes(b, false, a, false)].concat();
    // In the order of the result, so that no Transpose is needed behind the product where one before it does.
    let ordered = |letters: &str| -> String { result.chars().filter(|&c| letters.contains(c)).collect() };
    let (batch, own, column) = (ordered(&batch), ordered(&axes(a, false, b, true)), axes(b, false, a, true));
    let all_known = result.chars().all(|c| a.contains(c) || b.contains(c));
    let fits = own.len() == 1 || batch.is_empty() && !own.is_empty();
    (lost.is_empty() && all_known && summed.len() == 1 && column.len() == 1 && fits).then(|| Product {
        a: format!("{batch}{own}{summed}"),
        b: format!("{batch}{summed}{column}"),
        y: format!("{batch}{own}{column}"),
    })
}

/// How to transpose axes called `from` into `to`; `None` if they are in order.
fn perm(from: &str, to: &str) -> Option<Vec<i64>> {
    let at = |c| from.find(c).map_or(0, |at| at as i64);
    (from != to).then(|| to.chars().map(at).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, inputs, ops, unchanged};
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::{AttributeProto, tensor};

    fn einsum(equation: &str) -> Vec<NodeProto> {
        let einsum = node("Einsum", "e", ["x", "w"], ["y"]);
        vec![einsum.with(AttributeProto::string("equation", equation))]
    }

    fn check(equation: &str, expected: &[(&str, &[i64])], operands: [&str; 2]) {
        let model = after(expand, einsum(equation), vec![tensor::from_f32("w", &[1], &[0.0])]);
        let node = |n: &NodeProto| (n.op_type().to_string(), n.attr_ints("perm").unwrap_or(&[]).to_vec());
        let expected: Vec<_> = expected.iter().map(|(op, perm)| (op.to_string(), perm.to_vec())).collect();
        assert_eq!(model.graph().node.iter().map(node).collect::<Vec<_>>(), expected, "{equation}");
        let product = model.graph().node.iter().position(|n| n.is_op("MatMul")).unwrap();
        assert_eq!(inputs(&model, product), operands, "{equation}");
        assert_eq!(ops(&model).matches("MatMul").count(), 1);
    }

    #[test]
    fn products_of_matrices() {
        check("bij,jk->bik", &[("MatMul", &[])], ["x", "w"]);
        check(" bnd, df -> bnf", &[("MatMul", &[])], ["x", "w"]);
        check("bnd,fd->bnf", &[("Transpose", &[1, 0]), ("MatMul", &[])], ["x", "e/b_moved"]);
        check("bhid,bhjd->bhij", &[("Transpose", &[0, 1, 3, 2]), ("MatMul", &[])], ["x", "e/b_moved"]);
        check("bhij,bhjd->bhid", &[("MatMul", &[])], ["x", "w"]);
        // The heads behind the tokens.
        let both = [("Transpose", &[0, 2, 1, 3][..]), ("Transpose", &[0, 2, 3, 1]), ("MatMul", &[])];
        check("bqhd,bkhd->bhqk", &both, ["e/a_moved", "e/b_moved"]);
        let back = [("Transpose", &[0, 2, 1, 3][..]), ("MatMul", &[]), ("Transpose", &[0, 2, 1, 3])];
        check("bhqk,bkhd->bqhd", &back, ["x", "e/b_moved"]);
        // A weight on the left.
        check("df,bnd->bnf", &[("MatMul", &[])], ["w", "x"]);
    }

    #[test]
    fn what_is_no_product_stays() {
        let all = [
            "",
            "->",
            "ij->ji",
            "ij,jk",
            "...ij,jk->...ik",
            "ii,ij->ij",
            "ij,jk->i",
            "ij,ij->ij",
            "ij,kl->ijkl",
            "ijk,jkl->il",
            "ij,jk->ikz",
            "ij,jk,kl->il",
            "bi,bj->bij",
        ];
        for equation in all {
            unchanged(expand, einsum(equation), vec![tensor::from_f32("w", &[1], &[0.0])]);
        }
        unchanged(expand, vec![node("Einsum", "", ["x"], ["y"])], vec![]);
    }
}
