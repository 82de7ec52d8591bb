//! A small expression language over graphs: a pattern reads like its formula.
//!
//! `a * b` and `a + b` match products and sums in any order and association, and a division by a constant is a product,
//! so that one formula covers many exporters' spellings. [`op`] matches one node as it stands; of Add, Mul, Min and Max
//! the two operands come in either order. Numbers agree to 0.1 %.
//!
//! A pattern captures values ([`var`]), constants ([`scalar`], [`per_head`], [`constant`]) and nodes
//! ([`Pattern::node`]) under names; one name stands for the same value, or for constants of the same content,
//! wherever it occurs. What [`Pattern::with`] asks of a captured value comes after the pattern itself has matched: where
//! it fails, the match is a near miss, with a reason.

mod graph;
mod matching;

use std::ops::{Add, Mul};

pub use graph::{Constant, Graph};
pub use matching::{Match, NearMiss};

/// An expression over the values of a graph.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Any value.
    Var(&'static str),
    /// Any value, uncaptured.
    Any,
    /// A constant.
    Constant,
    /// A float constant, captured with its elements.
    Floats(&'static str, Dims),
    /// The output of a node.
    Op(Op),
    /// The constant times the factors.
    Product(f64, Vec<Pattern>),
    /// The constant plus the terms.
    Sum(f64, Vec<Pattern>),
    /// The first of these that matches.
    Either(Vec<Pattern>),
    /// What is made of `end` by any number of `steps`, each of which holds [`it`] in the place of the value before it.
    Through {
        /// The operators that may lie between.
        steps: Vec<Pattern>,
        /// Where the way begins.
        end: Box<Pattern>,
    },
    /// A value that nothing but the node around it takes.
    Sole(Box<Pattern>),
    /// The pattern, whose capture `name` is as `inner` says; if not, the match is a near miss.
    With {
        /// What has to match first.
        pattern: Box<Pattern>,
        /// A capture of it.
        name: &'static str,
        /// What the captured value has to be.
        inner: Box<Pattern>,
        /// Why the whole is a near miss otherwise.
        reason: &'static str,
    },
}

/// A node, and patterns of its first inputs.
#[derive(Clone, Debug)]
pub struct Op {
    names: Vec<&'static str>,
    arguments: Vec<Pattern>,
    capture: Option<&'static str>,
}

/// The shape of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dims {
    /// Any.
    Any,
    /// One element, of no axis or of one.
    Scalar,
    /// `[H, 1, 1]`.
    PerHead,
}

/// Any value, captured as `name`.
pub fn var(name: &'static str) -> Pattern {
    Pattern::Var(name)
}

/// Any value.
pub fn any() -> Pattern {
    Pattern::Any
}

/// Any constant.
pub fn any_constant() -> Pattern {
    Pattern::Constant
}

/// A float constant of any shape.
pub fn constant(name: &'static str) -> Pattern {
    Pattern::Floats(name, Dims::Any)
}

/// A float constant of one element.
pub fn scalar(name: &'static str) -> Pattern {
    Pattern::Floats(name, Dims::Scalar)
}

/// A float constant `[H, 1, 1]`.
pub fn per_head(name: &'static str) -> Pattern {
    Pattern::Floats(name, Dims::PerHead)
}

/// The output of a node of operator `name`; the node may have more inputs than `arguments`.
pub fn op(name: &'static str, arguments: impl Into<Vec<Pattern>>) -> Pattern {
    any_op(&[name], arguments)
}

