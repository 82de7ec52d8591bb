//! Which outputs of a detector are its boxes, by their names and shapes.

use super::outputs::{Last, last_activation};
use crate::engine::{Detector, Scored};
use crate::onnx::{DataType, Graph, ValueInfoProto};

/// The first of these names that an output has, then the first that is part of an output's name.
const BOXES: [&[&str]; 2] = [&["pred_boxes", "boxes"], &["box"]];
const SCORES: [&[&str]; 2] = [&["logits", "pred_logits", "scores"], &["logit", "score", "prob"]];
const CLASSES: [&[&str]; 2] = [&["labels", "classes"], &["label", "class"]];

/// The boxes among the outputs of `graph`; `None` if it cannot be told which these are.
pub(super) fn detector(graph: &Graph) -> Option<Detector> {
    let names: Vec<&str> = graph.outputs().iter().map(ValueInfoProto::name).collect();
    let rank = |name: &str| graph.shape(name).map(|shape| shape.len());
    let find = |known: [&[&str]; 2], fits: &dyn Fn(&str) -> bool| {
        let candidates = || names.iter().copied().filter(|name| fits(name));
        let exactly = known[0].iter().find_map(|known| candidates().find(|name| name == known));
        let by_part = |name: &&str| known[1].iter().any(|part| name.to_lowercase().contains(part));
        exactly.or_else(|| candidates().find(by_part))
    };
    let is_float = |name: &str| graph.data_type(name).is_none_or(|found| found == DataType::Float);
    let has_four = |name: &str| match graph.shape(name).as_deref() {
        Some([_, _, last]) => last.is_none_or(|last| last == 4),
        known => known.is_none(),
    };
    let boxes = find(BOXES, &|name| is_float(name) && has_four(name))?;
    let is_scores = |name: &str| name != boxes && is_float(name) && matches!(rank(name), None | Some(2 | 3));
    let scores = find(SCORES, &is_scores)?;
    let is_classes = |name: &str| name != boxes && name != scores && matches!(rank(name), None | Some(2));
    let classes = match rank(scores) {
        Some(3) => None,
        _ => find(CLASSES, &is_classes),
    };
    let speaks_of = |name: &str, words: &[&str]| words.iter().any(|word| name.to_lowercase().contains(word));
    let scored = match last_activation(graph, scores).1 {
        Last::Softmax => Scored::Together,
        Last::Sigmoid => Scored::Each,
        _ if classes.is_some() || !speaks_of(scores, &["logit"]) => Scored::Each,
        _ => Scored::Logits,
    };
    // What is made ready for use has corners, what a network gives has centres.
    let centred = speaks_of(boxes, &["cxcy", "xywh"]) || classes.is_none() && !speaks_of(boxes, &["xyxy"]);
    let [scores, boxes] = [scores, boxes].map(str::to_string);
    Some(Detector { scores, scored, boxes, centred, classes: classes.map(str::to_string) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model, shaped};

    /// Name, the operator that makes it of `x`, and dims.
    type Output<'a> = (&'a str, &'a str, &'a [i64]);

    fn found(outputs: &[Output]) -> Option<Detector> {
        let nodes = outputs.iter().map(|(name, op, _)| node(op, "", ["x"], [*name])).collect();
        let mut graph = graph("x", "", nodes, vec![]);
        graph.output = outputs.iter().map(|(name, _, dims)| shaped(name, dims)).collect();
        detector(&Graph::new(model(graph, 17)).unwrap())
    }

    fn told(outputs: &[Output]) -> Option<String> {
        let Detector { scores, scored, boxes, centred, classes } = found(outputs)?;
        let sides = if centred { "centres" } else { "corners" };
        Some(format!("{scores} {scored:?} {boxes} {sides} {}", classes.unwrap_or_default()).trim().into())
    }

    #[test]
    fn boxes_are_told_by_names_and_shapes() {
        let (queries, sides): (&[i64], &[i64]) = (&[1, 100, 92], &[1, 100, 4]);
        let cases: [(&[Output], Option<&str>); 11] = [
            // DETR and YOLOS.
            (
                &[
                    ("logits", "Identity", queries),
                    ("pred_boxes", "Sigmoid", sides),
                    ("last_hidden_state", "Relu", &[1, 100, 256]),
                ],
                Some("logits Logits pred_boxes centres"),
            ),
            (
                &[("pred_boxes", "Sigmoid", sides), ("pred_logits", "Identity", queries)],
                Some("pred_logits Logits pred_boxes centres"),
            ),
            // RT-DETR has those of its layers, too.
            (
                &[
                    ("enc_logits", "Identity", queries),
                    ("init_boxes", "Identity", sides),
                    ("logits", "Identity", queries),
                    ("pred_boxes", "Identity", sides),
                ],
                Some("logits Logits pred_boxes centres"),
            ),
            (
                &[("scores", "Softmax", queries), ("boxes", "Identity", sides)],
                Some("scores Together boxes centres"),
            ),
            (
                &[("scores", "Sigmoid", queries), ("boxes_xyxy", "Identity", sides)],
                Some("scores Each boxes_xyxy corners"),
            ),
            (
                &[("probabilities", "Identity", queries), ("boxes", "Identity", sides)],
                Some("probabilities Each boxes centres"),
            ),
            // After the choice of the best ones.
            (
                &[
                    ("labels", "Identity", &[1, 300]),
                    ("boxes", "Identity", &[1, 300, 4]),
                    ("scores", "Identity", &[1, 300]),
                ],
                Some("scores Each boxes corners labels"),
            ),
            (
                &[
                    ("boxes_cxcywh", "Identity", sides),
                    ("score", "Identity", &[1, 100]),
                    ("class_ids", "Identity", &[1, 100]),
                ],
                Some("score Each boxes_cxcywh centres class_ids"),
            ),
            // What cannot be told.
            (&[("output0", "Identity", &[1, 84, 8400])], None),
            (&[("logits", "Identity", queries), ("boxes", "Identity", &[1, 100, 5])], None),
            (&[("boxes", "Identity", sides), ("masks", "Identity", &[1, 100, 32, 32])], None),
        ];
        for (outputs, expected) in cases {
            assert_eq!(told(outputs).as_deref(), expected, "{outputs:?}");
        }
    }
}
