//! One gradient check for every rule of the table, against central differences.

mod cases;

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::cast;
use tract_core::ops::logic::comp_gt;
use tract_core::ops::math;
use tract_core::ops::nn::{Reduce, Reducer};
use tract_ndarray::{ArrayD, Axis, stack};

use self::cases::{Case, case, cases, unary, values};
use super::{Network, rules};

/// Central differences in f32 with this step…
const STEP: f32 = 1e-2;
/// …are this close to the slope of functions of slope about 1 (absolute, and relative to the largest slope).
const TOLERANCE: f32 = 3e-3;

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
        for &input in &case.differentiable {
            check(case, input);
        }
    }
    for (name, ..) in rules::RULES {
        assert!(cases.iter().any(|c| c.op.name() == *name), "rule {name} has no case");
    }
}

#[test]
fn an_op_without_a_rule_is_named() {
    let case = unary(math::PowConst { exponent: 3.0 });
    let network = network(&case, 0);
    let tape = network.forward(case.inputs[0].clone(), &[]).unwrap();
    let model = &network.model;
    let seeds = ArrayD::ones(vec![1, 2, 3]);
    let error =
        tape.backward(vec![(model.outputs[0], seeds)], &[model.inputs[0]], |_, _| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "unsupported: node `op`: op PowConst has no gradient rule");
}

#[test]
fn no_gradient_flows_through_a_mask() {
    let x = tensor1(&[-1f32, 2.0, 0.5]);
    let mut model = TypedModel::default();
    let source = model.add_source("x", f32::fact([3])).unwrap();
    let zero = model.add_const("zero", tensor1(&[0f32])).unwrap();
    let positive = model.wire_node("positive", TypedBinOp(comp_gt(), None), &[source, zero]).unwrap()[0];
    let mask = model.wire_node("mask", cast(f32::datum_type()), &[positive]).unwrap()[0];
    let relu = model.wire_node("relu", math::mul(), &[source, mask]).unwrap()[0];
    model.select_output_outlets(&[relu]).unwrap();
    let network = Network::new(model, usize::MAX / 2).unwrap();
    let seeds = ArrayD::ones(vec![1, 3]);
    let found = |_, grads: &ArrayD<f32>| {
        assert_eq!(grads.iter().copied().collect::<Vec<_>>(), [0.0, 1.0, 1.0]);
        Ok(())
    };
    network.forward(x, &[]).unwrap().backward(vec![(relu, seeds)], &[source], found).unwrap();
}

#[test]
fn equal_maxima_share_the_gradient() {
    let case = Case {
        inputs: vec![tensor1(&[2f32, 1.0, 2.0])],
        ..case(Reduce::new(tvec!(0), Reducer::Max), &[&[3]])
    };
    let network = network(&case, 0);
    let (source, out) = (network.model.inputs[0], network.model.outputs[0]);
    let found = |_, grads: &ArrayD<f32>| {
        assert_eq!(grads.iter().copied().collect::<Vec<_>>(), [0.5, 0.0, 0.5]);
        Ok(())
    };
    let tape = network.forward(case.inputs[0].clone(), &[]).unwrap();
    tape.backward(vec![(out, ArrayD::ones(vec![1, 1]))], &[source], found).unwrap();
}
