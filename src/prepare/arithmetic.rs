//! What operators compute from float constants alone: weights behind a Cast, the sums of low-rank adapters, weight
//! normalization, and the small networks of Gemm and Relu that make a bias of relative positions.

use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Zip, concatenate};

use super::constants::index;
use crate::onnx::{DataType, Graph, NodeProto, tensor};

/// The result of a node whose inputs are the constants `inputs`; `None` for other operators, for operands that do not fit
/// each other, and for a result of more than `most` elements.
pub(super) fn compute(
    graph: &Graph,
    node: &NodeProto,
    inputs: &[ArrayViewD<f32>],
    most: usize,
) -> Option<ArrayD<f32>> {
    let unary = |f: fn(f32) -> f32| Some(inputs.first()?.mapv(f));
    let binary = |f: fn(f32, f32) -> f32| match inputs {
        [a, b] => elementwise(a, b, most, f),
        _ => None,
    };
    match node.op_type() {
        "Cast" => (node.attr_int("to") == Some(DataType::Float as i64)).then(|| inputs[0].to_owned()),
        "Add" => binary(|a, b| a + b),
        "Sub" => binary(|a, b| a - b),
        "Mul" => binary(|a, b| a * b),
        "Div" => binary(|a, b| a / b),
        "Pow" => binary(f32::powf),
        "Max" => binary(f32::max),
        "Min" => binary(f32::min),
        "Sqrt" => unary(f32::sqrt),
        "Neg" => unary(|x| -x),
        "Exp" => unary(f32::exp),
        "Abs" => unary(f32::abs),
        "Reciprocal" => unary(f32::recip),
        "Relu" => unary(|x| if x < 0.0 { 0.0 } else { x }),
        "Gemm" => gemm(node, inputs, most),
        "MatMul" => match inputs {
            [a, b] => matmul(a, b, most),
            _ => None,
        },
        "Concat" => {
            let rank = inputs.first()?.ndim();
            let total: usize = inputs.iter().map(ArrayViewD::len).sum();
            let axis = index(node.attr_int("axis")?, rank).filter(|_| total <= most)?;
            concatenate(Axis(axis), inputs).ok()
        }
        "ReduceSum" => reduce(graph, node, inputs, |x, axis| x.sum_axis(axis)),
        "ReduceMean" => reduce(graph, node, inputs, |x, axis| x.sum_axis(axis) / x.len_of(axis) as f32),
        "ReduceL2" => Some(
            reduce(graph, node, &[inputs.first()?.mapv(|x| x * x).view()], |x, axis| x.sum_axis(axis))?
                .mapv(f32::sqrt),
        ),
        _ => None,
    }
}

/// How many of the inputs of `node` are float operands; `None` for operators that [`compute`] does not know.
pub(super) fn operands(node: &NodeProto) -> Option<usize> {
    const UNARY: &[&str] =
        &["Cast", "Sqrt", "Neg", "Exp", "Abs", "Reciprocal", "Relu", "ReduceSum", "ReduceMean", "ReduceL2"];
    const BINARY: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "MatMul"];
    match node.op_type() {
        op if UNARY.contains(&op) => Some(1),
        op if BINARY.contains(&op) => Some(2),
        "Concat" | "Gemm" => Some(node.input.len()),
        _ => None,
    }
}

/// ONNX's (NumPy's) broadcasting of both operands.
fn elementwise(
    a: &ArrayViewD<f32>,
    b: &ArrayViewD<f32>,
    most: usize,
    f: fn(f32, f32) -> f32,
) -> Option<ArrayD<f32>> {
    let rank = a.ndim().max(b.ndim());
    let dim =
        |x: &ArrayViewD<f32>, at: usize| (at + x.ndim()).checked_sub(rank).map_or(1, |at| x.shape()[at]);
    let dims = (0..rank).map(|at| match (dim(a, at), dim(b, at)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    });
    let dims: Vec<usize> = dims.collect::<Option<_>>()?;
    dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).filter(|&n| n <= most)?;
    let shape = IxDyn(&dims);
    Some(Zip::from(a.broadcast(shape.clone())?).and(b.broadcast(shape)?).map_collect(|&a, &b| f(a, b)))
}

/// A product of two matrices.
fn matmul(a: &ArrayViewD<f32>, b: &ArrayViewD<f32>, most: usize) -> Option<ArrayD<f32>> {
    let [a, b] = [a, b].map(|x| x.view().into_dimensionality::<ndarray::Ix2>().ok());
    let (a, b) = (a?, b?);
    let fits = a.ncols() == b.nrows() && a.nrows().checked_mul(b.ncols())? <= most;
    fits.then(|| a.dot(&b).into_dyn())
}

/// `αA'·B' + βC`.
fn gemm(node: &NodeProto, inputs: &[ArrayViewD<f32>], most: usize) -> Option<ArrayD<f32>> {
    let [a, b, c @ ..] = inputs else { return None };
    let turned = |x: &ArrayViewD<f32>, flag: &str| match node.attr_int(flag).unwrap_or(0) {
        0 => x.to_owned(),
        _ => x.to_owned().reversed_axes(),
    };
    let factor = |name: &str| node.attr_float(name).unwrap_or(1.0);
    let product = matmul(&turned(a, "transA").view(), &turned(b, "transB").view(), most)? * factor("alpha");
    match c {
        [] => Some(product),
        [c] => elementwise(&product.view(), &(c * factor("beta")).view(), most, |x, c| x + c)
            .filter(|sum| sum.shape() == product.shape()),
        _ => None,
    }
}

/// Along the axes of the attribute or of the second input; along all if neither is there.
fn reduce(
    graph: &Graph,
    node: &NodeProto,
    inputs: &[ArrayViewD<f32>],
    along: fn(&ArrayD<f32>, Axis) -> ArrayD<f32>,
) -> Option<ArrayD<f32>> {
    let mut x = inputs.first()?.to_owned();
    let given = match (node.attr_ints("axes"), node.operand(1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(axes)) => tensor::i64s(graph.constant(axes)?).ok()?,
        (None, None) => (0..x.ndim() as i64).collect(),
    };
    let mut axes: Vec<usize> = given.iter().map(|&at| index(at, x.ndim())).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    let keep = node.attr_int("keepdims").unwrap_or(1) != 0;
    for axis in axes.into_iter().rev() {
        x = along(&x, Axis(axis));
        if keep {
            x = x.insert_axis(Axis(axis));
        }
    }
    Some(x)
}
