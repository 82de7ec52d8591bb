//! Fresh names, constants and Q/DQ pairs of one site.

use crate::onnx::node::node;
use crate::onnx::{AttributeProto, DataType, Edits, NodeProto, TensorProto, tensor};
use crate::plan::Site;

/// Collects the nodes that stand for one site.
pub(super) struct Writer<'e> {
    pub(super) edits: &'e mut Edits,
    prefix: String,
    pub(super) nodes: Vec<NodeProto>,
}

impl<'e> Writer<'e> {
    /// A writer whose new values are named after the site's output.
    pub(super) fn new(edits: &'e mut Edits, site: &Site) -> Self {
        let prefix = format!("{}_ptq", site.output);
        Self { edits, prefix, nodes: Vec::new() }
    }

    /// A fresh name ending in `part`.
    pub(super) fn name(&mut self, part: &str) -> String {
        self.edits.fresh(&format!("{}_{part}", self.prefix))
    }

    /// Adds a constant named by `part`, made by `tensor(name)`.
    pub(super) fn constant(&mut self, part: &str, tensor: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.name(part);
        self.edits.add_initializer(tensor(&name));
        name
    }

    pub(super) fn scalar(&mut self, part: &str, value: f32) -> String {
        self.constant(part, |name| tensor::from_f32(name, &[], &[value]))
    }

    /// `[H, 1, 1]`: one per head, whatever is before the axis of heads.
    pub(super) fn per_head(&mut self, part: &str, values: &[f32]) -> String {
        self.constant(part, |name| tensor::from_f32(name, &[values.len(), 1, 1], values))
    }

    /// The zero points of `count` channels, or of all if `count` is `None`.
    pub(super) fn zero_point(&mut self, part: &str, count: Option<usize>, unsigned: bool) -> String {
        let zeros = vec![0i8; count.unwrap_or(1)];
        let dims: Vec<usize> = count.into_iter().collect();
        self.constant(&format!("{part}_zero_point"), |name| zero_tensor(name, &dims, &zeros, unsigned))
    }

    /// Adds a node and gives its output, which is named like it.
    pub(super) fn node(&mut self, op_type: &str, inputs: &[&str], part: &str) -> String {
        let output = self.name(part);
        self.nodes.push(node(op_type, &output, inputs.iter().copied(), [output.as_str()]));
        output
    }

    /// Adds the last node of a stage after which others come, as a part of the site; its output.
    pub(super) fn part(&mut self, last: Unnamed, part: &str) -> String {
        let name = self.name(part);
        self.nodes.push(last.named(&name, &name));
        name
    }

    /// The nodes so far, and `last`, which makes the value `output` under the name `name`.
    pub(super) fn finish(&mut self, last: Unnamed, name: &str, output: &str) -> Vec<NodeProto> {
        self.nodes.push(last.named(name, output));
        std::mem::take(&mut self.nodes)
    }

    /// `QuantizeLinear` and `DequantizeLinear` of `x`, with constants of their own.
    pub(super) fn qdq(&mut self, x: &str, part: &str, scale: f32, unsigned: bool) -> String {
        let [q, scale, zero_point] = self.quantized(x, part, scale, unsigned);
        self.node("DequantizeLinear", &[&q, &scale, &zero_point], &format!("{part}_dq"))
    }

    /// The same as INT8, as the end of a stage.
    pub(super) fn last_qdq(&mut self, x: &str, part: &str, scale: f32) -> Unnamed {
        let [q, scale, zero_point] = self.quantized(x, part, scale, false);
        Unnamed::new("DequantizeLinear", &[&q, &scale, &zero_point])
    }

    /// The output of a `QuantizeLinear`, its scale and its zero point.
    fn quantized(&mut self, x: &str, part: &str, scale: f32, unsigned: bool) -> [String; 3] {
        let scale = self.scalar(&format!("{part}_scale"), scale);
        let zero_point = self.zero_point(part, None, unsigned);
        let q = self.node("QuantizeLinear", &[x, &scale, &zero_point], &format!("{part}_q"));
        [q, scale, zero_point]
    }
}

/// The last node of a stage: what comes after it decides its name and that of its output.
#[must_use]
pub(super) struct Unnamed(NodeProto);

impl Unnamed {
    pub(super) fn new(op_type: &str, inputs: &[&str]) -> Self {
        Self(node(op_type, "", inputs.iter().copied(), []))
    }

    pub(super) fn in_domain(self, domain: &str) -> Self {
        Self(self.0.in_domain(domain))
    }

    pub(super) fn with(self, attribute: AttributeProto) -> Self {
        Self(self.0.with(attribute))
    }

    pub(super) fn named(mut self, name: &str, output: &str) -> NodeProto {
        self.0.name = Some(name.into());
        self.0.output = vec![output.into()];
        self.0
    }
}

/// Zeros of type INT8 or UINT8.
pub(super) fn zero_tensor(name: &str, dims: &[usize], zeros: &[i8], unsigned: bool) -> TensorProto {
    let mut zero = tensor::from_i8(name, dims, zeros);
    if unsigned {
        zero.data_type = Some(DataType::Uint8.into());
    }
    zero
}
