//! One recipe for all forms: the nodes of a twin in the main graph, or in the body of a model-local function.

use super::writer::{Writer, zero_tensor};
use crate::onnx::node::node;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, NodeProto, tensor};

/// Where the nodes of a recipe go, and where its constants come from.
pub(super) trait Body {
    /// A scalar: in a function, the caller's attribute `name`.
    fn float(&mut self, name: &str, value: f32) -> String;
    /// One value a head as `[H, 1, 1]`: in a function, the caller's attribute `name`.
    fn per_head(&mut self, name: &str, values: &[f32]) -> String;
    /// A scalar that is the same for every twin.
    fn literal(&mut self, name: &str, value: f32) -> String;
    /// A zero point.
    fn zero_point(&mut self, name: &str, unsigned: bool) -> String;
    /// A node that is not the last; its output is named after `name`.
    fn node(&mut self, op_type: &str, inputs: &[&str], name: &str, attributes: Vec<AttributeProto>)
    -> String;
}

impl Body for Writer<'_> {
    fn float(&mut self, name: &str, value: f32) -> String {
        self.scalar(name, value)
    }

    fn per_head(&mut self, name: &str, values: &[f32]) -> String {
        Writer::per_head(self, &format!("head_{name}"), values)
    }

    fn literal(&mut self, name: &str, value: f32) -> String {
        self.scalar(name, value)
    }

    fn zero_point(&mut self, name: &str, unsigned: bool) -> String {
        Writer::zero_point(self, name, None, unsigned)
    }

    fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        name: &str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = Writer::node(self, op_type, inputs, name);
        self.nodes.last_mut().expect("one was just added").attribute = attributes;
        output
    }
}

/// The body of a function; the values given for attributes do not matter.
#[derive(Default)]
pub(super) struct FunctionBody {
    pub(super) nodes: Vec<NodeProto>,
    /// The attributes that the constants refer to, in order.
    pub(super) attributes: Vec<String>,
}

impl FunctionBody {
    fn constant(&mut self, name: &str, value: AttributeProto) -> String {
        self.nodes.push(node("Constant", name, [], [name]).with(value));
        name.to_string()
    }

    fn reference(&mut self, name: &str, attribute: &str, field: &str, r#type: AttributeType) -> String {
        self.attributes.push(attribute.to_string());
        self.constant(name, AttributeProto::reference(field, attribute, r#type))
    }
}

impl Body for FunctionBody {
    fn float(&mut self, name: &str, _: f32) -> String {
        self.reference(name, name, "value_float", AttributeType::Float)
    }

    fn per_head(&mut self, name: &str, _: &[f32]) -> String {
        let flat = self.reference(&format!("{name}_flat"), name, "value_floats", AttributeType::Floats);
        let shape = "head_shape".to_string();
        if !self.nodes.iter().any(|n| n.name() == shape) {
            self.constant(&shape, AttributeProto::tensor("value", tensor::from_i64("", &[3], &[-1, 1, 1])));
        }
        Body::node(self, "Reshape", &[&flat, &shape], name, vec![])
    }

    fn literal(&mut self, name: &str, value: f32) -> String {
        self.constant(name, AttributeProto::tensor("value", tensor::from_f32("", &[], &[value])))
    }

    fn zero_point(&mut self, name: &str, unsigned: bool) -> String {
        let zero = zero_tensor("", &[], &[0], unsigned);
        self.constant(&format!("{name}_zero_point"), AttributeProto::tensor("value", zero))
    }

    fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        name: &str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let mut made = node(op_type, name, inputs.iter().copied(), [name]);
        made.attribute = attributes;
        self.nodes.push(made);
        name.to_string()
    }
}
