//! `Attention` (opset 23) as the nodes that it stands for.

use std::cell::OnceCell;

use super::expansion::Expansion;
use crate::onnx::{AttributeProto, DataType, Edits, Graph, NodeProto};
use crate::runtime::{Facts, infer};
use crate::{Error, Result};

use super::interface::InputSpec;
use super::shapes::dim;

/// The edits that take apart every `Attention` of `graph` whose widths can be told; `None` if it has none. The widths of
/// others may be known once these are taken apart.
pub(super) fn expand(graph: &Graph) -> Result<Option<Edits>> {
    let (mut edits, mut open) = (Edits::new(graph.model()), None);
    let facts = OnceCell::new();
    let mut found = false;
    for (id, attention) in graph.nodes().filter(|(_, node)| node.is_op("Attention")) {
        let nodes = Expansion::of(attention, &mut edits);
        let expansion = Attention { graph, facts: &facts, node: attention, nodes };
        if let Some(scale) = expansion.scale()? {
            let nodes = expansion.run(scale)?;
            edits.replace_node(id, nodes);
            found = true;
        } else {
            open.get_or_insert(attention);
        }
    }
    match open {
        Some(attention) if !found => {
            let why = "it states no scale, and the width of its heads is not known: run ONNX shape inference";
            Err(Error::unsupported(attention.label(), why))
        }
        _ => Ok(found.then_some(edits)),
    }
}

struct Attention<'e> {
    graph: &'e Graph,
    facts: &'e OnceCell<Facts>,
    node: &'e NodeProto,
    nodes: Expansion<'e>,
}

impl Attention<'_> {
    /// `Y = Softmax(scale·Q·Kᵀ + mask)·V`, over `[N, H, T, D]`. Operands `[N, T, H·D]` are cut into heads first.
    fn run(mut self, scale: f32) -> Result<Vec<NodeProto>> {
        self.refuse_what_is_not_vision()?;
        let operand = |i: usize| self.node.operand(i).map(String::from);
        let missing = || Error::model(self.node.label(), "has fewer than three operands");
        let [q, k, v] = [0, 1, 2].map(|i| operand(i).ok_or_else(missing));
        let (q, k, v, mask) = (q?, k?, v?, operand(3));
        let heads = self.heads();
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

    fn heads(&self) -> Option<i64> {
        self.node.attr_int("q_num_heads").filter(|&heads| heads > 0)
    }

    /// What is stated, or `1/√D`; `None` if D, the width of a head, is not known.
    fn scale(&self) -> Result<Option<f32>> {
        if let Some(scale) = self.node.attr_float("scale") {
            return Ok(Some(scale));
        }
        let Some(q) = self.node.operand(0) else {
            return Err(Error::model(self.node.label(), "has no operands"));
        };
        let told = || {
            let facts = self.facts.get_or_init(|| infer(self.graph.model(), InputSpec::dims_of(self.graph)));
            facts.dims(q)?.last().copied()?.map(|width| width as i64)
        };
        let width = dim(self.graph, q, 0).or_else(told).map(|width| width / self.heads().unwrap_or(1));
        Ok(width.filter(|&width| width > 0).map(|width| 1.0 / (width as f32).sqrt()))
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
