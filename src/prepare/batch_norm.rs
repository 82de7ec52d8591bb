//! `BatchNormalization` of a trained model: a product and a sum with constants, which the Conv before it can take over.

use super::expansion::{Budget, Expansion, float_constant, is_used};
use super::shapes::Ranks;
use crate::onnx::{Edits, Graph, NodeId, NodeProto, TensorProto, tensor};

/// The edits that put every `BatchNormalization` into the Conv before it, or else a Mul and an Add in its place; `None`
/// if none is understood. One in training mode normalizes by the statistics of its own operand: of a constant, that gives
/// a constant (a standardized weight, as timm's `StdConv2d` has it), otherwise the operators that compute it.
pub(super) fn fold(graph: &Graph) -> Option<Edits> {
    let norms = || graph.nodes().filter(|(_, node)| node.is_op("BatchNormalization"));
    norms().next()?;
    let (mut edits, mut budget) = (Edits::new(graph.model()), Budget::of(graph));
    let ranks = Ranks::of(graph);
    let mut changed = false;
    for (id, norm) in norms() {
        let only_first = !(1..5).any(|index| is_used(graph, norm, index));
        if !only_first || norm.output.first().is_none_or(String::is_empty) {
            continue;
        }
        if norm.attr_int("training_mode").unwrap_or(0) != 0 {
            let nodes = if let Some((shape, values)) = standardized(graph, norm, &mut budget) {
                let mut nodes = Expansion::of(norm, &mut edits);
                let constant = nodes.constant("standardized", |name| tensor::from_f32(name, &shape, &values));
                nodes.node("Identity", &[&constant], "copy");
                nodes.into_nodes(&norm.output[0])
            } else if let Some(nodes) = of_batch(graph, &ranks, norm, &mut edits, &mut budget) {
                nodes
            } else {
                continue;
            };
            edits.replace_node(id, nodes);
            changed = true;
            continue;
        }
        let line = Line::of(graph, norm, &mut budget);
        if let Some((conv, folded)) =
            line.as_ref().and_then(|line| line.folded(graph, norm, &mut edits, &mut budget))
        {
            edits.replace_node(conv, vec![folded]);
            edits.remove_node(id);
        } else if let Some(nodes) = line.and_then(|line| line.nodes(&ranks, norm, &mut edits)) {
            edits.replace_node(id, nodes);
        } else if norm.output.len() > 1 {
            let mut lean = norm.clone();
            lean.output.truncate(1);
            edits.replace_node(id, vec![lean]);
        } else {
            continue;
        }
        changed = true;
    }
    changed.then_some(edits)
}

/// `(x − E[x])/√(Var[x] + ε)·γ + β` of a constant `[N, C, …]`, where mean and variance are its own, per channel.
fn standardized(graph: &Graph, norm: &NodeProto, budget: &mut Budget) -> Option<(Vec<usize>, Vec<f32>)> {
    let constant = |index| float_constant(graph, norm.operand(index)?);
    let (x, gamma, beta) = (constant(0)?, constant(1)?, constant(2)?);
    let shape = tensor::shape(x);
    let channels = *shape.get(1)?;
    let each = tensor::len(x).checked_div(channels).filter(|&each| each > 0)?;
    let fits = tensor::len(gamma) == channels && tensor::len(beta) == channels;
    if !fits || !budget.take(tensor::len(x)) || !budget.take(8 * channels) {
        return None;
    }
    let [mut x, gamma, beta] = [x, gamma, beta].map(|constant| tensor::f32s(constant).unwrap_or_default());
    let inner = shape[2..].iter().product::<usize>();
    let channel = |at: usize| at / inner % channels;
    let mean = |x: &[f32], of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; channels];
        for (at, &x) in x.iter().enumerate() {
            sums[channel(at)] += of(channel(at), f64::from(x));
        }
        sums.into_iter().map(|sum| sum / each as f64).collect::<Vec<f64>>()
    };
    let means = mean(&x, &|_, x| x);
    let variances = mean(&x, &|channel, x| (x - means[channel]).powi(2));
    let epsilon = f64::from(norm.attr_float("epsilon").unwrap_or(1e-5));
    for (at, x) in x.iter_mut().enumerate() {
        let channel = channel(at);
        let normal = (f64::from(*x) - means[channel]) / (variances[channel] + epsilon).sqrt();
        *x = (normal * f64::from(gamma[channel]) + f64::from(beta[channel])) as f32;
    }
    x.iter().all(|x| x.is_finite()).then_some((shape, x))
}