/// The output of a node of one of these operators.
pub fn any_op(names: &[&'static str], arguments: impl Into<Vec<Pattern>>) -> Pattern {
    Pattern::Op(Op { names: names.to_vec(), arguments: arguments.into(), capture: None })
}

/// The first of `patterns` that matches.
pub fn either(patterns: impl Into<Vec<Pattern>>) -> Pattern {
    Pattern::Either(patterns.into())
}

/// What is made of `end` by any number of `steps`, nearest first.
pub fn through(steps: impl Into<Vec<Pattern>>, end: Pattern) -> Pattern {
    Pattern::Through { steps: steps.into(), end: Box::new(end) }
}

/// In a step of [`through`]: the value before it.
pub fn it() -> Pattern {
    Pattern::Var(matching::IT)
}

impl Pattern {
    /// The same, whose node is captured as `name`.
    ///
    /// # Panics
    /// If it is no [`op`].
    #[must_use]
    pub fn node(self, name: &'static str) -> Self {
        let Self::Op(op) = self else { panic!("only an operator has a node") };
        Self::Op(Op { capture: Some(name), ..op })
    }

    /// The same, where nothing but the node around it takes the value.
    #[must_use]
    pub fn sole(self) -> Self {
        Self::Sole(Box::new(self))
    }

    /// The same, whose captured value `name` has to be `inner`; else it is a near miss for this `reason`.
    #[must_use]
    pub fn with(self, name: &'static str, inner: Pattern, reason: &'static str) -> Self {
        Self::With { pattern: Box::new(self), name, inner: Box::new(inner), reason }
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
#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx;
    use crate::onnx::node::node;
    use crate::onnx::tensor::from_f32;
    use crate::onnx::testing;

    /// A graph of `y = op(inputs)` lines over the inputs `x` and `z`; numbers are constants.
    fn graph(lines: &[&str]) -> onnx::Graph {
        let mut constants = vec![from_f32("per_head", &[2, 1, 1], &[1.0, 2.0])];
        let mut nodes = Vec::new();
        for line in lines {
            let [output, "=", op, inputs @ ..] = &line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            for number in inputs {
                if let Ok(value) = number.parse()
                    && constants.iter().all(|c| c.name() != *number)
                {
                    constants.push(from_f32(number, &[], &[value]));
                }
            }
            nodes.push(node(op, output, inputs.iter().copied(), [*output]));
        }
        let last = nodes.last().unwrap().output[0].clone();
        onnx::Graph::new(testing::model(testing::graph("x z", &last, nodes, constants), 17)).unwrap()
    }

    fn found(pattern: &Pattern, graph: &onnx::Graph, value: &str) -> Option<Vec<String>> {
        let found = pattern.matches(graph, value)?;
        Some(found.nodes.iter().map(|&id| graph.node(id).name().to_string()).collect())
    }

    #[test]
    fn products_and_sums_match_in_any_order_and_association() {
        let pattern = var("x") * (op("Erf", [var("x") * 0.5]) + 1.0) * 2.0;
        for lines in [
            ["h = Div x 2", "e = Erf h", "s = Add e 1", "t = Mul s x", "y = Mul 2 t"],
            ["h = Mul 0.5 x", "e = Erf h", "s = Add 1 e", "t = Mul x 2.0", "y = Mul t s"],
        ] {
            assert!(found(&pattern, &graph(&lines), "y").is_some(), "{lines:?}");
        }
        let another = ["h = Mul 0.5 z", "e = Erf h", "s = Add 1 e", "t = Mul x 2.0", "y = Mul t s"];
        assert_eq!(found(&pattern, &graph(&another), "y"), None);
    }

    #[test]
    fn a_node_matches_as_it_stands() {
        let sum = op("Add", [op("Relu", [var("x")]), var("other")]);
        let graph = graph(&["r = Relu x", "a = Add z r", "b = Sub z r", "y = Concat a b"]);
        assert_eq!(found(&sum, &graph, "a"), Some(vec!["a".into(), "r".into()]));
        assert_eq!(found(&op("Sub", [op("Relu", [any()]), any()]), &graph, "b"), None);
        assert_eq!(
            found(&op("Sub", [any(), op("Relu", [any()]).sole()]), &graph, "b"),
            None,
            "a takes it too"
        );
        let both = any_op(&["Sub", "Add"], [any(), any()]).node("sum");
        assert_eq!(both.matches(&graph, "b").unwrap().node("sum"), graph.producer("b").unwrap());
        assert_eq!(op("Add", [var("x"), var("x")]).matches(&graph, "a").map(|_| ()), None);
    }

    #[test]
    fn constants_are_captured_by_shape_and_agree_by_content() {
        let graph = graph(&["a = Mul x per_head", "b = Mul a 2", "c = Mul b 2.0", "y = Add c 3"]);
        let twice = op("Mul", [op("Mul", [var("a"), scalar("c")]), scalar("c")]);
        assert_eq!(twice.matches(&graph, "c").unwrap().scalar("c"), 2.0);
        assert!(op("Add", [op("Mul", [any(), scalar("c")]), scalar("c")]).matches(&graph, "y").is_none());
        assert_eq!(op("Mul", [any(), per_head("h")]).matches(&graph, "a").unwrap().floats("h"), [1.0, 2.0]);
        assert!(op("Mul", [any(), scalar("h")]).matches(&graph, "a").is_none());
    }

    #[test]
    fn a_way_leads_through_its_steps_alone() {
        let graph = graph(&["m = MatMul x z", "r = Reshape m x", "a = Add 1 r", "s = Sub a 1", "y = Relu s"]);
        let way = through([op("Reshape", [it()]), op("Add", [it(), any_constant()])], op("MatMul", []));
        assert_eq!(found(&way, &graph, "a"), Some(["a", "r", "m"].map(String::from).to_vec()));
        assert_eq!(found(&way, &graph, "m"), Some(vec!["m".into()]));
        assert_eq!(found(&way, &graph, "s"), None, "Sub is no step");
    }

    /// Every sum doubles the number of ways: a way is followed once per value.
    #[test]
    fn a_braid_of_sums_ends_soon() {
        let sums: Vec<String> = (0..60).map(|i| format!("s{} = Add s{i} s{i}", i + 1)).collect();
        let lines: Vec<&str> =
            ["s0 = MatMul x z"].into_iter().chain(sums.iter().map(String::as_str)).collect();
        let graph = graph(&lines);
        let way = through([op("Add", [it(), any()])], op("MatMul", []).node("product"));
        assert_eq!(way.all(&graph, "s20").len(), 1);
        assert!(way.all(&graph, "s60").is_empty(), "too long a way");
    }

    #[test]
    fn a_near_miss_has_a_reason_and_another_match_beats_it() {
        let pattern = op("Add", [op("Mul", [var("a"), any()]), any()]).with(
            "a",
            op("Relu", [any()]),
            "what is multiplied is no Relu",
        );
        let graph =
            graph(&["r = Relu x", "good = Mul z r", "bad = Mul z x", "y = Add bad 1", "w = Add good 1"]);
        let near = pattern.find(&graph, "y").unwrap_err();
        assert_eq!(near.0, "what is multiplied is no Relu");
        assert!(pattern.find(&graph, "w").unwrap().is_some(), "of the two orders of the product one will do");
        assert!(pattern.find(&graph, "r").unwrap().is_none(), "not even near");
    }
}
