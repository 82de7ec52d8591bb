//! Nodes and their attributes: making them and asking them.

use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// The operator domain of this project's own nodes.
pub const DOMAIN: &str = "ai.ptq4vit";

/// A node of the standard domain: `node("Clip", "fc1/clip", ["x", "lo", "hi"], ["y"]).with(…)`.
pub fn node<'a>(
    op_type: &str,
    name: &str,
    inputs: impl IntoIterator<Item = &'a str>,
    outputs: impl IntoIterator<Item = &'a str>,
) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.into()),
        name: Some(name.into()),
        input: inputs.into_iter().map(Into::into).collect(),
        output: outputs.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

impl NodeProto {
    /// The same node in another operator domain.
    #[must_use]
    pub fn in_domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// The same node with one more attribute.
    #[must_use]
    pub fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }

    /// Whether this is an operator of the standard domain.
    pub fn is_standard(&self) -> bool {
        is_standard(self.domain())
    }

    /// Whether this is the standard operator `op_type` (of any opset).
    pub fn is_op(&self, op_type: &str) -> bool {
        is_standard(self.domain()) && self.op_type() == op_type
    }

    /// Whether this computes on integer codes, or makes or reads them.
    pub fn is_quantized(&self) -> bool {
        let op = self.op_type();
        op.contains("QuantizeLinear")
            || op.contains("Integer")
            || op.starts_with("QLinear")
            || self.domain() == DOMAIN
    }

    /// The graphs inside of the node: the bodies of If, Loop and Scan.
    pub fn subgraphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.attribute.iter().flat_map(AttributeProto::subgraphs)
    }

    /// As [`subgraphs`](Self::subgraphs).
    pub fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut GraphProto> {
        self.attribute.iter_mut().flat_map(AttributeProto::subgraphs_mut)
    }

    /// The attribute called `name`.
    pub fn attr(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name() == name)
    }

    /// An INT attribute; `None` too if it is of another type.
    pub fn attr_int(&self, name: &str) -> Option<i64> {
        self.attr(name)?.i
    }

    /// A FLOAT attribute; `None` too if it is of another type.
    pub fn attr_float(&self, name: &str) -> Option<f32> {
        self.attr(name)?.f
    }

    /// An INTS attribute; empty too if it is of another type.
    pub fn attr_ints(&self, name: &str) -> Option<&[i64]> {
        Some(&self.attr(name)?.ints)
    }

    /// A FLOATS attribute; empty too if it is of another type.
    pub fn attr_floats(&self, name: &str) -> Option<&[f32]> {
        Some(&self.attr(name)?.floats)
    }

    /// A STRING attribute; `None` too if it is of another type or not UTF-8.
    pub fn attr_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.attr(name)?.s.as_deref()?).ok()
    }

    /// Input `index`, unless it is left out.
    pub fn operand(&self, index: usize) -> Option<&str> {
        self.input.get(index).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The node's name, else that of its first output: what tract calls it.
    pub fn name_or_output(&self) -> &str {
        match self.name() {
            "" => self.output.first().map_or("", String::as_str),
            name => name,
        }
    }

    /// How a message names the node: by its name, else by its first output.
    pub fn label(&self) -> String {
        match (self.name(), self.output.iter().find(|o| !o.is_empty())) {
            ("", Some(output)) => format!("node of `{output}` ({})", self.op_type()),
            (name, _) => format!("node `{name}` ({})", self.op_type()),
        }
    }
}

/// Gives the values that nodes make or take, in subgraphs too, their `new` names; `None` keeps one.
pub(crate) fn rename(nodes: &mut [NodeProto], new: &dyn Fn(&str) -> Option<String>) {
    let replace = |name: &mut String| {
        if let Some(new) = new(name) {
            *name = new;
        }
    };
    for node in nodes {
        node.input.iter_mut().chain(&mut node.output).for_each(replace);
        for graph in node.subgraphs_mut() {
            rename(&mut graph.node, new);
            graph.output.iter_mut().filter_map(|output| output.name.as_mut()).for_each(replace);
        }
    }
}

/// Whether `domain` is that of the standard operators, which has two spellings.
pub fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

impl AttributeProto {
    /// The graphs among its values.
    pub fn subgraphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.g.iter().chain(&self.graphs)
    }

    /// As [`subgraphs`](Self::subgraphs).
    pub fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut GraphProto> {
        self.g.iter_mut().chain(&mut self.graphs)
    }

    /// An INT attribute.
    pub fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::typed(name, AttributeType::Int) }
    }

    /// A FLOAT attribute.
    pub fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::typed(name, AttributeType::Float) }
    }

    /// An INTS attribute.
    pub fn int_list(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::typed(name, AttributeType::Ints) }
    }

    /// A FLOATS attribute.
    pub fn float_list(name: &str, values: &[f32]) -> Self {
        Self { floats: values.to_vec(), ..Self::typed(name, AttributeType::Floats) }
    }

    /// A STRING attribute.
    pub fn string(name: &str, value: &str) -> Self {
        Self { s: Some(value.into()), ..Self::typed(name, AttributeType::String) }
    }

    /// A TENSOR attribute.
    pub fn tensor(name: &str, value: TensorProto) -> Self {
        Self { t: Some(value), ..Self::typed(name, AttributeType::Tensor) }
    }

    /// In a function body: the attribute `name` takes the value that the caller gives for `caller_attribute`.
    pub fn reference(name: &str, caller_attribute: &str, r#type: AttributeType) -> Self {
        Self { ref_attr_name: Some(caller_attribute.into()), ..Self::typed(name, r#type) }
    }

    fn typed(name: &str, r#type: AttributeType) -> Self {
        Self { name: Some(name.into()), r#type: Some(r#type.into()), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_went_in() {
        let n = node("Op", "n", ["x"], ["y"])
            .in_domain("ai.ptq4vit")
            .with(AttributeProto::int("i", -1))
            .with(AttributeProto::float("f", 0.5))
            .with(AttributeProto::int_list("is", &[1, 2]))
            .with(AttributeProto::float_list("fs", &[0.5]))
            .with(AttributeProto::string("s", "text"));
        assert_eq!(n.attr_int("i"), Some(-1));
        assert_eq!(n.attr_float("f"), Some(0.5));
        assert_eq!(n.attr_ints("is"), Some(&[1, 2][..]));
        assert_eq!(n.attr_floats("fs"), Some(&[0.5][..]));
        assert_eq!(n.attr_str("s"), Some("text"));
        assert_eq!(n.attr_int("f"), None);
        assert!(n.attr("missing").is_none() && n.attr_ints("missing").is_none());
        assert!(!n.is_op("Op") && n.in_domain("ai.onnx").is_op("Op"));
    }

    #[test]
    fn a_label_names_the_node_somehow() {
        assert_eq!(node("Add", "a", [], ["y"]).label(), "node `a` (Add)");
        assert_eq!(node("Add", "", [], ["", "y"]).label(), "node of `y` (Add)");
        assert_eq!(node("Add", "", [], []).label(), "node `` (Add)");
    }
}
