//! `Attention` (opset 23) as the nodes that it stands for.

use super::expansion::{Expansion, input};
use super::shapes::dim;
use crate::onnx::{AttributeProto, DataType, Edits, Graph, NodeProto};
use crate::{Error, Result};

/// The edits that take every `Attention` of `graph` apart; `None` if it has none.
pub(super) fn expand(graph: &Graph) -> Result<Option<Edits>> {
    let mut edits = Edits::new(graph.model());
    let mut found = false;
    for (id, attention) in graph.nodes().filter(|(_, node)| node.is_op("Attention")) {
        let nodes =
            Attention { graph, node: attention, nodes: Expansion::of(attention, &mut edits) }.run()?;
        edits.replace_node(id, nodes);
        found = true;
    }
    Ok(found.then_some(edits))
}

struct Attention<'e> {
    graph: &'e Graph,
    node: &'e NodeProto,
    nodes: Expansion<'e>,
}

impl Attention<'_> {
    /// `Y = Softmax(scale·Q·Kᵀ + mask)·V`, over `[N, H, T, D]`. Operands `[N, T, H·D]` are cut into heads first.
    fn run(mut self) -> Result<Vec<NodeProto>> {
        self.refuse_what_is_not_vision()?;
        let input = |i: usize| input(self.node, i).map(String::from);
        let missing = || Error::model(self.node.label(), "has fewer than three operands");
        let [q, k, v] = [input(0), input(1), input(2)].map(|x| x.ok_or_else(missing));
        let (q, k, v, mask) = (q?, k?, v?, input(3));

        let heads = self.node.attr_int("q_num_heads").filter(|&heads| heads > 0);
        let scale = match self.node.attr_float("scale") {
            Some(scale) => scale,
            None => 1.0 / (self.head_width(&q, heads)? as f32).sqrt(),
        };
        let cut = |this: &mut Self, x: String, part: &str| match heads {
            Some(heads) => this.nodes.in_heads(&x, heads, part),
            None => x,
        };
        let (q, k, v) = (cut(&mut self, q, "q"), cut(&mut self, k, "k"), cut(&mut self, v, "v"));

        let scale = self.nodes.scalar("scale", scale);
        let q = self.nodes.node("Mul", &[&q, &scale], "q_scaled");
        let k = self.nodes.transposed(&k, &[0, 1, 3, 2], "k_transposed");
        let mut scores = self.nodes.node("MatMul", &[&q, &k], "scores");
        if let Some(mask) = mask {
            scores = self.masked(&scores, &mask)?;
        }
        let p = self.nodes.node("Softmax", &[&scores], "softmax");
        self.nodes.with(AttributeProto::int("axis", -1));
        let mixed = self.nodes.node("MatMul", &[&p, &v], "values");
        if heads.is_some() {
            let mixed = self.nodes.transposed(&mixed, &[0, 2, 1, 3], "together");
            let shape = self.nodes.ints("width", &[0, 0, -1]);
            self.nodes.node("Reshape", &[&mixed, &shape], "output");
        }
        Ok(self.nodes.into_nodes(&self.node.output[0]))
    }

    fn refuse_what_is_not_vision(&self) -> Result<()> {
        let attention = self.node;
        let int = |name| attention.attr_int(name).unwrap_or(0);
        let used = |i: usize| attention.output.get(i).is_some_and(|name| !name.is_empty());
        let why = if int("is_causal") != 0 {
            "it is causal: a text transformer"
        } else if attention.attr_float("softcap").unwrap_or(0.0) != 0.0 {
            "its scores are capped (softcap)"
        } else if int("q_num_heads") != int("kv_num_heads") {
            "Q has other heads than K and V"
        } else if attention.input.iter().skip(4).any(|name| !name.is_empty()) || (1..4).any(used) {
            "it keeps keys and values of earlier tokens, or gives its scores away"
        } else if attention.output.first().is_none_or(String::is_empty) {
            "it has no output"
        } else {
            return Ok(());
        };
        Err(Error::unsupported(attention.label(), why))
    }

    /// D, which the default scale `1/√D` depends on.
    fn head_width(&self, q: &str, heads: Option<i64>) -> Result<i64> {
        let width = dim(self.graph, q, 0).map(|width| width / heads.unwrap_or(1));
        width.filter(|&width| width > 0).ok_or_else(|| {
            let why =
                format!("it states no scale, and the file not the width of `{q}`: run ONNX shape inference");
            Error::unsupported(self.node.label(), why)
        })
    }

    /// A float mask is added; a boolean one says where scores stay.
    fn masked(&mut self, scores: &str, mask: &str) -> Result<String> {
        if !self.is_boolean(mask)? {
            return Ok(self.nodes.node("Add", &[scores, mask], "masked"));
        }
        let never = self.nodes.scalar("never", f32::NEG_INFINITY);
        Ok(self.nodes.node("Where", &[mask, scores, &never], "masked"))
    }

    /// What the file says of the type of `mask`, or the node that makes it.
    fn is_boolean(&self, mask: &str) -> Result<bool> {
        const BOOLEAN: &[&str] = &[
            "Not",
            "And",
            "Or",
            "Xor",
            "Equal",
            "Less",
            "Greater",
            "LessOrEqual",
            "GreaterOrEqual",
            "IsNaN",
        ];
        const LAYOUT: &[&str] =
            &["Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Identity"];
        let mut value = self.graph.resolve(mask).to_string();
        loop {
            if let Some(r#type) = self.graph.data_type(&value) {
                return Ok(r#type == DataType::Bool);
            }
            let maker = self.graph.producer(&value).map(|id| self.graph.node(id));
            match maker {
                Some(maker) if BOOLEAN.iter().any(|op| maker.is_op(op)) => return Ok(true),
                Some(maker) if maker.is_op("Cast") => {
                    return Ok(maker.attr_int("to") == Some(DataType::Bool as i64));
                }
                Some(maker) if LAYOUT.iter().any(|op| maker.is_op(op)) && !maker.input.is_empty() => {
                    value = self.graph.resolve(&maker.input[0]).to_string();
                }
                Some(maker) if ["Add", "Mul", "Where"].iter().any(|op| maker.is_op(op)) => return Ok(false),
                _ => {
                    let why =
                        format!("the type of its mask `{mask}` is not stated: run ONNX shape inference");
                    return Err(Error::unsupported(self.node.label(), why));
                }
            }
        }
    }
}
