//! Which values of pixels a model takes: what it does to them itself says so.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use ndarray::{Array4, Axis};

use crate::onnx::{DataType, Graph, NodeProto, tensor};

/// The values of pixels at the input.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Pixels {
    /// From 0 to 255: the model normalizes them itself.
    Bytes(Affine),
    /// From 0 to 1: the model subtracts means itself.
    Unit(Affine),
    /// As the user normalizes them: nothing of that kind is in the graph.
    Normalized,
}

/// What a model does to the pixels of each channel first: `scale · x + shift`, both as long as there are channels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Affine {
    /// The factor of each channel.
    pub scale: Vec<f32>,
    /// What is added to each channel.
    pub shift: Vec<f32>,
}

/// Normalized pixels are seldom beyond it.
const LARGEST_NORMALIZED: f32 = 10.0;

/// More channels than images have.
const MOST_CHANNELS: usize = 1 << 16;

/// How many nodes behind the input are looked at.
const MOST_STEPS: usize = 24;

/// The images at input `name` of `graph` have so many channels.
pub(super) fn of(graph: &Graph, name: &str, channels: usize, element: DataType) -> Pixels {
    if channels > MOST_CHANNELS {
        return Pixels::Normalized;
    }
    let affine = affine(graph, name, channels);
    let least = affine.scale.iter().copied().fold(f32::INFINITY, |least, s| least.min(s.abs()));
    let most = affine.scale.iter().copied().fold(0.0, |most: f32, s| most.max(s.abs()));
    // What a standard deviation of 1 means for values from 0 to 1, give or take.
    let plausible = |range: f32| least * range >= 0.9 && most * range <= 12.0;
    let centred = affine.scale.iter().zip(&affine.shift).all(|(a, b)| *b < 0.0 && a + b > 0.0);
    match () {
        () if element != DataType::Float || plausible(255.0) => Pixels::Bytes(affine),
        () if plausible(1.0) && centred => Pixels::Unit(affine),
        () => Pixels::Normalized,
    }
}

/// What the nodes behind the input do to each channel, as far as it is the same everywhere.
fn affine(graph: &Graph, name: &str, channels: usize) -> Affine {
    let mut found = Affine { scale: vec![1.0; channels], shift: vec![0.0; channels] };
    let (mut value, mut channel_axis, mut flipped, mut seen) = (name, 1, false, HashSet::new());
    for _ in 0..MOST_STEPS {
        let mut takers = graph.consumers(value).iter().filter(|taker| {
            let node = graph.node(taker.node);
            !node.is_op("Shape") && !node.is_op("Size")
        });
        let (Some(taker), None) = (takers.next(), takers.next()) else { break };
        let node = graph.node(taker.node);
        let Some(output) = node.output.first() else { break };
        if !seen.insert(taker.node) || node.output.len() != 1 {
            break;
        }
        match node.op_type() {
            "Cast" | "Identity" | "Resize" | "Upsample" => {}
            "Transpose" => {
                let axis = node
                    .attr_ints("perm")
                    .and_then(|perm| perm.iter().position(|&from| from == channel_axis));
                let Some(axis) = axis else { break };
                channel_axis = axis as i64;
            }
            // RGB to BGR: from here on, constants are those of the other order.
            "Gather" if is_flip(graph, node, channel_axis, channels) => {
                flipped = !flipped;
            }
            "Add" | "Sub" | "Mul" | "Div" => {
                let other = 1 - taker.input.min(1);
                let Some(mut constant) = per_channel(graph, node, other, channel_axis, channels) else {
                    break;
                };
                if flipped {
                    constant.reverse();
                }
                if !found.then(node.op_type(), taker.input, &constant) {
                    break;
                }
            }
            _ => break,
        }
        value = output;
    }
    found
}

