//! Steps on small graphs, for unit tests.

use crate::onnx::testing::{graph, model};
use crate::onnx::{Edits, Graph, Model, NodeProto, TensorProto, tensor};

type Step = fn(&Graph) -> Option<Edits>;

/// The model of `nodes` from the input `x` to the output `y`, after a step that changes it.
#[track_caller]
pub(super) fn after(step: Step, nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> Model {
    after_in(step, model(graph("x", "y", nodes, initializers), 17))
}

/// As [`after`], of any model.
#[track_caller]
pub(super) fn after_in(step: Step, mut model: Model) -> Model {
    let edits = step(&Graph::new(model.clone()).unwrap()).expect("the step changes the model");
    edits.apply(&mut model).unwrap();
    model
}

/// The step leaves the model of `nodes` alone.
#[track_caller]
pub(super) fn unchanged(step: Step, nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) {
    let model = model(graph("x", "y", nodes, initializers), 17);
    assert!(step(&Graph::new(model).unwrap()).is_none());
}

/// The operators of the main graph, in order.
pub(super) fn ops(model: &Model) -> String {
    model.graph().node.iter().map(NodeProto::op_type).collect::<Vec<_>>().join(" ")
}

/// What node `at` takes.
pub(super) fn inputs(model: &Model, at: usize) -> Vec<&str> {
    model.graph().node[at].input.iter().map(String::as_str).collect()
}

/// Shape and elements of the float constant that is input `input` of node `at`.
#[track_caller]
pub(super) fn floats(model: &Model, at: usize, input: usize) -> (Vec<usize>, Vec<f32>) {
    let graph = Graph::new(model.clone()).unwrap();
    let constant = graph.constant(&model.graph().node[at].input[input]).expect("a constant");
    (tensor::shape(constant), tensor::f32s(constant).unwrap())
}

/// The elements of the integer constant that is input `input` of node `at`.
#[track_caller]
pub(super) fn ints(model: &Model, at: usize, input: usize) -> Vec<i64> {
    let graph = Graph::new(model.clone()).unwrap();
    tensor::i64s(graph.constant(&model.graph().node[at].input[input]).expect("a constant")).unwrap()
}
