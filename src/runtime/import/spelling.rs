//! The same model in the operators that tract has: what is rewritten here is not rewritten in the emitted file.

use std::collections::HashMap;

use super::types;
use crate::onnx::node::node;
use crate::onnx::{AttributeProto, GraphProto, Model, ModelProto, NodeProto, TensorProto, tensor};

/// Larger windows are in no model.
const MAX_WINDOW: i64 = 64;

/// The messages of `model` as tract can read them: what it lacks and has another way to say, a default in the open
/// that it gets wrong (`ConstantOfShape` makes FLOAT zeros), and constants in the place of the inputs that are bound.
pub(in crate::runtime) fn respelled(model: &Model) -> ModelProto {
    let mut proto = model.proto.clone();
    let Some(graph) = &mut proto.graph else { return proto };
    graph.input.retain(|input| !model.bound.iter().any(|bound| bound.name() == input.name()));
    graph.initializer.extend(model.bound.iter().cloned());
    for node in graph.node.iter_mut().filter(|node| node.is_op("ConstantOfShape")) {
        if node.attr("value").is_none() {
            node.attribute.push(AttributeProto::tensor("value", tensor::from_f32("", &[1], &[0.0])));
        }
    }
    if graph.node.iter().any(|node| node.is_op("Col2Im") || node.is_op("LRN")) {
        let constants = Constants::of(model.graph());
        let nodes = std::mem::take(&mut graph.node);
        graph.node = nodes
            .into_iter()
            .flat_map(|node| match constants.fold(&node) {
                Some(fold) => fold.nodes(&node, &mut graph.initializer),
                None if node.is_op("LRN") => normalized(node, &mut graph.initializer),
                None => vec![node],
            })
            .collect();
    }
    types::respell(graph);
    proto
}

/// `LRN`, for which there is no gradient rule: `x / (bias + alpha · mean)^beta`, where the mean of the squares is that of
/// an `AveragePool` over `size` channels, zeros beyond the first and the last.
fn normalized(lrn: NodeProto, initializers: &mut Vec<TensorProto>) -> Vec<NodeProto> {
    let size = lrn.attr_int("size").unwrap_or(0);
    let ([x], [output]) = (&lrn.input[..], &lrn.output[..]) else { return vec![lrn] };
    if !(1..=MAX_WINDOW).contains(&size) {
        return vec![lrn];
    }
    let name = |part: &str| format!("{output}/lrn_{part}");
    let float = |attribute, default| lrn.attr_float(attribute).unwrap_or(default);
    let scalar = |part: &str, value| tensor::from_f32(&name(part), &[], &[value]);
    initializers.extend([
        tensor::from_i64(&name("axis"), &[1], &[1]),
        scalar("alpha", float("alpha", 1e-4)),
        scalar("beta", float("beta", 0.75)),
        scalar("bias", float("bias", 1.0)),
    ]);
    let op = |op_type: &str, inputs: [&str; 2], part: &str| {
        node(op_type, &name(part), inputs, [name(part).as_str()])
    };
    let (before, after) = ((size - 1) / 2, size / 2);
    let mut mean = node("AveragePool", &name("mean"), [name("apart").as_str()], [name("mean").as_str()]);
    mean.attribute = vec![
        AttributeProto::int_list("kernel_shape", &[size, 1, 1]),
        AttributeProto::int_list("pads", &[before, 0, 0, after, 0, 0]),
        AttributeProto::int("count_include_pad", 1),
    ];
    let mut last = op("Div", [x, &name("power")], "quotient");
    (last.name, last.output) = (lrn.name.clone(), vec![output.clone()]);
    vec![
        op("Mul", [x, x], "squares"),
        op("Unsqueeze", [&name("squares"), &name("axis")], "apart"),
        mean,
        op("Squeeze", [&name("mean"), &name("axis")], "together"),
        op("Mul", [&name("together"), &name("alpha")], "scaled"),
        op("Add", [&name("scaled"), &name("bias")], "sum"),
        op("Pow", [&name("sum"), &name("beta")], "power"),
        last,
    ]
}

/// The small constants of a graph, by name.
pub(super) struct Constants<'m>(HashMap<&'m str, &'m TensorProto>);

impl<'m> Constants<'m> {
    pub(super) fn of(graph: &'m GraphProto) -> Self {
        let made =
            |node: &'m NodeProto| Some((node.output.first()?.as_str(), node.attr("value")?.t.as_ref()?));
        let constants = graph.node.iter().filter(|node| node.is_op("Constant")).filter_map(made);
        let initializers = graph.initializer.iter().map(|tensor| (tensor.name(), tensor));
        Self(initializers.chain(constants).collect())
    }

