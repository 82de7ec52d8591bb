//! One gradient check for every rule of the table, against central differences.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, MultiBroadcastTo, Pad, PadMode, Slice, StridedSlice, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::change_axes::AxisOp;
use tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_core::ops::cnn::{PaddingSpec, PoolSpec};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::logic::Iff;
use tract_core::ops::math;
use tract_core::ops::nn::{DataFormat, GeluApproximate, Reduce, Reducer, Sigmoid, Softmax, SoftmaxKind};
use tract_ndarray::{ArrayD, Axis, stack};

use super::{Network, rules};

/// Central differences in f32 with this step…
const STEP: f32 = 1e-2;
/// …are this close to the slope of functions of slope about 1 (absolute, and relative to the largest slope).
const TOLERANCE: f32 = 3e-3;

struct Case {
    op: Box<dyn TypedOp>,
    /// The inputs; gradients of the first `differentiable` ones are checked.
    inputs: Vec<Tensor>,
    differentiable: usize,
}

/// Values in 0.4…1.6, all different, so that no kink or pole is near.
fn values(shape: &[usize], seed: usize) -> Tensor {
    let len: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..len).map(|i| 0.4 + ((i * 37 + seed * 61 + 11) % 97) as f32 / 97.0 * 1.2).collect();
    Tensor::from_shape(shape, &data).unwrap()
}

fn case(op: impl Into<Box<dyn TypedOp>>, shapes: &[&[usize]]) -> Case {
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| values(s, i)).collect();
    Case { op: op.into(), differentiable: inputs.len(), inputs }
}

fn unary(op: impl tract_core::ops::element_wise::ElementWiseMiniOp) -> Case {
    case(ElementWiseOp(Box::new(op), None), &[&[2, 3]])
}

fn binary(op: impl tract_core::ops::binary::BinMiniOp) -> Case {
    case(TypedBinOp(Box::new(op), None), &[&[2, 3, 2], &[1, 3, 1]])
}

/// `x` among others that carry no gradient.
fn with_constants(op: impl Into<Box<dyn TypedOp>>, x: &[usize], constants: Vec<Tensor>) -> Case {
    let mut case = case(op, &[x]);
    case.inputs.extend(constants);
    case
}

fn einsum(expression: &str) -> EinSum {
    EinSum::new(expression.parse().unwrap(), f32::datum_type())
}

fn conv(padding: PaddingSpec, group: usize, dilation: usize) -> Conv {
    let pool_spec = PoolSpec::new(
        DataFormat::NCHW,
        tvec!(3, 2),
        padding,
        Some(tvec!(dilation, 1)),
        Some(tvec!(2, 1)),
        4,
        6,
    );
    Conv::new(pool_spec, KernelFormat::OIHW, group, None)
}

/// With the weight (output channels, input channels of a group, 3, 2) and a bias as constants.
fn conv_case(op: Conv) -> Case {
    let w = values(&[6, 4 / op.group, 3, 2], 5);
    with_constants(op, &[1, 4, 7, 5], vec![w, values(&[6], 6)])
}

fn cases() -> Vec<Case> {
    let dims = |d: &[usize]| -> TVec<TDim> { d.iter().map(tract_core::prelude::ToDim::to_dim).collect() };
    let to = |shape: &[usize]| MultiBroadcastTo { shape: ShapeFact::from_dims(dims(shape)) };
    let strided = StridedSlice {
        optional_axes_input: Some(3),
        optional_steps_input: Some(4),
        begin_mask: 0,
        end_mask: 0,
        shrink_axis_mask: 0,
    };
    let i64s = |x: &[i64]| tensor1(x);
    let mask = Tensor::from_shape(&[2, 3], &[true, false, false, true, true, false]).unwrap();
    let mut iff = case(Iff, &[&[2, 3], &[2, 3], &[1, 3]]);
    iff.inputs[0] = mask;
    vec![
        case(einsum("amk,kn->amn"), &[&[2, 3, 4], &[4, 5]]),
        case(einsum("mk,nk->mn"), &[&[3, 4], &[5, 4]]),
        case(einsum("abmk,abkn->abmn"), &[&[2, 2, 3, 4], &[2, 2, 4, 2]]),
        case(einsum("abmk,kn->abmn"), &[&[2, 2, 3, 4], &[4, 2]]),
        case(einsum("bmk,bkn->nbm"), &[&[2, 3, 4], &[1, 4, 2]]),
        conv_case(conv(PaddingSpec::Valid, 1, 1)),
        conv_case(conv(PaddingSpec::Explicit(tvec!(1, 1), tvec!(2, 0)), 2, 1)),
        conv_case(conv(PaddingSpec::SameUpper, 1, 2)),
        binary(math::Add),
        binary(math::Sub),
        binary(math::Mul),
        binary(math::Div),
        binary(math::Pow),
        binary(math::Min),
        binary(math::Max),
        unary(math::Neg {}),
        unary(math::Abs {}),
        unary(math::Exp {}),
        unary(math::Ln {}),
        unary(math::Square {}),
        unary(math::Sqrt {}),
        unary(math::Rsqrt {}),
        unary(math::Recip {}),
        unary(math::Erf {}),
        unary(GeluApproximate { fast_impl: false }),
        unary(math::Tanh {}),
        unary(Sigmoid {}),
        case(Cast { to: f32::datum_type() }, &[&[2, 3]]),
        iff,
        case(Softmax::new(tvec!(1), None, SoftmaxKind::Softmax), &[&[2, 5, 2]]),
        case(Reduce::new(tvec!(1), Reducer::Sum), &[&[2, 3, 2]]),
        case(AxisOp::Reshape(1, dims(&[6]), dims(&[2, 3])), &[&[2, 6, 2]]),
        case(AxisOp::Add(1), &[&[2, 3]]),
        case(AxisOp::Rm(1), &[&[2, 1, 3]]),
        case(AxisOp::Move(0, 2), &[&[2, 3, 4]]),
        case(AxisOp::Move(2, 0), &[&[2, 3, 4]]),
        case(TypedConcat { axis: 1 }, &[&[2, 3], &[2, 1]]),
        case(Pad { pads: vec![(1, 0), (0, 2)], mode: PadMode::Constant(rctensor0(0f32)) }, &[&[2, 3]]),
        case(Slice::new(1, 1, 3), &[&[2, 4]]),
        with_constants(strided, &[5, 3], vec![i64s(&[4]), i64s(&[0]), i64s(&[0]), i64s(&[-2])]),
        with_constants(Gather::new(0), &[4, 2], vec![i64s(&[2, 0, 2])]),
        case(to(&[2, 3, 4]), &[&[3, 1]]),
    ]
}

