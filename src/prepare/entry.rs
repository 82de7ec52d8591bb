//! The images as every later stage takes them, and back on the way out: the first input, FLOAT `[N, C, H, W]`.
//!
//! A file may take them as integers, with the channels last, or folded into tokens. Then a few nodes stand between what
//! the later stages feed and what the file computes with.

use std::collections::HashSet;

use crate::Result;
use crate::onnx::node::{node, rename};
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{TensorShapeProto, type_proto};
use crate::onnx::{
    AttributeProto, DataType, Edits, GraphProto, Model, NodeProto, TensorProto, ValueInfoProto, tensor,
};

/// How the axes of the file's input lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[N, C, H, W]`.
    ChannelsFirst,
    /// `[N, H, W, C]`.
    ChannelsLast,
    /// `[N, T, D]`, such as patches that were cut out and flattened: taken for `[N, 1, T, D]`.
    Tokens,
    /// `[N, D]`: taken for `[N, 1, 1, D]`.
    Vector,
    /// `[N, F, C, H, W]`, frames of fixed size: taken for `[N, F·C, H, W]`.
    Frames([usize; 4]),
}

/// The image input as the file has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    info: ValueInfoProto,
    /// Its position among the inputs.
    position: usize,
    pub(super) layout: Layout,
    pub(super) element: DataType,
    /// The names of the nodes that stand between.
    nodes: Vec<String>,
    /// What the file's nodes take in the place of the input, if there are any.
    inner: Option<String>,
}

/// The channels of images: grey, RGB, RGB with alpha.
const CHANNELS: [usize; 3] = [1, 3, 4];

/// What a name of an image input contains, the clearest first.
const NAMES: [&str; 5] = ["pixel_values", "pixel", "image", "img", "input"];

impl Entry {
    /// Puts the images of `model` first, as FLOAT `[N, C, H, W]`; `None` if no input can be images.
    pub(super) fn open(model: &mut Model) -> Result<Option<Self>> {
        let Some((position, layout)) = images(model.graph()) else { return Ok(None) };
        let info = model.graph().input[position].clone();
        let element = element_of(&info).unwrap_or(DataType::Float);
        let mut entry = Self { info, position, layout, element, nodes: vec![], inner: None };
        if position == 0 && layout == Layout::ChannelsFirst && element == DataType::Float {
            return Ok(Some(entry));
        }
        let between = entry.between(&mut Edits::new(model), opset(model));
        let mut proto = model.proto.clone();
        if let Some(graph) = &mut proto.graph {
            let mut input = graph.input.remove(position);
            set_form(&mut input, layout);
            graph.input.insert(0, input);
            if let Some(last) = between.nodes.last().and_then(|node| node.output.first()) {
                rename(&mut graph.node, &|value| (value == entry.info.name()).then(|| last.clone()));
            }
            entry.inner = between.nodes.last().map(|node| node.output[0].clone());
            entry.nodes = between.nodes.iter().map(|node| node.output[0].clone()).collect();
            graph.node.splice(0..0, between.nodes);
            graph.initializer.extend(between.constants);
        }
        model.proto = Model::new(proto)?.proto;
        Ok(Some(entry))
    }

    /// Gives a model made from the opened one the input of the file.
    pub(super) fn close(&self, model: &mut Model) -> Result<()> {
        if self.position == 0 && self.inner.is_none() {
            return Ok(());
        }
        let mut proto = model.proto.clone();
        if let Some(graph) = &mut proto.graph {
            let is_between = |node: &NodeProto| node.output.first().is_some_and(|o| self.nodes.contains(o));
            let constants: Vec<String> =
                graph.node.iter().filter(|n| is_between(n)).flat_map(|n| n.input.clone()).collect();
            graph.node.retain(|node| !is_between(node));
            graph.initializer.retain(|tensor| !constants.iter().any(|name| name == tensor.name()));
            if let Some(inner) = &self.inner {
                rename(&mut graph.node, &|value| (value == inner).then(|| self.info.name().to_owned()));
            }
            graph.input.retain(|input| input.name() != self.info.name());
            graph.input.insert(self.position.min(graph.input.len()), self.info.clone());
        }
        model.proto = Model::new(proto)?.proto;
        Ok(())
    }

