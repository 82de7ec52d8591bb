//! The recipes' operators as the ONNX standard defines them, in floats: what any correct runtime computes.

use std::collections::HashMap;

use ndarray::{Array4, ArrayD, Axis, Ix2, Zip, stack};
use onnx_ptq4vit::onnx::proto::tensor_proto::DataType;
use onnx_ptq4vit::onnx::{Graph, Model, NodeProto, tensor};

/// `y` of `model` for the input `x`.
pub(crate) fn interpret(model: &Model, x: &ArrayD<f32>) -> ArrayD<f32> {
    let graph = Graph::new(model.clone()).unwrap();
    let mut values = HashMap::from([("x".to_string(), x.clone())]);
    for tensor in &model.graph().initializer {
        let elements = match DataType::try_from(tensor.data_type()).unwrap() {
            DataType::Float => tensor::f32s(tensor).unwrap(),
            _ => tensor::i64s(tensor).unwrap().into_iter().map(|code| code as f32).collect(),
        };
        let array = ArrayD::from_shape_vec(tensor::shape(tensor), elements).unwrap();
        values.insert(tensor.name().to_string(), array);
    }
    for (_, node) in graph.nodes() {
        let inputs: Vec<&ArrayD<f32>> = node.input.iter().map(|name| &values[name]).collect();
        let unsigned = node.input.get(2).and_then(|zero| graph.constant(zero));
        let unsigned = unsigned.is_some_and(|zero| zero.data_type() == i32::from(DataType::Uint8));
        let output = evaluate(node, &inputs, unsigned);
        values.insert(node.output[0].clone(), output);
    }
    values["y"].clone()
}

fn evaluate(node: &NodeProto, inputs: &[&ArrayD<f32>], unsigned: bool) -> ArrayD<f32> {
    match (node.op_type(), inputs) {
        ("Add", [a, b]) => *a + *b,
        ("Sub", [a, b]) => *a - *b,
        ("DequantizeLinear", [codes, scales, _]) if node.attr_int("axis") == Some(0) => {
            let dims: Vec<usize> = (0..codes.ndim()).map(|i| if i == 0 { scales.len() } else { 1 }).collect();
            *codes * &scales.to_shape(dims).unwrap()
        }
        ("Mul", [a, b]) | ("DequantizeLinear", [a, b, _]) => *a * *b,
        ("Div", [a, b]) => *a / *b,
        ("Min", [a, b]) => broadcast(a, b, f32::min),
        ("Max", [a, b]) => broadcast(a, b, f32::max),
        ("Clip", [x, min, max]) => broadcast(&broadcast(x, min, f32::max), max, f32::min),
        ("ThresholdedRelu", [x]) => {
            let alpha = node.attr_float("alpha").unwrap();
            x.mapv(|x| if x > alpha { x } else { 0.0 })
        }
        ("QuantizeLinear", [x, scale, _]) => {
            let (low, high) = if unsigned { (0.0, 255.0) } else { (-128.0, 127.0) };
            broadcast(x, scale, |x, scale| (x / scale).round_ties_even().clamp(low, high))
        }
        ("Transpose", [x]) => {
            let perm: Vec<usize> =
                node.attr_ints("perm").unwrap().iter().map(|&axis| axis as usize).collect();
            x.view().permuted_axes(perm).as_standard_layout().into_owned()
        }
        ("MatMul", [a, b]) => matmul(a, b),
        ("Gather", [x, indices]) => {
            assert_eq!(node.attr_int("axis"), Some(-1));
            let indices: Vec<usize> = indices.iter().map(|&i| i as usize).collect();
            x.select(Axis(x.ndim() - 1), &indices)
        }
        ("Conv", [x, w, bias]) => conv(x, w, bias),
        (op, _) => panic!("the recipes have no {op}"),
    }
}

fn broadcast(a: &ArrayD<f32>, b: &ArrayD<f32>, f: impl Fn(f32, f32) -> f32) -> ArrayD<f32> {
    Zip::from(a).and_broadcast(b).map_collect(|&a, &b| f(a, b))
}

/// With the kernel as its stride and sums in f64.
fn conv(x: &ArrayD<f32>, w: &ArrayD<f32>, bias: &ArrayD<f32>) -> ArrayD<f32> {
    let [m, channels, kh, kw] = *w.shape() else { panic!("a kernel of {:?}", w.shape()) };
    let shape = [x.shape()[0], m, x.shape()[2] / kh, x.shape()[3] / kw];
    Array4::from_shape_fn(shape, |(image, out, row, column)| {
        let term = |(c, i, j)| {
            f64::from(x[[image, c, row * kh + i, column * kw + j]]) * f64::from(w[[out, c, i, j]])
        };
        let sum: f64 = ndarray::indices((channels, kh, kw)).into_iter().map(term).sum();
        sum as f32 + bias[out]
    })
    .into_dyn()
}

/// With sums in f64.
fn matmul(a: &ArrayD<f32>, b: &ArrayD<f32>) -> ArrayD<f32> {
    if a.ndim() > 2 {
        let parts: Vec<ArrayD<f32>> = (0..a.len_of(Axis(0)))
            .map(|i| {
                let part = a.index_axis(Axis(0), i).to_owned();
                if b.ndim() > 2 {
                    matmul(&part, &b.index_axis(Axis(0), i).to_owned())
                } else {
                    matmul(&part, b)
                }
            })
            .collect();
        return stack(Axis(0), &parts.iter().map(|part| part.view()).collect::<Vec<_>>()).unwrap();
    }
    let double = |x: &ArrayD<f32>| x.mapv(f64::from).into_dimensionality::<Ix2>().unwrap();
    double(a).dot(&double(b)).mapv(|x| x as f32).into_dyn()
}
