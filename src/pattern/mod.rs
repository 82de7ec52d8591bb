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