    /// From `[N, C, H, W]` to what the file computes with.
    fn between(&self, names: &mut Edits, opset: i64) -> Between {
        let name = self.info.name();
        let mut between = Between { last: name.to_owned(), nodes: Vec::new(), constants: Vec::new() };
        match self.layout {
            Layout::ChannelsFirst => {}
            Layout::ChannelsLast => {
                let perm = AttributeProto::int_list("perm", &[0, 2, 3, 1]);
                between.push(names.fresh(&format!("{name}/channels_last")), "Transpose", None, vec![perm]);
            }
            Layout::Tokens | Layout::Vector => {
                let axes: &[i64] = if self.layout == Layout::Tokens { &[1] } else { &[1, 2] };
                let output = names.fresh(&format!("{name}/folded"));
                if opset < 13 {
                    between.push(output, "Squeeze", None, vec![AttributeProto::int_list("axes", axes)]);
                } else {
                    let axes = tensor::from_i64(&names.fresh(&format!("{name}/axes")), &[axes.len()], axes);
                    between.push(output, "Squeeze", Some(axes), vec![]);
                }
            }
            Layout::Frames(dims) => {
                let shape: Vec<i64> = std::iter::once(0).chain(dims.map(|dim| dim as i64)).collect();
                let shape = tensor::from_i64(&names.fresh(&format!("{name}/shape")), &[5], &shape);
                between.push(names.fresh(&format!("{name}/frames")), "Reshape", Some(shape), vec![]);
            }
        }
        if self.element != DataType::Float {
            let to = AttributeProto::int("to", self.element as i64);
            between.push(names.fresh(&format!("{name}/cast")), "Cast", None, vec![to]);
        }
        between
    }
}

