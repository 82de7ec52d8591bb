//! Activation functions whose output is quantized by the post-GELU twin, in every exporter's spelling.

use std::f64::consts::FRAC_1_SQRT_2;

use crate::onnx::Graph;
use crate::pattern::{Match, Pattern, op, scalar, var};

/// A function with a short negative and a long positive range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// `x·σ(x)`.
    Silu,
    /// `x·σ(1.702x)`.
    QuickGelu,
    /// `x·clamp(x/6 + ½, 0, 1)`.
    HardSwish,
    /// `x·tanh(ln(1 + eˣ))`.
    Mish,
    /// `x` where it is positive, elsewhere `eˣ − 1`.
    Elu,
}

impl Activation {
    /// The largest magnitude of the negative range: minus the function's minimum.
    pub fn reach(self) -> f32 {
        match self {
            Self::Gelu => 0.169_971,
            Self::GeluTanh => 0.170_041,
            Self::Silu => 0.278_465,
            Self::QuickGelu => 0.163_611, // SiLU's, over 1.702
            Self::HardSwish => 0.375,
            Self::Mish => 0.308_844,
            Self::Elu => 1.0,
        }
    }

    /// The function's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "GELU",
            Self::GeluTanh => "GELU (tanh)",
            Self::Silu => "SiLU",
            Self::QuickGelu => "QuickGELU",
            Self::HardSwish => "HardSwish",
            Self::Mish => "Mish",
            Self::Elu => "ELU",
        }
    }
}

/// The function that makes `value`, and the name of its argument.
pub(super) fn find(graph: &Graph, value: &str) -> Option<(Activation, String)> {
    [
        (gelu_erf(), Activation::Gelu),
        (gelu_tanh(), Activation::GeluTanh),
        (silu(), Activation::Silu),
        (quick_gelu(), Activation::QuickGelu),
        (gelu_op(), gelu_op_kind(graph, value)),
        (op("HardSwish", [x()]), Activation::HardSwish),
        (x() * op("Clip", [x() + 3.0, scalar("zero"), scalar("six")]) * (1.0 / 6.0), Activation::HardSwish),
        (x() * op("HardSigmoid", [x()]), Activation::HardSwish),
        (op("Mish", [x()]), Activation::Mish),
        (x() * op("Tanh", [op("Softplus", [x()])]), Activation::Mish),
        (op("Elu", [x()]), Activation::Elu),
    ]
    .into_iter()
    .find_map(|(pattern, kind)| {
        let found = pattern.matches(graph, value).filter(|found| has_its_numbers(graph, found))?;
        Some((kind, found.value("x").clone()))
    })
}

/// Whether the attributes and the bounds of a match are those of the function.
fn has_its_numbers(graph: &Graph, found: &Match<Graph>) -> bool {
    found.nodes.iter().map(|&id| graph.node(id)).all(|node| {
        let is =
            |name, default, expected: f32| (node.attr_float(name).unwrap_or(default) - expected).abs() < 1e-6;
        match node.op_type() {
            "HardSigmoid" => is("alpha", 0.2, 1.0 / 6.0) && is("beta", 0.5, 0.5),
            "Elu" => is("alpha", 1.0, 1.0),
            "Clip" => found.scalar("zero") == 0.0 && found.scalar("six") == 6.0,
            _ => true,
        }
    })
}

fn x() -> Pattern {
    var("x")
}

/// `x · ½(1 + erf(x/√2))`: exact GELU as exporters below opset 20 spell it.
fn gelu_erf() -> Pattern {
    x() * (op("Erf", [x() * FRAC_1_SQRT_2]) + 1.0) * 0.5
}

/// `x · ½(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn gelu_tanh() -> Pattern {
    let inner = (x() + x() * x() * x() * 0.044_715) * 0.797_884_560_8;
    x() * (op("Tanh", [inner]) + 1.0) * 0.5
}

/// `Gelu`, opset 20; which of the two functions it is, its attribute says.
fn gelu_op() -> Pattern {
    op("Gelu", [x()])
}

fn gelu_op_kind(graph: &Graph, value: &str) -> Activation {
    let node = graph.producer(graph.resolve(value)).map(|id| graph.node(id));
    match node.and_then(|n| n.attr_str("approximate")) {
        Some("tanh") => Activation::GeluTanh,
        _ => Activation::Gelu,
    }
}

/// `x · σ(x)`.
fn silu() -> Pattern {
    x() * op("Sigmoid", [x()])
}

