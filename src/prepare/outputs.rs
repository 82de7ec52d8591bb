//! What a model gives, and what a quantized one should get right of it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use super::detector::detector;
use crate::engine::{Detector, Reading};
use crate::onnx::{DataType, Graph, NodeProto, ValueInfoProto};
use crate::runtime::Facts;
use crate::{Error, Result};

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of several classes.
    Classify,
    /// Any of several labels.
    Multilabel,
    /// Numbers, such as an age.
    Regress,
    /// Features to compare or to go on with.
    Embed,
    /// A value for each place of the image, such as a depth.
    Dense,
    /// Boxes and their scores.
    Detect,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Classify, Self::Multilabel, Self::Regress, Self::Embed, Self::Dense, Self::Detect];
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Classify => "classify",
            Self::Multilabel => "multilabel",
            Self::Regress => "regress",
            Self::Embed => "embed",
            Self::Dense => "dense",
            Self::Detect => "detect",
        })
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|task| task.to_string() == name).ok_or_else(|| {
            let known = Self::ALL.map(|task| task.to_string()).join(", ");
            Error::usage(format!("task `{name}`: expected one of {known}"))
        })
    }
}

/// Which error of a value is the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of classes along this axis; of a value with two axes the second, else the squared error, if the file
    /// does not say.
    CrossEntropy(Option<usize>),
    /// Binary cross-entropy of labels.
    BinaryCrossEntropy,
    /// The squared error.
    Squares,
    /// The squared error relative to the squares of the value, which is a noise-to-signal ratio.
    Relative,
}

/// What a model gives for its images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outputs {
    /// The FLOAT outputs' names; of a model without any, the FLOAT values that its outputs are made of.
    pub names: Vec<String>,
    /// What the model is for.
    pub task: Task,
    /// The value that is compared, and how it is read.
    pub compared: (String, Reading),
    /// The values whose errors are the loss.
    pub(crate) loss: Vec<(String, Loss)>,
    /// Of a detector, its boxes, if it can be told which these are.
    pub detector: Option<Detector>,
}

impl Outputs {
    /// The outputs of a model, for `task` if it is given; an error if no output is made of a FLOAT value.
    ///
    /// The file does not say what they mean: their axes, their names, and the operators that make them do.
    pub(super) fn of(graph: &Graph, facts: &dyn Fn() -> Facts, task: Option<Task>) -> Result<Self> {
        let float =
            |output: &&ValueInfoProto| graph.data_type(output.name()).is_none_or(|t| t == DataType::Float);
        let names: Vec<String> =
            graph.outputs().iter().filter(float).map(|output| output.name().to_string()).collect();
        let facts = if names.is_empty() { facts() } else { Facts::default() };
        let decided = if names.is_empty() { behind_integers(graph, &facts) } else { None };
        let names = decided.as_ref().map_or(names, |(names, _)| names.clone());
        let Some(first) = names.first() else {
            return Err(Error::model(
                "graph",
                "the model has no output of FLOAT, and none that is made of FLOAT values",
            ));
        };
        let first = embedding(graph, &names).unwrap_or(first).clone();
        let shape = graph
            .shape(&first)
            .or_else(|| Some(facts.dims(&first)?.iter().map(|d| d.map(|d| d as i64)).collect()));
        let (value, last) = last_activation(graph, &first);
        let found = task.unwrap_or_else(|| match decided {
            Some(_) => Task::Classify,
            None => task_of(graph, &names, &first, shape.as_deref(), last),
        });
        let all = |loss: Loss| names.iter().map(|name| (name.clone(), loss)).collect();
        let axis = decided.and_then(|(_, axis)| axis).and_then(|axis| axis_of(axis, shape.as_ref()?.len()));
        let (reading, loss) = match (found, last) {
            (Task::Classify, Last::Softmax) => {
                (Reading::Probabilities, vec![(value, Loss::CrossEntropy(None))])
            }
            (Task::Classify, _) => (Reading::Logits(axis), vec![(first.clone(), Loss::CrossEntropy(axis))]),
            (Task::Multilabel, Last::Sigmoid) => {
                (Reading::LabelProbabilities, vec![(value, Loss::BinaryCrossEntropy)])
            }
            (Task::Multilabel, _) => (Reading::LabelLogits, vec![(first.clone(), Loss::BinaryCrossEntropy)]),
            (Task::Detect, _) => (Reading::Features, all(Loss::Relative)),
            (Task::Dense, _) if names.first() == Some(&first) => {
                // Scores of classes for each place have the classes on the axis of channels.
                let classes = shape.as_ref().is_some_and(|shape| shape.len() == 4 && shape[1] != Some(1));
                let scores = classes && ["logit", "score", "class"].iter().any(|word| first.contains(word));
                let reading = if scores { Reading::Logits(Some(1)) } else { Reading::Maps };
                (reading, all(Loss::Squares))
            }
            (Task::Regress, _) if names.len() > 1 => (Reading::Numbers, all(Loss::Relative)),
            (Task::Regress, _) => (Reading::Numbers, all(Loss::Squares)),
            _ if names.first() != Some(&first) => (Reading::Features, vec![(first.clone(), Loss::Squares)]),
            _ => (Reading::Features, all(Loss::Squares)),
        };
        let detector = if found == Task::Detect { detector(graph) } else { None };
        Ok(Self { names, task: found, compared: (first, reading), loss, detector })
    }
}