/// `⟨weights, op(inputs)⟩` and its gradient, through the public way: a one-node network.
fn network(case: &Case, input: usize) -> Network {
    let mut model = TypedModel::default();
    let mut wires = tvec!();
    for (i, tensor) in case.inputs.iter().enumerate() {
        wires.push(if i == input {
            model.add_source("x", tensor.datum_type().fact(tensor.shape())).unwrap()
        } else {
            model.add_const(format!("c{i}"), tensor.clone()).unwrap()
        });
    }
    let out = model.wire_node("op", case.op.clone(), &wires).unwrap();
    model.select_output_outlets(&out).unwrap();
    Network::new(model, usize::MAX / 2).unwrap()
}

fn check(case: &Case, input: usize) {
    let name = format!("{} {:?}, input {input}", case.op.name(), case.op);
    let network = network(case, input);
    let (source, out) = (network.model.inputs[0], network.model.outputs[0]);
    let x: ArrayD<f32> = case.inputs[input].to_plain_array_view().unwrap().to_owned();
    let run = |x: &ArrayD<f32>| network.forward(x.clone().into_tensor(), &[out]).unwrap();
    let tape = run(&x);
    let weights = {
        let shape = tape.value(out).unwrap().shape().to_vec();
        values(&shape, 9).to_plain_array_view::<f32>().unwrap().to_owned() - 1.0
    };
    // Two seeds at once: the second is minus twice the first.
    let mut grads = None;
    let seeds = stack(Axis(0), &[weights.view(), (&weights * -2.0).view()]).unwrap();
    tape.backward(vec![(out, seeds)], &[source], |_, found| {
        grads = Some(found.clone());
        Ok(())
    })
    .unwrap();
    let grads = grads.expect("the source was wanted");
    let grad = grads.index_axis(Axis(0), 0);
    assert_eq!(grads.index_axis(Axis(0), 1), &grad * -2.0, "{name}");
    let loss = |x: &ArrayD<f32>| -> f32 { (&run(x).value(out).unwrap() * &weights).sum() };
    let slopes: Vec<f32> = (0..x.len())
        .map(|i| {
            let moved = |by: f32| {
                let mut x = x.clone();
                x.as_slice_mut().unwrap()[i] += by;
                loss(&x)
            };
            (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
        })
        .collect();
    let largest = slopes.iter().fold(1f32, |a, b| a.max(b.abs()));
    for (g, s) in grad.iter().zip(&slopes) {
        assert!((g - s).abs() <= TOLERANCE * largest, "{name}: rule {g}, differences {s}");
    }
}

#[test]
fn every_rule_agrees_with_central_differences() {
    let cases = cases();
    for case in &cases {
        let first = usize::from(case.op.is::<Iff>());
        for input in first..case.differentiable {
            check(case, input);
        }
    }
    for (name, ..) in rules::RULES {
        assert!(cases.iter().any(|c| c.op.name() == *name), "rule {name} has no case");
    }
}

#[test]
fn an_op_without_a_rule_is_named() {
    let case = unary(math::Cos {});
    let network = network(&case, 0);
    let tape = network.forward(case.inputs[0].clone(), &[]).unwrap();
    let model = &network.model;
    let seeds = ArrayD::ones(vec![1, 2, 3]);
    let error =
        tape.backward(vec![(model.outputs[0], seeds)], &[model.inputs[0]], |_, _| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "unsupported: node `op`: op Cos has no gradient rule");
}