impl Affine {
    /// Follows an operator whose operand number `at` is the pixels; `false` if it is not affine.
    fn then(&mut self, op: &str, at: usize, constant: &[f32]) -> bool {
        for ((scale, shift), &c) in self.scale.iter_mut().zip(&mut self.shift).zip(constant) {
            (*scale, *shift) = match (op, at) {
                ("Add", _) => (*scale, *shift + c),
                ("Sub", 0) => (*scale, *shift - c),
                ("Sub", _) => (-*scale, c - *shift),
                ("Mul", _) => (*scale * c, *shift * c),
                ("Div", 0) => (*scale / c, *shift / c),
                _ => return false,
            };
        }
        true
    }
}

/// Operand `at` as one number per channel, if it is a constant that has no more.
fn per_channel(
    graph: &Graph,
    node: &NodeProto,
    at: usize,
    channel_axis: i64,
    channels: usize,
) -> Option<Vec<f32>> {
    let constant = graph.constant(node.operand(at)?)?;
    let (dims, values) = (tensor::shape(constant), tensor::f32s(constant).ok()?);
    if let [one] = values[..] {
        return Some(vec![one; channels]);
    }
    // Broadcast against four axes from the right.
    let axis = (channel_axis as usize + dims.len()).checked_sub(4)?;
    (values.len() == channels && dims.get(axis) == Some(&channels)).then_some(values)
}

fn is_flip(graph: &Graph, node: &NodeProto, channel_axis: i64, channels: usize) -> bool {
    let indices = node.operand(1).and_then(|indices| tensor::i64s(graph.constant(indices)?).ok());
    let flipped: Vec<i64> = (0..channels as i64).rev().collect();
    let axis = node.attr_int("axis").unwrap_or(0);
    indices == Some(flipped) && (axis == channel_axis || axis == channel_axis - 4)
}

impl Pixels {
    /// The range that the model takes; `None` if it does not tell.
    pub fn range(&self) -> Option<RangeInclusive<f32>> {
        match self {
            Self::Bytes(_) => Some(0.0..=255.0),
            Self::Unit(_) => Some(0.0..=1.0),
            Self::Normalized => None,
        }
    }

    /// Brings values that are plainly of another range into that of the model: what was done, or why they are of none.
    /// Values of a model that takes `integers` are rounded.
    pub(super) fn fit(&self, images: &mut Array4<f32>, integers: bool) -> Result<Option<String>, String> {
        let (least, most) =
            images.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        let (range, top, affine) = match self {
            Self::Bytes(affine) => ("0 to 255", 255.0, affine),
            Self::Unit(affine) => ("0 to 1", 1.0, affine),
            Self::Normalized => return Ok(None),
        };
        let found = format!(
            "warning: the model takes pixels from {range}, and the array has values from {least} to {most}"
        );
        let note = match () {
            () if least >= 0.0 && most <= top && (top == 1.0 || most > 1.0) => None,
            () if least >= 0.0 && most <= 1.0 => {
                images.mapv_inplace(|x| x * 255.0);
                Some(format!("{found}: they are taken to be from 0 to 1, and multiplied by 255"))
            }
            () if least >= 0.0 && most <= 255.0 && top == 1.0 => {
                images.mapv_inplace(|x| x / 255.0);
                Some(format!("{found}: they are taken to be from 0 to 255, and divided by 255"))
            }
            () if least < 0.0
                && least.abs().max(most) <= LARGEST_NORMALIZED
                && affine.scale.iter().any(|&a| a != 1.0) =>
            {
                for (c, mut channel) in images.axis_iter_mut(Axis(1)).enumerate() {
                    let (a, b) = (affine.scale[c], affine.shift[c]);
                    channel.mapv_inplace(|x| ((x - b) / a).clamp(0.0, top));
                }
                Some(format!(
                    "{found}: they are taken to be normalized already, and the model's normalization is undone"
                ))
            }
            () => {
                return Err(format!(
                    "the model takes pixels from {range}, and the array has values from {least} to {most}"
                ));
            }
        };
        if integers {
            images.mapv_inplace(f32::round_ties_even);
        }
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model};
    use crate::onnx::{AttributeProto, TensorProto};