impl fmt::Display for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (output, reading) = &self.compared;
        write!(f, "{}, by the {reading} `{output}`", self.task)
    }
}

/// The operator that makes an output of what matters to the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Softmax,
    Sigmoid,
    /// The division by the length of a vector.
    Normalization,
    Other,
}

/// How many nodes before an output are looked at.
const MOST_STEPS: usize = 8;

/// The FLOAT values that the outputs are made of, if these are integers, and the axis of their first `ArgMax`.
fn behind_integers(graph: &Graph, facts: &Facts) -> Option<(Vec<String>, Option<i64>)> {
    let is_float = |value: &str| match graph.data_type(value) {
        Some(known) => known == DataType::Float,
        None => facts.is_float(value),
    };
    let (mut names, mut axis, mut seen) = (Vec::new(), None, HashSet::new());
    let mut next: Vec<&str> = graph.outputs().iter().rev().map(ValueInfoProto::name).collect();
    while let Some(value) = next.pop() {
        let Some(node) = graph.producer(value).map(|id| graph.node(id)) else { continue };
        if !seen.insert(value) {
            continue;
        }
        if is_float(value) {
            names.push(value.to_string());
            continue;
        }
        if node.is_op("ArgMax") || node.is_op("ArgMin") {
            axis = axis.or(Some(node.attr_int("axis").unwrap_or(0)));
        }
        next.extend(
            node.input.iter().rev().map(String::as_str).filter(|input| graph.constant(input).is_none()),
        );
    }
    (!names.is_empty()).then_some((names, axis))
}

/// The features of the image, where a model gives them beside their products with those of a text.
fn embedding<'n>(graph: &Graph, names: &'n [String]) -> Option<&'n String> {
    let several = graph.inputs().nth(1).is_some();
    names.iter().find(|name| several && name.contains("image_embed"))
}

/// The last operator of note before `output`, and what it takes.
pub(super) fn last_activation(graph: &Graph, output: &str) -> (String, Last) {
    let mut value = output;
    for _ in 0..MOST_STEPS {
        let Some(node) = graph.producer(value).map(|id| graph.node(id)) else { break };
        let Some(input) = node.operand(0) else { break };
        match node.op_type() {
            "Identity" | "Squeeze" | "Reshape" | "Flatten" | "Cast" => value = input,
            "Softmax" => return (input.to_string(), Last::Softmax),
            "Sigmoid" => return (input.to_string(), Last::Sigmoid),
            "LpNormalization" => return (input.to_string(), Last::Normalization),
            "Div" if is_length(graph, node) => return (input.to_string(), Last::Normalization),
            _ => break,
        }
    }
    (output.to_string(), Last::Other)
}

/// Whether the divisor of a node is the length of a vector.
fn is_length(graph: &Graph, div: &NodeProto) -> bool {
    let mut value = div.operand(1);
    for _ in 0..MOST_STEPS {
        let Some(node) = value.and_then(|value| graph.producer(value)).map(|id| graph.node(id)) else {
            return false;
        };
        if node.is_op("ReduceL2") || node.is_op("Sqrt") {
            return true;
        }
        value = node.operand(0);
    }
    false
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&axis| axis < rank)
}

/// What a model is for whose output `first` of this shape is made by `last`.
fn task_of(graph: &Graph, names: &[String], first: &str, shape: Option<&[Option<i64>]>, last: Last) -> Task {
    const FEATURES: &[&str] = &["embed", "feature", "hidden", "pool"];
    let speaks_of = |name: &str, words: &[&str]| words.iter().any(|word| name.to_lowercase().contains(word));
    let boxes = |output: &ValueInfoProto| speaks_of(output.name(), &["box"]);
    if names.len() > 1 && graph.outputs().iter().any(boxes) {
        return Task::Detect;
    }
    match shape {
        _ if speaks_of(first, FEATURES) || last == Last::Normalization => Task::Embed,
        Some([_] | [_, Some(1)]) if last != Last::Sigmoid => Task::Regress,
        Some([_] | [_, _]) | None if last == Last::Sigmoid => Task::Multilabel,
        Some([_, _]) | None => Task::Classify,
        Some([_, _, _, _]) => Task::Dense,
        _ => Task::Embed,
    }
}
