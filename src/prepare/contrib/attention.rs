//! `Attention` and `MultiHeadAttention` of ONNX Runtime.

use super::super::expansion::{Expansion, is_used};
use super::super::shapes::{Ranks, dim};
use crate::onnx::{AttributeProto, Graph, NodeProto};

/// `Attention`: one weight `[D, Q + K + V]` makes all three operands.
pub(super) fn fused(graph: &Graph, node: &NodeProto, nodes: &mut Expansion) -> Option<()> {
    let (x, weight, bias) = (node.operand(0)?, node.operand(1)?, node.operand(2));
    // The mask, and keys and values of earlier tokens.
    if [3, 4].iter().any(|&index| node.operand(index).is_some()) {
        return None;
    }
    let all = dim(graph, weight, 0)?;
    let widths = match node.attr_ints("qkv_hidden_sizes") {
        Some(&[q, k, v]) if q == k && q > 0 && v > 0 && q.checked_add(k)?.checked_add(v)? == all => [q, k, v],
        Some(_) => return None,
        None => (all % 3 == 0).then_some([all / 3; 3])?,
    };
    let heads = Heads::of(graph, node, widths[0], widths[2])?;
    let mut qkv = nodes.heir("MatMul", &[x, weight]);
    if let Some(bias) = bias {
        qkv = nodes.node("Add", &[&qkv, bias], "biased");
    }
    let [q, k, v] = thirds(nodes, &qkv, -1, widths);
    heads.attend(nodes, [&q, &k, &v], node.operand(5));
    Some(())
}

/// `MultiHeadAttention`: Q, K and V are `[N, T, D]`, and one bias may hold the biases of all three.
pub(super) fn separate(graph: &Graph, ranks: &Ranks, node: &NodeProto, nodes: &mut Expansion) -> Option<()> {
    let (q, k, v) = (node.operand(0)?, node.operand(1)?, node.operand(2)?);
    if node.operand(4).is_some() || (6..node.input.len()).any(|index| node.operand(index).is_some()) {
        return None;
    }
    let (width, values) = (dim(graph, q, 0)?, dim(graph, v, 0)?);
    let heads = Heads::of(graph, node, width, values)?;
    // Keys that are in heads already, `[N, H, T, D]`, have another width.
    let in_rows = ranks.get(k) == Some(3) || heads.count > 1 && dim(graph, k, 0) == Some(width);
    if !in_rows {
        return None;
    }
    let operands = match node.operand(3) {
        None => [q, k, v].map(String::from),
        Some(bias) => {
            let parts = thirds(nodes, bias, 0, [width, width, values]);
            let sum = |(x, (bias, part)): (&str, (&String, &str))| nodes.node("Add", &[x, bias], part);
            let named = parts.iter().zip(["q_biased", "k_biased", "v_biased"]);
            let sums: Vec<String> = [q, k, v].into_iter().zip(named).map(sum).collect();
            sums.try_into().ok()?
        }
    };
    heads.attend(nodes, operands.each_ref().map(String::as_str), node.operand(5));
    Some(())
}

/// The parts of `x`, of these sizes along `axis`.
fn thirds(nodes: &mut Expansion, x: &str, axis: i64, widths: [i64; 3]) -> [String; 3] {
    let sizes = nodes.ints("sizes", &widths);
    let outputs = ["q", "k", "v"].map(|part| nodes.fresh(part));
    nodes.node("Split", &[x, &sizes], "split");
    nodes.with(AttributeProto::int("axis", axis));
    nodes.outputs_of_last(&outputs);
    outputs
}

struct Heads {
    count: i64,
    scale: f32,
}

impl Heads {
    /// `None` for attention that no vision transformer has.
    fn of(graph: &Graph, node: &NodeProto, width: i64, values: i64) -> Option<Self> {
        let is_set = |flag| node.attr_int(flag).unwrap_or(0) != 0;
        let count = node.attr_int("num_heads").filter(|&heads| heads > 0)?;
        if is_set("unidirectional")
            || is_set("do_rotary")
            || (1..4).any(|index| is_used(graph, node, index))
            || width % count != 0
            || values % count != 0
        {
            return None;
        }
        let stated = node.attr_float("scale").filter(|&scale| scale != 0.0);
        let scale = stated.unwrap_or_else(|| 1.0 / ((width / count) as f32).sqrt());
        Some(Self { count, scale })
    }

    /// `Softmax(scale·Q·Kᵀ + bias)·V`, head by head.
    fn attend(&self, nodes: &mut Expansion, operands: [&str; 3], bias: Option<&str>) {
        let [q, k, v] = operands;
        let q = nodes.in_heads(q, self.count, "q");
        let k = nodes.in_heads(k, self.count, "k");
        let v = nodes.in_heads(v, self.count, "v");
        let k = nodes.transposed(&k, &[0, 1, 3, 2], "k_transposed");
        let scale = nodes.scalar("scale", self.scale);
        let q = nodes.node("Mul", &[&q, &scale], "q_scaled");
        let mut scores = nodes.node("MatMul", &[&q, &k], "scores");
        if let Some(bias) = bias {
            scores = nodes.node("Add", &[&scores, bias], "biased_scores");
        }
        let p = nodes.node("Softmax", &[&scores], "softmax");
        nodes.with(AttributeProto::int("axis", -1));
        let mixed = nodes.node("MatMul", &[&p, &v], "values");
        let mixed = nodes.transposed(&mixed, &[0, 2, 1, 3], "together");
        let shape = nodes.ints("width", &[0, 0, -1]);
        nodes.node("Reshape", &[&mixed, &shape], "output");
    }
}