/// `x · σ(1.702·x)`.
fn quick_gelu() -> Pattern {
    x() * op("Sigmoid", [x() * 1.702])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node::node;
    use crate::onnx::{AttributeProto, Model, NodeProto, tensor, testing};

    /// A model of these nodes over the input `x` and scalar constants; the last output is the model's.
    fn model(nodes: Vec<NodeProto>, constants: &[(&str, f32)]) -> Model {
        let last = nodes.last().expect("a model has nodes").output[0].clone();
        let constants = constants.iter().map(|(name, x)| tensor::from_f32(name, &[], &[*x])).collect();
        testing::model(testing::graph("x", &last, nodes, constants), 20)
    }

    fn check(nodes: &[(&str, &[&str], &str)], constants: &[(&str, f32)], expected: Option<Activation>) {
        let nodes =
            nodes.iter().map(|(op, inputs, out)| node(op, out, inputs.iter().copied(), [*out])).collect();
        let model = model(nodes, constants);
        let graph = Graph::new(model).unwrap();
        let found = find(&graph, graph.outputs()[0].name());
        assert_eq!(found, expected.map(|function| (function, "x".to_string())));
    }

    #[test]
    fn spellings_without_a_fixture_are_known() {
        let silu: &[(&str, &[&str], &str)] = &[("Sigmoid", &["x"], "s"), ("Mul", &["s", "x"], "y")];
        check(silu, &[], Some(Activation::Silu));
        let quick: &[(&str, &[&str], &str)] =
            &[("Mul", &["x", "c"], "t"), ("Sigmoid", &["t"], "s"), ("Mul", &["x", "s"], "y")];
        check(quick, &[("c", 1.702)], Some(Activation::QuickGelu));
        check(quick, &[("c", 2.0)], None);
        // The cube as Pow, and the outer half on the left.
        let tanh: &[(&str, &[&str], &str)] = &[
            ("Pow", &["x", "three"], "x3"),
            ("Mul", &["x3", "c"], "cx3"),
            ("Add", &["x", "cx3"], "sum"),
            ("Mul", &["root", "sum"], "inner"),
            ("Tanh", &["inner"], "t"),
            ("Add", &["t", "one"], "t1"),
            ("Mul", &["half", "x"], "hx"),
            ("Mul", &["hx", "t1"], "y"),
        ];
        let constants =
            [("three", 3.0), ("c", 0.044_715), ("root", 0.797_884_6), ("one", 1.0), ("half", 0.5)];
        check(tanh, &constants, Some(Activation::GeluTanh));
        // A Sigmoid of something else is no activation of x.
        let gate: &[(&str, &[&str], &str)] =
            &[("Relu", &["x"], "r"), ("Sigmoid", &["r"], "s"), ("Mul", &["s", "x"], "y")];
        check(gate, &[], None);
    }

    #[test]
    fn the_gelu_operator_says_which_it_is() {
        for (attribute, expected) in
            [(None, Activation::Gelu), (Some("none"), Activation::Gelu), (Some("tanh"), Activation::GeluTanh)]
        {
            let mut gelu = node("Gelu", "y", ["x"], ["y"]);
            gelu.attribute.extend(attribute.map(|a| AttributeProto::string("approximate", a)));
            let model = model(vec![gelu], &[]);
            let graph = Graph::new(model).unwrap();
            assert_eq!(find(&graph, "y"), Some((expected, "x".to_string())));
        }
    }

    #[test]
    fn the_numbers_of_a_function_are_looked_at() {
        let with = |op: &str, attributes: &[(&str, f32)]| {
            let node = node(op, "a", ["x"], ["a"]);
            attributes.iter().fold(node, |node, (name, x)| node.with(AttributeProto::float(name, *x)))
        };
        let of = |nodes: Vec<NodeProto>, constants: &[(&str, f32)]| {
            let graph = Graph::new(model(nodes, constants)).unwrap();
            find(&graph, graph.outputs()[0].name()).map(|(function, _)| function)
        };
        let gated = |gate: NodeProto| vec![gate, node("Mul", "y", ["x", "a"], ["y"])];
        let sixth = 1.0 / 6.0;
        assert_eq!(of(gated(with("HardSigmoid", &[("alpha", sixth)])), &[]), Some(Activation::HardSwish));
        assert_eq!(of(gated(with("HardSigmoid", &[])), &[]), None);
        assert_eq!(of(vec![with("Elu", &[])], &[]), Some(Activation::Elu));
        assert_eq!(of(vec![with("Elu", &[("alpha", 0.5)])], &[]), None);
        assert_eq!(of(vec![with("HardSwish", &[])], &[]), Some(Activation::HardSwish));
        assert_eq!(of(vec![with("Mish", &[])], &[]), Some(Activation::Mish));
        let clipped = || {
            vec![
                node("Add", "s", ["x", "three"], ["s"]),
                node("Clip", "c", ["s", "zero", "top"], ["c"]),
                node("Mul", "m", ["x", "c"], ["m"]),
                node("Div", "y", ["m", "six"], ["y"]),
            ]
        };
        let constants = |top| [("three", 3.0), ("zero", 0.0), ("top", top), ("six", 6.0)];
        assert_eq!(of(clipped(), &constants(6.0)), Some(Activation::HardSwish));
        assert_eq!(of(clipped(), &constants(5.0)), None);
    }

    /// `reach` against the function's minimum on a fine grid.
    #[test]
    fn the_reach_is_the_depth_of_the_minimum() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh_gelu = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x.powi(3))).tanh());
        let functions: [(Activation, &dyn Fn(f64) -> f64); 5] = [
            (Activation::GeluTanh, &tanh_gelu),
            (Activation::Silu, &|x| x * sigmoid(x)),
            (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
            (Activation::HardSwish, &|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            (Activation::Mish, &|x| x * x.exp().ln_1p().tanh()),
        ];
        for (function, f) in functions {
            let depth = (0..40_000).map(|i| -f(-f64::from(i) * 1e-4)).fold(0.0, f64::max);
            assert!((f64::from(function.reach()) - depth).abs() < 2e-6, "{function:?}: {depth}");
        }
    }
}
