//! Changes a sound model at places and in ways that bytes choose: what fuzzing bytes of a file would hardly ever reach.

use onnx_ptq4vit::onnx::proto::tensor_shape_proto::dimension;
use onnx_ptq4vit::onnx::proto::type_proto;
use onnx_ptq4vit::onnx::{GraphProto, ModelProto, NodeProto, tensor};

/// Choices, each of which takes two bytes; the first of all once these are used up.
pub(crate) struct Choices<'b>(pub(crate) &'b [u8]);

impl Choices<'_> {
    /// Less than `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let (taken, rest) = self.0.split_at(self.0.len().min(2));
        self.0 = rest;
        taken.iter().fold(0, |all, &byte| all << 8 | usize::from(byte)) % count
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const FLOATS: [f32; 14] =
    [0.0, -0.0, 1e-42, 1e-30, 1.0, -1.0, 1e5, 1e10, 1e19, 1e22, 1e30, f32::MAX, f32::MIN, f32::INFINITY];
const INTS: [i64; 14] = [0, 1, -1, 2, 3, -2, 7, 64, -7, 1 << 16, 1 << 31, 1 << 40, i64::MAX, i64::MIN];

/// Makes one to four changes.
pub(crate) fn mutate(model: &mut ModelProto, choices: &mut Choices) {
    for _ in 0..=choices.below(4) {
        let kind = choices.below(12);
        if kind == 11 {
            let import = choices.below(model.opset_import.len().max(1));
            if let Some(import) = model.opset_import.get_mut(import) {
                import.version = Some(choices.below(31) as i64);
            }
        } else if let Some(graph) = &mut model.graph {
            change(graph, kind, choices);
        }
    }
}

fn change(graph: &mut GraphProto, kind: usize, choices: &mut Choices) {
    match kind {
        0..=2 => constant(graph, kind, choices),
        3 => sizes(graph, choices),
        _ if graph.node.is_empty() => {}
        4 => drop_node(graph, choices),
        _ => {
            let (at, other) = (choices.below(graph.node.len()), choices.below(graph.node.len()));
            let other = graph.node[other].clone();
            node(&mut graph.node[at], &other, kind, choices);
        }
    }
}

/// Changes elements of a constant, or its shape, or takes elements away.
fn constant(graph: &mut GraphProto, kind: usize, choices: &mut Choices) {
    if graph.initializer.is_empty() {
        return;
    }
    let at = choices.below(graph.initializer.len());
    let constant = &mut graph.initializer[at];
    let (name, dims) = (constant.name().to_string(), tensor::shape(constant));
    match kind {
        0 => {
            if let Ok(mut values) = tensor::f32s(constant)
                && !values.is_empty()
            {
                let len = values.len();
                for _ in 0..=choices.below(3) {
                    values[choices.below(len)] = choices.of(&FLOATS);
                }
                *constant = tensor::from_f32(&name, &dims, &values);
            } else if let Ok(mut values) = tensor::i64s(constant)
                && !values.is_empty()
            {
                let at = choices.below(values.len());
                values[at] = choices.of(&INTS);
                *constant = tensor::from_i64(&name, &dims, &values);
            }
        }
        1 if !dims.is_empty() => {
            let (i, j) = (choices.below(dims.len()), choices.below(dims.len()));
            constant.dims.swap(i, j);
        }
        1 => constant.dims.push(1),
        _ => constant.dims.reverse(),
    }
}

/// Changes a size of an input or an output.
fn sizes(graph: &mut GraphProto, choices: &mut Choices) {
    let all = [&mut graph.input, &mut graph.output, &mut graph.value_info];
    let values: Vec<_> = all.into_iter().flatten().collect();
    if values.is_empty() {
        return;
    }
    let at = choices.below(values.len());
    let value = values.into_iter().nth(at).and_then(|value| value.r#type.as_mut()?.value.as_mut());
    if let Some(type_proto::Value::TensorType(of)) = value
        && let Some(shape) = of.shape.as_mut().filter(|shape| !shape.dim.is_empty())
    {
        let at = choices.below(shape.dim.len());
        shape.dim[at].value = match choices.below(4) {
            0 => None,
            1 => Some(dimension::Value::DimParam("N".into())),
            _ => Some(dimension::Value::DimValue(choices.of(&INTS))),
        };
    }
}

/// Takes out a node; whoever took its result takes what it took.
fn drop_node(graph: &mut GraphProto, choices: &mut Choices) {
    let dropped = graph.node.remove(choices.below(graph.node.len()));
    let instead = dropped.input.first().cloned().unwrap_or_default();
    let takers = graph.node.iter_mut().flat_map(|node| &mut node.input);
    for taken in takers.filter(|taken| dropped.output.contains(taken)) {
        taken.clone_from(&instead);
    }
}

fn node(node: &mut NodeProto, other: &NodeProto, kind: usize, choices: &mut Choices) {
    match kind {
        5 => node.op_type.clone_from(&other.op_type),
        6 if !node.input.is_empty() => {
            let at = choices.below(node.input.len());
            let values: Vec<&String> = other.input.iter().chain(&other.output).collect();
            if !values.is_empty() {
                node.input[at].clone_from(values[choices.below(values.len())]);
            }
        }
        7 => drop(node.input.pop()),
        8 => node.input.reverse(),
        9 => node.attribute.clone_from(&other.attribute),
        _ if !node.attribute.is_empty() => {
            let at = choices.below(node.attribute.len());
            let attribute = &mut node.attribute[at];
            if choices.below(4) == 0 {
                node.attribute.remove(at);
            } else if !attribute.ints.is_empty() {
                let at = choices.below(attribute.ints.len());
                attribute.ints[at] = choices.of(&INTS);
            } else if attribute.i.is_some() {
                attribute.i = Some(choices.of(&INTS));
            } else if attribute.f.is_some() {
                attribute.f = Some(choices.of(&FLOATS));
            } else {
                attribute.s = None;
            }
        }
        _ => {}
    }
}