/// The same of a value that is computed: mean and variance are those of the batch. `None` if the number of axes is not
/// known.
fn of_batch(
    graph: &Graph,
    ranks: &Ranks,
    norm: &NodeProto,
    edits: &mut Edits,
    budget: &mut Budget,
) -> Option<Vec<NodeProto>> {
    let constant = |index| float_constant(graph, norm.operand(index)?);
    let (x, gamma, beta) = (norm.operand(0)?, constant(1)?, constant(2)?);
    let rank = ranks.get(x).or(ranks.get(&norm.output[0])).filter(|rank| (2..16).contains(rank))?;
    let axes: Vec<i64> = (0..rank as i64).filter(|&axis| axis != 1).collect();
    let channels = tensor::len(gamma);
    if tensor::len(beta) != channels || !budget.take(2 * channels) {
        return None;
    }
    let mut shape = vec![1; rank - 1];
    shape[0] = channels;
    let (gamma, beta) = (tensor::f32s(gamma).ok()?, tensor::f32s(beta).ok()?);
    let opset = graph.opset();
    let mut nodes = Expansion::of(norm, edits);
    let gamma = nodes.constant("gamma", |name| tensor::from_f32(name, &shape, &gamma));
    let beta = nodes.constant("beta", |name| tensor::from_f32(name, &shape, &beta));
    let epsilon = nodes.scalar("epsilon", norm.attr_float("epsilon").unwrap_or(1e-5));
    let mean = nodes.mean(opset, x, &axes, "mean");
    let centred = nodes.node("Sub", &[x, &mean], "centred");
    let square = nodes.node("Mul", &[&centred, &centred], "square");
    let variance = nodes.mean(opset, &square, &axes, "variance");
    let positive = nodes.node("Add", &[&variance, &epsilon], "positive");
    let deviation = nodes.node("Sqrt", &[&positive], "deviation");
    let normal = nodes.node("Div", &[&centred, &deviation], "normal");
    let scaled = nodes.node("Mul", &[&normal, &gamma], "scaled");
    nodes.node("Add", &[&scaled, &beta], "shifted");
    Some(nodes.into_nodes(&norm.output[0]))
}

/// `y = x·slope + offset`, per channel: `slope = γ/√(σ² + ε)`, `offset = β − μ·slope`.
struct Line {
    slope: Vec<f64>,
    offset: Vec<f64>,
}

impl Line {
    fn of(graph: &Graph, norm: &NodeProto, budget: &mut Budget) -> Option<Self> {
        let constant = |index| float_constant(graph, norm.operand(index)?);
        let constants = [constant(1)?, constant(2)?, constant(3)?, constant(4)?];
        let channels = tensor::len(constants[0]);
        if constants.iter().any(|c| tensor::len(c) != channels) || !budget.take(4 * channels) {
            return None;
        }
        let vector = |constant: &TensorProto| tensor::f32s(constant).ok();
        let [gamma, beta, mean, variance] = constants.map(vector);
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        let epsilon = f64::from(norm.attr_float("epsilon").unwrap_or(1e-5));
        let slope: Vec<f64> = gamma
            .iter()
            .zip(&variance)
            .map(|(&g, &v)| f64::from(g) / (f64::from(v) + epsilon).sqrt())
            .collect();
        let shifts = beta.iter().zip(&mean).zip(&slope);
        let offset: Vec<f64> = shifts.map(|((&b, &m), s)| f64::from(b) - f64::from(m) * s).collect();
        let finite = slope.iter().chain(&offset).all(|&x| (x as f32).is_finite());
        finite.then_some(Self { slope, offset })
    }

