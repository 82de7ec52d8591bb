//! A small expression language over [`onnx::Graph`](crate::onnx::Graph): a pattern reads like its formula.
//!
//! Products and sums match in any order and association, and a division by a constant is a product, so that one
//! formula covers many exporters' spellings. Constants agree to 0.1 %.

use std::collections::HashMap;
use std::ops::{Add, Mul};

use crate::onnx::{Graph, NodeProto, tensor};

/// Exporters round the constants of their formulas to this, relatively.
const CONSTANT_TOLERANCE: f64 = 1e-3;

/// An expression over the values of a graph.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Any value; the same value wherever the name occurs.
    Var(&'static str),
    /// The output of a standard operator applied to (at least) these arguments.
    Op(&'static str, Vec<Pattern>),
    /// The constant times the factors.
    Product(f64, Vec<Pattern>),
    /// The constant plus the terms.
    Sum(f64, Vec<Pattern>),
}

/// Any value, named.
pub fn var(name: &'static str) -> Pattern {
    Pattern::Var(name)
}

/// The output of `op_type` applied to `arguments`.
pub fn op(op_type: &'static str, arguments: impl Into<Vec<Pattern>>) -> Pattern {
    Pattern::Op(op_type, arguments.into())
}

impl Mul for Pattern {
    type Output = Pattern;

    fn mul(self, other: Pattern) -> Pattern {
        let ((a, mut factors), (b, more)) = (self.into_factors(), other.into_factors());
        factors.extend(more);
        Pattern::Product(a * b, factors)
    }
}

impl Mul<f64> for Pattern {
    type Output = Pattern;

    fn mul(self, constant: f64) -> Pattern {
        let (a, factors) = self.into_factors();
        Pattern::Product(a * constant, factors)
    }
}

impl Add for Pattern {
    type Output = Pattern;

    fn add(self, other: Pattern) -> Pattern {
        let ((a, mut terms), (b, more)) = (self.into_terms(), other.into_terms());
        terms.extend(more);
        Pattern::Sum(a + b, terms)
    }
}

impl Add<f64> for Pattern {
    type Output = Pattern;

    fn add(self, constant: f64) -> Pattern {
        let (a, terms) = self.into_terms();
        Pattern::Sum(a + constant, terms)
    }
}

/// What the variables of a pattern stand for.
pub type Bindings = HashMap<&'static str, String>;

impl Pattern {
    /// The bindings under which `value` is what the pattern says.
    pub fn matches(&self, graph: &Graph, value: &str) -> Option<Bindings> {
        self.extend(graph, value, Bindings::new())
    }

    fn into_factors(self) -> (f64, Vec<Pattern>) {
        match self {
            Self::Product(constant, factors) => (constant, factors),
            other => (1.0, vec![other]),
        }
    }

    fn into_terms(self) -> (f64, Vec<Pattern>) {
        match self {
            Self::Sum(constant, terms) => (constant, terms),
            other => (0.0, vec![other]),
        }
    }

    fn extend(&self, graph: &Graph, value: &str, mut bound: Bindings) -> Option<Bindings> {
        let value = graph.resolve(value);
        match self {
            Self::Var(name) => {
                let known = bound.entry(name).or_insert_with(|| value.to_string());
                (known == value).then_some(bound)
            }
            Self::Op(op_type, arguments) => {
                let node = made_by(graph, value, op_type)?;
                if node.input.len() < arguments.len() {
                    return None;
                }
                let pairs = arguments.iter().zip(&node.input);
                pairs.into_iter().try_fold(bound, |bound, (p, input)| p.extend(graph, input, bound))
            }
            Self::Product(constant, factors) => {
                let mut found = Flat { constant: 1.0, parts: Vec::new() };
                found.flatten_product(graph, value, true);
                found.agrees(*constant, factors, graph, bound)
            }
            Self::Sum(constant, terms) => {
                let mut found = Flat { constant: 0.0, parts: Vec::new() };
                found.flatten_sum(graph, value, true);
                found.agrees(*constant, terms, graph, bound)
            }
        }
    }
}

/// A product or a sum in the graph, with its association undone and its constants collected.
struct Flat<'g> {
    constant: f64,
    parts: Vec<&'g str>,
}

impl<'g> Flat<'g> {
    /// Only values that nothing else uses are taken apart: what is shared is a variable of the formula.
    fn flatten_product(&mut self, graph: &'g Graph, value: &'g str, root: bool) {
        let value = graph.resolve(value);
        if let Some(constant) = scalar(graph, value) {
            self.constant *= constant;
            return;
        }
        let single = root || graph.consumers_through_identity(value).len() == 1;
        if let Some(node) = made_by(graph, value, "Mul").filter(|_| single) {
            node.input.iter().for_each(|input| self.flatten_product(graph, input, false));
        } else if let Some((node, divisor)) = with_constant(graph, value, "Div").filter(|_| single) {
            self.constant /= divisor;
            self.flatten_product(graph, &node.input[0], false);
        } else if let Some((node, power)) =
            with_constant(graph, value, "Pow").filter(|(_, p)| single && (*p == 2.0 || *p == 3.0))
        {
            (0..power as usize).for_each(|_| self.parts.push(graph.resolve(&node.input[0])));
        } else {
            self.parts.push(value);
        }
    }

    fn flatten_sum(&mut self, graph: &'g Graph, value: &'g str, root: bool) {
        let value = graph.resolve(value);
        let single = root || graph.consumers_through_identity(value).len() == 1;
        if let Some(constant) = scalar(graph, value) {
            self.constant += constant;
        } else if let Some(node) = made_by(graph, value, "Add").filter(|_| single) {
            node.input.iter().for_each(|input| self.flatten_sum(graph, input, false));
        } else {
            self.parts.push(value);
        }
    }

    /// Do the parts match the patterns one to one, in some order?
    fn agrees(
        &self,
        constant: f64,
        patterns: &[Pattern],
        graph: &Graph,
        bound: Bindings,
    ) -> Option<Bindings> {
        let close = (self.constant - constant).abs() <= CONSTANT_TOLERANCE * constant.abs();
        if !close || self.parts.len() != patterns.len() {
            return None;
        }
        assign(patterns, &self.parts, graph, bound)
    }
}

fn assign(patterns: &[Pattern], parts: &[&str], graph: &Graph, bound: Bindings) -> Option<Bindings> {
    let Some((first, rest)) = patterns.split_first() else { return Some(bound) };
    (0..parts.len()).find_map(|i| {
        let bound = first.extend(graph, parts[i], bound.clone())?;
        let mut left = parts.to_vec();
        left.remove(i);
        assign(rest, &left, graph, bound)
    })
}

/// The node that makes `value`, if it is a standard `op_type`.
fn made_by<'g>(graph: &'g Graph, value: &str, op_type: &str) -> Option<&'g NodeProto> {
    graph.producer(value).map(|id| graph.node(id)).filter(|node| node.is_op(op_type))
}

/// A binary `op_type` whose second operand is a constant, and that constant.
fn with_constant<'g>(graph: &'g Graph, value: &str, op_type: &str) -> Option<(&'g NodeProto, f64)> {
    let node = made_by(graph, value, op_type)?;
    Some((node, scalar(graph, node.input.get(1)?)?))
}

/// The number behind a constant of one float element.
pub fn scalar(graph: &Graph, value: &str) -> Option<f64> {
    let tensor = graph.constant(value)?;
    if tensor.dims.iter().any(|&d| d != 1) {
        return None;
    }
    tensor::f32s(tensor).ok()?.first().map(|&x| f64::from(x))
}
