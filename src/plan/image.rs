//! Values that are the pixels of the image, whatever their range and their order.

use crate::onnx::Graph;

/// Operators that move pixels, or give all of a channel another range.
const OF_PIXELS: &[&str] = &[
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Flatten",
    "Gather",
    "Identity",
    "Mul",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

/// How many nodes may be between the input and such a value.
const MOST_STEPS: usize = 64;

/// Whether `value` is made of the pixels of the first input of `graph` alone.
pub(super) fn is_pixels(graph: &Graph, value: &str) -> bool {
    let Some(image) = graph.inputs().next() else { return false };
    let (mut open, mut reached) = (vec![value], false);
    for _ in 0..MOST_STEPS {
        let Some(value) = open.pop() else { return reached };
        if value == image.name() {
            reached = true;
        } else if graph.constant(value).is_none() {
            let Some(node) = graph.producer(value).map(|id| graph.node(id)) else { return false };
            match node.op_type() {
                // Sizes are no pixels, but may say how these are moved.
                "Shape" => {}
                op if OF_PIXELS.contains(&op) => {
                    open.extend(node.input.iter().map(String::as_str).filter(|input| !input.is_empty()));
                }
                _ => return false,
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::tensor;
    use crate::onnx::testing::{graph, model};

    #[test]
    fn pixels_are_told_from_features() {
        let nodes = vec![
            node("Shape", "", ["x"], ["shape"]),
            node("Sub", "", ["x", "mean"], ["centred"]),
            node("Reshape", "", ["centred", "shape"], ["patches"]),
            node("Relu", "", ["patches"], ["features"]),
            node("Add", "", ["features", "centred"], ["y"]),
        ];
        let graph =
            Graph::new(model(graph("x", "y", nodes, vec![tensor::from_f32("mean", &[], &[0.5])]), 17));
        let graph = graph.unwrap();
        let found =
            ["x", "centred", "patches", "features", "y", "mean"].map(|value| is_pixels(&graph, value));
        assert_eq!(found, [true, true, true, false, false, false]);
    }
}