    /// What a `Col2Im` of two axes does; `None` for another node, and for one that tract has no operators for.
    pub(super) fn fold(&self, node: &NodeProto) -> Option<Fold> {
        let pair = |index: usize| {
            let tensor = self.0.get(node.input.get(index)?.as_str())?;
            let ints = (tensor::len(tensor) == 2).then(|| tensor::i64s(tensor).ok())??;
            <[i64; 2]>::try_from(ints).ok()
        };
        let ints = |name, default: &[i64]| node.attr_ints(name).unwrap_or(default).to_vec();
        if !node.is_op("Col2Im") {
            return None;
        }
        let (image, window) = (pair(1)?, pair(2)?);
        let strides = <[i64; 2]>::try_from(ints("strides", &[1, 1])).ok()?;
        let dilations = <[i64; 2]>::try_from(ints("dilations", &[1, 1])).ok()?;
        let pads = <[i64; 4]>::try_from(ints("pads", &[0; 4])).ok()?;
        let (mut blocks, mut rest) = ([0; 2], [0; 2]);
        for axis in 0..2 {
            let sound = (1..=MAX_WINDOW).contains(&window[axis])
                && strides[axis] > 0
                && (1..=MAX_WINDOW).contains(&dilations[axis])
                && pads[axis] >= 0
                && pads[axis + 2] >= 0;
            let padded = image[axis].checked_add(pads[axis])?.checked_add(pads[axis + 2])?;
            let room = padded - dilations[axis] * (window[axis] - 1) - 1;
            if !sound || image[axis] < 1 || room < 0 {
                return None;
            }
            blocks[axis] = room / strides[axis] + 1;
            rest[axis] = room % strides[axis];
        }
        Some(Fold { image, window, strides, dilations, pads, blocks, rest })
    }
}

/// A `Col2Im` (opset 18) from `[N, C·kh·kw, L]` to `[N, C, H, W]`: the sum of overlapping blocks.
pub(super) struct Fold {
    image: [i64; 2],
    window: [i64; 2],
    strides: [i64; 2],
    dilations: [i64; 2],
    pads: [i64; 4],
    /// How many blocks there are along each axis; their product is L.
    blocks: [i64; 2],
    /// What the last block leaves of each axis.
    rest: [i64; 2],
}

impl Fold {
    /// Each channel is the `ConvTranspose` of its blocks with a kernel that puts element i of a block at place i.
    fn nodes(&self, node_: &NodeProto, initializers: &mut Vec<TensorProto>) -> Vec<NodeProto> {
        let (output, taps) = (node_.output[0].as_str(), (self.window[0] * self.window[1]) as usize);
        let name = |part: &str| format!("{output}/col2im_{part}");
        let ints = |part: &str, ints: &[i64]| tensor::from_i64(&name(part), &[ints.len()], ints);
        let one_hot: Vec<f32> = (0..taps * taps).map(|i| f32::from(i / taps == i % taps)).collect();
        let dims = [taps, 1, self.window[0] as usize, self.window[1] as usize];
        initializers.extend([
            ints("blocks", &[-1, taps as i64, self.blocks[0], self.blocks[1]]),
            tensor::from_f32(&name("kernel"), &dims, &one_hot),
            ints("first", &[0]),
            ints("size", &[-1, self.image[0], self.image[1]]),
        ]);
        let op = |op_type: &str, inputs: [&str; 2], part: &str| {
            let inputs = inputs.into_iter().filter(|input| !input.is_empty()).map(str::to_owned);
            let inputs: Vec<String> = inputs.collect();
            node(op_type, &name(part), inputs.iter().map(String::as_str), [name(part).as_str()])
        };
        let x = node_.input[0].as_str();
        let mut last = op("Reshape", [&name("image"), &name("shape")], "image_shaped");
        (last.name, last.output) = (node_.name.clone(), vec![output.to_owned()]);
        vec![
            op("Reshape", [x, &name("blocks")], "apart"),
            op("ConvTranspose", [&name("apart"), &name("kernel")], "image")
                .with(AttributeProto::int_list("strides", &self.strides))
                .with(AttributeProto::int_list("dilations", &self.dilations))
                .with(AttributeProto::int_list("pads", &self.pads))
                .with(AttributeProto::int_list("output_padding", &self.rest)),
            op("Shape", [x, ""], "x_shape"),
            op("Gather", [&name("x_shape"), &name("first")], "batch"),
            op("Concat", [&name("batch"), &name("size")], "shape").with(AttributeProto::int("axis", 0)),
            last,
        ]
    }
}