    /// The Conv before `norm` with the line in its weight and bias: `W·slope` and `b·slope + offset`.
    fn folded(
        &self,
        graph: &Graph,
        norm: &NodeProto,
        edits: &mut Edits,
        budget: &mut Budget,
    ) -> Option<(NodeId, NodeProto)> {
        let x = norm.operand(0)?;
        let id = graph.producer(x)?;
        let conv = graph.node(id);
        if !conv.is_op("Conv") || graph.consumers(x).len() != 1 || graph.is_output(x) {
            return None;
        }
        let channels = self.slope.len();
        let weight = float_constant(graph, conv.operand(1)?)?;
        let shape = tensor::shape(weight);
        if shape.first() != Some(&channels) || channels == 0 {
            return None;
        }
        let bias = match conv.operand(2) {
            Some(bias) => Some(float_constant(graph, bias).filter(|bias| tensor::len(bias) == channels)?),
            None => None,
        };
        let size = tensor::len(weight);
        if !budget.take(size) {
            return None;
        }
        let bias = bias.map_or_else(|| Ok(vec![0.0; channels]), tensor::f32s).ok()?;
        let mut weight = tensor::f32s(weight).ok()?;
        let filter = (size / channels).max(1);
        for (filter, slope) in weight.chunks_mut(filter).zip(&self.slope) {
            for w in filter {
                *w = (f64::from(*w) * slope) as f32;
            }
        }
        let lines = bias.iter().zip(&self.slope).zip(&self.offset);
        let bias: Vec<f32> =
            lines.map(|((&b, slope), offset)| (f64::from(b) * slope + offset) as f32).collect();
        if weight.iter().chain(&bias).any(|x| !x.is_finite()) {
            return None;
        }

        let mut nodes = Expansion::of(conv, edits);
        let weight = nodes.constant("weight", |name| tensor::from_f32(name, &shape, &weight));
        let bias = nodes.constant("bias", |name| tensor::from_f32(name, &[channels], &bias));
        let mut folded = conv.clone();
        folded.input = vec![conv.operand(0)?.to_string(), weight, bias];
        folded.output = vec![norm.output[0].clone()];
        Some((id, folded))
    }

