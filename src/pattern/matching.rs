//! Matching with every way back: a pattern hands each of its matches to what comes next, until that is satisfied.

use std::collections::HashMap;

use super::{Constant, Dims, Graph, Op, Pattern};

/// Exporters round the constants of their formulas to this, relatively.
const CONSTANT_TOLERANCE: f64 = 1e-3;

/// Operators whose two operands may come in either order.
const COMMUTATIVE: &[&str] = &["Add", "Mul", "Min", "Max"];

/// The longest way that [`through`](super::through) follows.
const LONGEST_WAY: usize = 24;

/// The capture of [`it`](super::it).
pub(super) const IT: &str = "it";

/// What a pattern captured.
#[derive(Debug)]
pub struct Match<G: Graph> {
    values: Vec<(&'static str, G::Value)>,
    constants: Vec<(&'static str, Constant)>,
    captured: Vec<(&'static str, G::Node)>,
    /// The nodes that were matched, in the order in which the pattern names them.
    pub nodes: Vec<G::Node>,
}

/// Why a graph that nearly is what a pattern says is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMiss(pub &'static str);

impl<G: Graph> Match<G> {
    fn empty() -> Self {
        Self { values: vec![], constants: vec![], captured: vec![], nodes: vec![] }
    }

    /// The value captured as `name`.
    ///
    /// # Panics
    /// Like all getters: if the pattern has no such capture.
    pub fn value(&self, name: &str) -> &G::Value {
        found(&self.values, name)
    }

    /// The constant captured as `name`.
    pub fn constant(&self, name: &str) -> &Constant {
        found(&self.constants, name)
    }

    /// The elements of the constant captured as `name`.
    pub fn floats(&self, name: &str) -> &[f32] {
        &self.constant(name).values
    }

    /// The only element of the constant captured as `name`.
    pub fn scalar(&self, name: &str) -> f32 {
        self.constant(name).values[0]
    }

    /// The node captured as `name`.
    pub fn node(&self, name: &str) -> G::Node {
        *found(&self.captured, name)
    }
}

// Derived, it would ask for a graph that can be cloned.
impl<G: Graph> Clone for Match<G> {
    fn clone(&self) -> Self {
        let Self { values, constants, captured, nodes } = self;
        let (values, constants) = (values.clone(), constants.clone());
        Self { values, constants, captured: captured.clone(), nodes: nodes.clone() }
    }
}

fn found<'m, T>(captures: &'m [(&'static str, T)], name: &str) -> &'m T {
    let capture = captures.iter().find(|(known, _)| *known == name);
    &capture.unwrap_or_else(|| panic!("the pattern captures no `{name}`")).1
}

impl Pattern {
    /// What the pattern captures at `value`; `None` if it does not match, nearly or at all.
    pub fn matches<G: Graph>(&self, graph: &G, value: impl Into<G::Value>) -> Option<Match<G>> {
        self.find(graph, value).ok().flatten()
    }

    /// As [`matches`](Self::matches), with the reason of a near miss.
    pub fn find<G: Graph>(
        &self,
        graph: &G,
        value: impl Into<G::Value>,
    ) -> Result<Option<Match<G>>, NearMiss> {
        let mut first = None;
        let near = self.search(graph, &value.into(), &mut |found| {
            first = Some(found);
            true
        });
        match (first, near) {
            (None, Some(near)) => Err(near),
            (first, _) => Ok(first),
        }
    }

    /// Every way in which the pattern matches at `value`.
    pub fn all<G: Graph>(&self, graph: &G, value: impl Into<G::Value>) -> Vec<Match<G>> {
        let mut all = Vec::new();
        self.search(graph, &value.into(), &mut |found| {
            all.push(found);
            false
        });
        all
    }

    /// As [`all`](Self::all) for a [`through`](super::through), from any of `starts`: each value is visited a few times,
    /// however many ways lead to it.
    ///
    /// # Panics
    /// If the pattern is another.
    pub fn all_from<G: Graph>(&self, graph: &G, starts: impl IntoIterator<Item = G::Value>) -> Vec<Match<G>> {
        let Self::Through { steps, end } = self else { panic!("only a way has a start") };
        let (mut matcher, mut seen, mut all) = (Matcher { graph, near: None }, Seen::<G>::new(), Vec::new());
        for start in starts {
            let way = Way { steps, end, left: LONGEST_WAY };
            matcher.through(way, &graph.resolve(&start), &mut seen, &Match::empty(), &mut |_, found| {
                all.push(found);
                false
            });
        }
        all
    }

    /// Hands every match to `each` until it says that this is enough; what was nearly a match.
    fn search<G: Graph>(
        &self,
        graph: &G,
        value: &G::Value,
        each: &mut dyn FnMut(Match<G>) -> bool,
    ) -> Option<NearMiss> {
        let mut matcher = Matcher { graph, near: None };
        matcher.at(self, value, Match::empty(), &mut |_, found| each(found));
        matcher.near
    }
}

struct Matcher<'g, G: Graph> {
    graph: &'g G,
    near: Option<NearMiss>,
}

/// What [`through`](super::through) follows, and how far it still may.
#[derive(Clone, Copy)]
struct Way<'p> {
    steps: &'p [Pattern],
    end: &'p Pattern,
    left: usize,
}

/// By value, how far a way through it could still have gone.
type Seen<G> = HashMap<<G as Graph>::Value, usize>;

/// What comes after a match; whether that was enough.
type Next<'n, 'g, G> = dyn FnMut(&mut Matcher<'g, G>, Match<G>) -> bool + 'n;

impl<'g, G: Graph> Matcher<'g, G> {
    /// Whether `next` was satisfied by a match of `pattern` at `value`.
    fn at(
        &mut self,
        pattern: &Pattern,
        value: &G::Value,
        bound: Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        let value = &self.graph.resolve(value);
        match pattern {
            Pattern::Any => next(self, bound),
            Pattern::Var(name) => self.bind(name, value, bound, next),
            Pattern::Constant => self.graph.constant_dims(value).is_some() && next(self, bound),
            Pattern::Floats(name, dims) => self.floats(name, *dims, value, bound, next),
            Pattern::Op(op) => self.op(op, value, bound, next),
            Pattern::Sole(inner) => self.graph.is_sole(value) && self.at(inner, value, bound, next),
            Pattern::Either(patterns) => patterns.iter().any(|p| self.at(p, value, bound.clone(), next)),
            Pattern::Through { steps, end } => {
                let way = Way { steps, end, left: LONGEST_WAY };
                self.through(way, value, &mut Seen::<G>::new(), &bound, next)
            }
            Pattern::Product(constant, factors) => {
                let mut found = Flat { constant: 1.0, parts: Vec::new(), nodes: Vec::new() };
                found.product(self.graph, value, 0);
                self.flat((*constant, factors), &found, bound, next)
            }
            Pattern::Sum(constant, terms) => {
                let mut found = Flat { constant: 0.0, parts: Vec::new(), nodes: Vec::new() };
                found.sum(self.graph, value, 0);
                self.flat((*constant, terms), &found, bound, next)
            }
            Pattern::With { pattern, name, inner, reason } => {
                let mut near = false;
                let enough = self.at(pattern, value, bound, &mut |this, bound| {
                    let (mut met, captured) = (false, bound.value(name).clone());
                    let enough = this.at(inner, &captured, bound, &mut |this, bound| {
                        met = true;
                        next(this, bound)
                    });
                    near |= !met;
                    enough
                });
                if near && !enough {
                    self.near.get_or_insert(NearMiss(reason));
                }
                enough
            }
        }
    }

    fn bind(
        &mut self,
        name: &'static str,
        value: &G::Value,
        mut bound: Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        match bound.values.iter().find(|(known, _)| *known == name) {
            Some((_, known)) if known != value => false,
            Some(_) => next(self, bound),
            None => {
                bound.values.push((name, value.clone()));
                next(self, bound)
            }
        }
    }

    fn floats(
        &mut self,
        name: &'static str,
        wanted: Dims,
        value: &G::Value,
        mut bound: Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        let Some(dims) = self.graph.constant_dims(value) else { return false };
        let fits = match wanted {
            Dims::Any => true,
            Dims::Scalar => dims.is_empty() || dims == [1],
            Dims::PerHead => matches!(dims[..], [heads, 1, 1] if heads > 0),
        };
        let Some(values) = fits.then(|| self.graph.constant_values(value)).flatten() else { return false };
        let constant = Constant { dims, values };
        match bound.constants.iter().find(|(known, _)| *known == name) {
            Some((_, known)) if *known != constant => false,
            Some(_) => next(self, bound),
            None => {
                bound.constants.push((name, constant));
                next(self, bound)
            }
        }
    }

    fn op(&mut self, op: &Op, value: &G::Value, mut bound: Match<G>, next: &mut Next<'_, 'g, G>) -> bool {
        let Some(node) = self.graph.producer(value) else { return false };
        let operator = self.graph.operator(node);
        if !op.names.iter().any(|name| *name == operator) {
            return false;
        }
        let inputs = self.graph.inputs(node);
        if inputs.len() < op.arguments.len() {
            return false;
        }
        if let Some(name) = op.capture {
            match bound.captured.iter().find(|(known, _)| *known == name) {
                Some((_, known)) if *known != node => return false,
                _ => bound.captured.push((name, node)),
            }
        }
        bound.nodes.push(node);
        if let ([a, b], [x, y]) = (&op.arguments[..], &inputs[..])
            && COMMUTATIVE.contains(&&*operator)
        {
            return self.arguments(&[(a, x), (b, y)], bound.clone(), next)
                || self.arguments(&[(a, y), (b, x)], bound, next);
        }
        let pairs: Vec<_> = op.arguments.iter().zip(&inputs).collect();
        self.arguments(&pairs, bound, next)
    }

    fn arguments(
        &mut self,
        pairs: &[(&Pattern, &G::Value)],
        bound: Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        match pairs {
            [] => next(self, bound),
            [(pattern, value), rest @ ..] => {
                self.at(pattern, value, bound, &mut |this, bound| this.arguments(rest, bound, next))
            }
        }
    }

    /// One way to a value is as good as another of the same length: `seen` says how far was left at each value.
    fn through(
        &mut self,
        way: Way,
        value: &G::Value,
        seen: &mut Seen<G>,
        bound: &Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        match seen.get_mut(value) {
            Some(left) if *left >= way.left => return false,
            Some(left) => *left = way.left,
            None => drop(seen.insert(value.clone(), way.left)),
        }
        if self.at(way.end, value, bound.clone(), next) {
            return true;
        }
        let Some(left) = way.left.checked_sub(1) else { return false };
        way.steps.iter().any(|step| {
            self.at(step, value, bound.clone(), &mut |this, mut bound| {
                let at = bound.values.iter().position(|(name, _)| *name == IT);
                let (_, before) = bound.values.remove(at.expect("a step holds `it`"));
                this.through(Way { left, ..way }, &before, seen, &bound, next)
            })
        })
    }

    /// Do the parts match the patterns one to one, in some order?
    fn flat(
        &mut self,
        (constant, patterns): (f64, &[Pattern]),
        found: &Flat<G>,
        mut bound: Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        let close = (found.constant - constant).abs() <= CONSTANT_TOLERANCE * constant.abs();
        if !close || found.parts.len() != patterns.len() {
            return false;
        }
        bound.nodes.extend(&found.nodes);
        self.assign(patterns, &found.parts, &bound, next)
    }

    fn assign(
        &mut self,
        patterns: &[Pattern],
        parts: &[G::Value],
        bound: &Match<G>,
        next: &mut Next<'_, 'g, G>,
    ) -> bool {
        let Some((first, rest)) = patterns.split_first() else { return next(self, bound.clone()) };
        (0..parts.len()).any(|i| {
            let mut others = parts.to_vec();
            let part = others.remove(i);
            self.at(first, &part, bound.clone(), &mut |this, bound| this.assign(rest, &others, &bound, next))
        })
    }
}

/// A product or a sum in the graph, with its association undone and its numbers collected.
struct Flat<G: Graph> {
    constant: f64,
    parts: Vec<G::Value>,
    nodes: Vec<G::Node>,
}

impl<G: Graph> Flat<G> {
    /// Only values that nothing else uses are taken apart: what is shared is a variable of the formula.
    fn product(&mut self, graph: &G, value: &G::Value, depth: usize) {
        let value = graph.resolve(value);
        if let Some(number) = graph.number(&value) {
            self.constant *= number;
            return;
        }
        let node =
            graph.producer(&value).filter(|_| depth == 0 || depth < LONGEST_WAY && graph.is_sole(&value));
        let Some((node, inputs)) = node.map(|node| (node, graph.inputs(node))) else {
            return self.parts.push(value);
        };
        let second = || graph.number(inputs.get(1)?);
        match (&*graph.operator(node), second()) {
            ("Mul", _) => inputs.iter().for_each(|input| self.product(graph, input, depth + 1)),
            ("Div", Some(divisor)) => {
                self.constant /= divisor;
                self.product(graph, &inputs[0], depth + 1);
            }
            ("Pow", Some(power)) if power == 2.0 || power == 3.0 => {
                let base = graph.resolve(&inputs[0]);
                self.parts.extend(std::iter::repeat_n(base, power as usize));
            }
            _ => return self.parts.push(value),
        }
        self.nodes.push(node);
    }

    fn sum(&mut self, graph: &G, value: &G::Value, depth: usize) {
        let value = graph.resolve(value);
        if let Some(number) = graph.number(&value) {
            self.constant += number;
            return;
        }
        let node =
            graph.producer(&value).filter(|_| depth == 0 || depth < LONGEST_WAY && graph.is_sole(&value));
        match node.filter(|&node| graph.operator(node) == "Add") {
            Some(node) => {
                self.nodes.push(node);
                graph.inputs(node).iter().for_each(|input| self.sum(graph, input, depth + 1));
            }
            None => self.parts.push(value),
        }
    }
}