    fn pixels(nodes: Vec<NodeProto>, element: DataType) -> Pixels {
        let c = |name: &str, dims: &[usize], values: &[f32]| tensor::from_f32(name, dims, values);
        let constants: Vec<TensorProto> = vec![
            c("255", &[], &[255.0]),
            c("1/255", &[1], &[1.0 / 255.0]),
            c("mean", &[1, 3, 1, 1], &[0.485, 0.456, 0.406]),
            c("std", &[3, 1, 1], &[0.229, 0.224, 0.225]),
            c("mean_last", &[3], &[123.675, 116.28, 103.53]),
            c("std_last", &[1, 1, 3], &[58.395, 57.12, 57.375]),
            c("2", &[], &[2.0]),
            c("1", &[], &[1.0]),
            c("table", &[1, 3, 2, 2], &[1.0; 12]),
        ];
        let graph = Graph::new(model(graph("x", "y", nodes, constants), 17)).unwrap();
        of(&graph, "x", 3, element)
    }

    #[test]
    fn a_model_says_which_pixels_it_takes() {
        #[track_caller]
        fn check(steps: &[[&str; 3]], expected: &str) {
            let last = steps.len() - 1;
            let name = |at: usize| if at == 0 { "x".into() } else { format!("h{at}") };
            let nodes = steps.iter().enumerate().map(|(at, [op, a, b])| {
                let mine = name(at);
                let inputs: Vec<&str> = [a, b]
                    .into_iter()
                    .filter(|x| !x.is_empty())
                    .map(|x| if *x == "_" { &mine } else { *x })
                    .collect();
                let output = if at == last { "y".into() } else { name(at + 1) };
                let new = node(op, "", inputs, [output.as_str()]);
                if *op == "Transpose" {
                    new.with(AttributeProto::int_list("perm", &[0, 2, 3, 1]))
                } else {
                    new
                }
            });
            let found = match pixels(nodes.collect(), DataType::Float) {
                Pixels::Bytes(_) => "bytes",
                Pixels::Unit(_) => "unit",
                Pixels::Normalized => "normalized",
            };
            assert_eq!(found, expected, "{steps:?}");
        }
        let relu = ["Relu", "_", ""];
        check(&[["Div", "_", "255"], ["Sub", "_", "mean"], ["Div", "_", "std"], relu], "bytes");
        check(&[["Mul", "1/255", "_"], relu], "bytes");
        check(&[["Transpose", "_", ""], ["Sub", "_", "mean_last"], ["Div", "_", "std_last"], relu], "bytes");
        check(&[["Sub", "_", "mean"], ["Div", "_", "std"], relu], "unit");
        check(&[["Mul", "_", "2"], ["Sub", "_", "1"], relu], "unit");
        check(&[relu], "normalized");
        check(&[["Mul", "_", "2"], relu], "normalized");
        check(&[["Add", "_", "table"], relu], "normalized");
        check(&[["Sub", "1", "_"], relu], "normalized");
    }

    #[test]
    fn a_claim_of_many_channels_takes_no_memory() {
        let graph = graph("x", "y", vec![node("Relu", "", ["x"], ["y"])], vec![]);
        let graph = Graph::new(model(graph, 17)).unwrap();
        assert_eq!(of(&graph, "x", usize::MAX, DataType::Uint8), Pixels::Normalized);
    }

    #[test]
    fn integers_are_bytes() {
        let relu = || vec![node("Relu", "", ["x"], ["y"])];
        assert!(matches!(pixels(relu(), DataType::Uint8), Pixels::Bytes(_)));
        let Pixels::Bytes(affine) = pixels(vec![node("Div", "", ["x", "255"], ["y"])], DataType::Uint8)
        else {
            panic!("bytes")
        };
        assert_eq!(affine, Affine { scale: vec![1.0 / 255.0; 3], shift: vec![0.0; 3] });
    }
}