    /// Mul and Add, with constants of `[C, 1, …]`. `None` if the number of axes is not known.
    fn nodes(&self, ranks: &Ranks, norm: &NodeProto, edits: &mut Edits) -> Option<Vec<NodeProto>> {
        let x = norm.operand(0)?;
        let output = &norm.output[0];
        let rank = ranks.get(x).or(ranks.get(output)).filter(|rank| (2..16).contains(rank))?;
        let mut shape = vec![1; rank - 1];
        shape[0] = self.slope.len();
        let mut nodes = Expansion::of(norm, edits);
        let mut constant = |part: &str, values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
            nodes.constant(part, |name| tensor::from_f32(name, &shape, &values))
        };
        let (slope, offset) = (constant("slope", &self.slope), constant("offset", &self.offset));
        let scaled = nodes.node("Mul", &[x, &slope], "scaled");
        nodes.node("Add", &[&scaled, &offset], "shifted");
        Some(nodes.into_nodes(output))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{after, after_in, floats, ops, unchanged};
    use super::*;
    use crate::onnx::AttributeProto;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model, shaped};

    /// Slopes 2 and −1, offsets 0.5 and 3.
    fn statistics() -> Vec<TensorProto> {
        let vector = |name, values: [f32; 2]| tensor::from_f32(name, &[2], &values);
        vec![
            vector("g", [4.0, -3.0]),
            vector("b", [2.5, 1.0]),
            vector("m", [1.0, 2.0]),
            vector("v", [3.0, 8.0]),
            tensor::from_f32("w", &[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]),
        ]
    }

    fn norm(x: &str, outputs: &[&str]) -> NodeProto {
        let norm = node("BatchNormalization", "bn", [x, "g", "b", "m", "v"], outputs.iter().copied());
        norm.with(AttributeProto::float("epsilon", 1.0))
    }

    #[test]
    fn the_conv_before_takes_it_over() {
        let conv = node("Conv", "conv", ["x", "w"], ["h"]);
        let model = after(
            fold,
            vec![conv, norm("h", &["n", "m1", "v1"]), node("Relu", "", ["n"], ["y"])],
            statistics(),
        );
        assert_eq!(ops(&model), "Conv Relu");
        assert_eq!(floats(&model, 0, 1), (vec![2, 1, 1, 2], vec![2.0, 4.0, -3.0, -4.0]));
        assert_eq!(floats(&model, 0, 2), (vec![2], vec![0.5, 3.0]));
        assert_eq!(model.graph().initializer.len(), 2);

        let mut constants = statistics();
        constants.push(tensor::from_f32("c", &[2], &[10.0, 1.0]));
        let conv = node("Conv", "conv", ["x", "w", "c"], ["h"]);
        let model = after(fold, vec![conv, norm("h", &["y"])], constants);
        assert_eq!(floats(&model, 0, 2).1, [20.5, 2.0]);
    }

    #[test]
    fn elsewhere_it_is_mul_and_add() {
        let conv = || node("Conv", "conv", ["x", "w"], ["h"]);
        let both = vec![conv(), norm("h", &["n"]), node("Add", "", ["n", "h"], ["y"])];
        let model = after(fold, both, statistics());
        assert_eq!(ops(&model), "Conv Mul Add Add");
        assert_eq!(floats(&model, 1, 1), (vec![2, 1, 1], vec![2.0, -1.0]));
        assert_eq!(floats(&model, 2, 1), (vec![2, 1, 1], vec![0.5, 3.0]));

        let mut graph = graph("x", "y", vec![norm("x", &["y"])], statistics());
        graph.input[0] = shaped("x", &[7, 2]);
        assert_eq!(floats(&after_in(fold, self::model(graph, 17)), 0, 1), (vec![2], vec![2.0, -1.0]));
    }

    #[test]
    fn a_weight_is_standardized() {
        let mut constants = statistics();
        // Channels of mean 3 and 5, variance 8 and 0.
        constants.push(tensor::from_f32(
            "k",
            &[2, 2, 1],
            &[3.0 - 8.0_f32.sqrt(), 5.0, 3.0 + 8.0_f32.sqrt(), 5.0],
        ));
        let training = norm("k", &["n", "", ""]).with(AttributeProto::int("training_mode", 1));
        let model = after(fold, vec![training, node("Add", "", ["x", "n"], ["y"])], constants);
        assert_eq!(ops(&model), "Identity Add");
        let (shape, values) = floats(&model, 1, 1);
        let root = (8.0_f32 / 9.0).sqrt() * 4.0;
        assert_eq!(shape, [2, 2, 1]);
        for (value, expected) in values.iter().zip([2.5 - root, 1.0, 2.5 + root, 1.0]) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
    }

    #[test]
    fn in_training_mode_the_statistics_are_those_of_the_batch() {
        let training = norm("h", &["y", "", ""]).with(AttributeProto::int("training_mode", 1));
        let model = after(fold, vec![node("Conv", "", ["x", "w"], ["h"]), training], statistics());
        assert_eq!(ops(&model), "Conv ReduceMean Sub Mul ReduceMean Add Sqrt Div Mul Add");
        assert_eq!(model.graph().node[1].attr_ints("axes"), Some(&[0, 2, 3][..]));
        assert_eq!(floats(&model, 8, 1), (vec![2, 1, 1], vec![4.0, -3.0]));
        assert_eq!(floats(&model, 9, 1), (vec![2, 1, 1], vec![2.5, 1.0]));
        assert_eq!(floats(&model, 5, 1).1, [1.0]);
    }

    #[test]
    fn one_that_is_not_understood_stays() {
        unchanged(fold, vec![norm("x", &["y"])], statistics());
        let lean = after(fold, vec![norm("x", &["y", "", "m2"])], statistics());
        assert_eq!(lean.graph().node[0].output, ["y"]);
        // A statistic of training that is used.
        let training = norm("h", &["y", "m1", "v1"]).with(AttributeProto::int("training_mode", 1));
        let used = vec![node("Conv", "", ["x", "w"], ["h"]), training, node("Neg", "", ["m1"], ["z"])];
        unchanged(fold, used, statistics());
        unchanged(fold, vec![node("BatchNormalization", "", [], ["y"])], vec![]);
    }
}