/// The nodes between, in their order.
struct Between {
    last: String,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Between {
    fn push(
        &mut self,
        output: String,
        op: &str,
        constant: Option<TensorProto>,
        attributes: Vec<AttributeProto>,
    ) {
        let inputs = std::iter::once(self.last.as_str()).chain(constant.as_ref().map(TensorProto::name));
        let mut new = node(op, &output, inputs.collect::<Vec<_>>(), [output.as_str()]);
        new.attribute = attributes;
        self.nodes.push(new);
        self.constants.extend(constant);
        self.last = output;
    }
}

/// Which input holds the images, and how their axes lie.
fn images(graph: &GraphProto) -> Option<(usize, Layout)> {
    let constants: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let inputs = graph.input.iter().enumerate().filter(|(_, input)| !constants.contains(input.name()));
    let inputs: Vec<(usize, &ValueInfoProto)> = inputs.collect();
    let numeric = |info: &ValueInfoProto| {
        use DataType as T;
        let known = [T::Float, T::Uint8, T::Int8, T::Uint16, T::Int16, T::Int32, T::Int64, T::Uint32];
        element_of(info).is_none_or(|element| known.contains(&element))
    };
    // Images before tokens, floats and bytes before other integers, by names that speak of images, then the first.
    let place = |info: &ValueInfoProto| {
        let axes = [4, 5, 3, 2].iter().position(|&rank| dims(info).is_some_and(|dims| dims.len() == rank));
        let plain = matches!(element_of(info), Some(DataType::Float | DataType::Uint8) | None);
        let lower = info.name().to_lowercase();
        let named = NAMES.iter().position(|name| lower.contains(name) && !lower.contains("mask"));
        Some((named.is_none() && axes? > 1, !plain, axes?, named.unwrap_or(NAMES.len())))
    };
    let (position, info) = if let [only] = inputs[..] {
        only
    } else {
        let found = inputs.iter().filter(|(_, info)| numeric(info));
        let found = found.filter_map(|&(at, info)| Some((place(info)?, at, info)));
        found.min_by_key(|(place, at, _)| (*place, *at)).map(|(_, at, info)| (at, info))?
    };
    Some((position, layout_of(graph, info)?))
}

fn layout_of(graph: &GraphProto, info: &ValueInfoProto) -> Option<Layout> {
    let dims = dims(info)?;
    let is_channels = |dim: Option<usize>| dim.is_some_and(|dim| CHANNELS.contains(&dim));
    match dims[..] {
        [_, c, _, last] if is_channels(last) && !is_channels(c) => Some(Layout::ChannelsLast),
        [_, None, _, None] if goes_channels_first(graph, info.name()) => Some(Layout::ChannelsLast),
        [_, _, _, _] => Some(Layout::ChannelsFirst),
        // An image without a batch axis.
        [Some(3 | 4), Some(_), Some(_)] => None,
        [_, _, _] => Some(Layout::Tokens),
        [_, _] => Some(Layout::Vector),
        [_, Some(f), Some(c), Some(h), Some(w)] => Some(Layout::Frames([f, c, h, w])),
        _ => None,
    }
}

/// Whether the channels of an input are moved from the last axis to the second.
fn goes_channels_first(graph: &GraphProto, input: &str) -> bool {
    graph.node.iter().any(|node| {
        node.is_op("Transpose")
            && node.operand(0) == Some(input)
            && node.attr_ints("perm") == Some(&[0, 3, 1, 2])
    })
}

/// Gives an input the form that the later stages take.
fn set_form(info: &mut ValueInfoProto, layout: Layout) {
    let Some(tensor) = tensor_type(info) else { return };
    tensor.elem_type = Some(DataType::Float as i32);
    let Some(shape) = &mut tensor.shape else { return };
    let of =
        |dim: usize| Dimension { value: Some(dimension::Value::DimValue(dim as i64)), ..Default::default() };
    let dims = std::mem::take(&mut shape.dim);
    shape.dim = match (layout, &dims[..]) {
        (Layout::ChannelsLast, [n, h, w, c]) => vec![n.clone(), c.clone(), h.clone(), w.clone()],
        (Layout::Tokens, [n, t, d]) => vec![n.clone(), of(1), t.clone(), d.clone()],
        (Layout::Vector, [n, d]) => vec![n.clone(), of(1), of(1), d.clone()],
        (Layout::Frames([f, c, h, w]), [n, ..]) => vec![n.clone(), of(f * c), of(h), of(w)],
        _ => dims,
    };
}

fn tensor_type(info: &mut ValueInfoProto) -> Option<&mut type_proto::Tensor> {
    match info.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

fn opset(model: &Model) -> i64 {
    let imports = model.proto.opset_import.iter();
    let standard = imports.filter(|import| crate::onnx::node::is_standard(import.domain()));
    standard.map(crate::onnx::proto::OperatorSetIdProto::version).max().unwrap_or(0)
}

/// The element type of an input, if it is a tensor.
pub(super) fn element_of(info: &ValueInfoProto) -> Option<DataType> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => DataType::try_from(tensor.elem_type()).ok(),
        _ => None,
    }
}

/// The shape of an input, if the file states one.
pub(super) fn shape_of(info: &ValueInfoProto) -> Option<&TensorShapeProto> {
    match info.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => tensor.shape.as_ref(),
        _ => None,
    }
}

/// The dims of an input, `None` where they are open.
pub(super) fn dims(info: &ValueInfoProto) -> Option<Vec<Option<usize>>> {
    Some(shape_of(info)?.dim.iter().map(known).collect())
}

/// A positive dim that the file fixes.
pub(super) fn known(dim: &Dimension) -> Option<usize> {
    match dim.value {
        Some(dimension::Value::DimValue(known)) => usize::try_from(known).ok().filter(|&dim| dim > 0),
        _ => None,
    }
}
