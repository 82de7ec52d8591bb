//! Which values are probabilities, by what makes them: the range of Softmax, and what keeps it.

use super::attention::LAYOUT;
use super::axes::RESHAPES;
use crate::onnx::{Graph, tensor};

/// How many values are looked at to tell the range of one.
const MOST_STEPS: usize = 64;

/// What is known of a value whose elements are at least 0.
#[derive(Clone, Copy)]
struct Range {
    /// Whether they are at most 1.
    within_one: bool,
    /// Whether a Softmax made some of them.
    of_softmax: bool,
}

/// Whether `value` holds what a Softmax makes, or what is made of that and is from 0 to 1 for certain.
pub(super) fn is_probability(graph: &Graph, value: &str) -> bool {
    let range = range(graph, value, &mut { MOST_STEPS });
    range.is_some_and(|range| range.within_one && range.of_softmax)
}

/// The range of a value; `None` if it may be negative.
fn range(graph: &Graph, value: &str, left: &mut usize) -> Option<Range> {
    *left = left.checked_sub(1)?;
    if let Some(constant) = graph.constant(value) {
        let values = tensor::f32s(constant).ok()?;
        let within = |most: f32| values.iter().all(|x| (0.0..=most).contains(x));
        return within(f32::MAX).then(|| Range { within_one: within(1.0), of_softmax: false });
    }
    let node = graph.node(graph.producer(value)?);
    let mut of = |index: usize| range(graph, node.operand(index)?, left);
    match node.op_type() {
        "Softmax" => Some(Range { within_one: true, of_softmax: true }),
        "Sigmoid" | "HardSigmoid" => Some(Range { within_one: true, of_softmax: false }),
        "Relu" | "Exp" => Some(Range { within_one: false, of_softmax: false }),
        "Dropout" => of(0),
        "Where" => Some(both(of(1)?, of(2)?)),
        "Mul" => Some(both(of(0)?, of(1)?)),
        "Add" => Some(Range { within_one: false, ..both(of(0)?, of(1)?) }),
        // `1 − x`.
        "Sub" => {
            let one = tensor::f32s(graph.constant(node.operand(0)?)?).ok()?;
            of(1).filter(|range| range.within_one && one.iter().all(|&x| x == 1.0))
        }
        "Div" => {
            let (x, sum) = (node.operand(0)?, node.operand(1)?);
            of(0).filter(|_| is_sum_of(graph, sum, x)).map(|range| Range { within_one: true, ..range })
        }
        op if LAYOUT.contains(&op) => of(0),
        _ => None,
    }
}

fn both(a: Range, b: Range) -> Range {
    Range { within_one: a.within_one && b.within_one, of_softmax: a.of_softmax || b.of_softmax }
}

/// Whether `sum` is a sum over axes of `x`, which no element of `x` exceeds if none is negative.
fn is_sum_of(graph: &Graph, sum: &str, x: &str) -> bool {
    let mut value = sum;
    for _ in 0..MOST_STEPS {
        let Some(node) = graph.producer(value).map(|id| graph.node(id)) else { return false };
        let Some(before) = node.operand(0) else { return false };
        if node.is_op("ReduceSum") {
            return graph.resolve(before) == graph.resolve(x);
        }
        if !RESHAPES.iter().chain(&["Expand", "Identity"]).any(|op| node.is_op(op)) {
            return false;
        }
        value = before;
    }
    false
}
