//! What tract can tell of a model without running it: the shapes of its values, and values that no input decides.

use std::collections::HashMap;

use prost::Message as _;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{DimLike as _, InferenceFact};
use tract_onnx::tract_hir::ops::unimpl::UnimplementedOp;

use super::import;
use crate::error::guarded;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{TensorShapeProto, TypeProto, type_proto};
use crate::onnx::{DataType, Graph, Model, NodeProto, TensorProto, ValueInfoProto, tensor};

/// Float constants of more elements are not looked at: only their shapes matter.
const LARGEST_VALUE: usize = 256;

/// How many values are looked at to trust one.
const MOST_STEPS: usize = 64;

/// The letters of open dims, in the order `[N, C, H, W]`.
const OPEN: [&str; 4] = ["N", "C", "H", "W"];

/// Facts by the names of the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    facts: HashMap<String, InferenceFact>,
    symbols: Vec<(usize, Symbol)>,
}

impl Facts {
    /// The number of axes of a value.
    pub(crate) fn rank(&self, value: &str) -> Option<usize> {
        self.facts.get(value)?.shape.rank().concretize().map(|rank| rank as usize)
    }

    /// Whether a value is of a float type; `false` where that cannot be told.
    pub(crate) fn is_float(&self, value: &str) -> bool {
        self.facts.get(value).and_then(|fact| fact.datum_type.concretize()).is_some_and(|t| t.is_float())
    }

    /// The dims of a value, `None` where they depend on what the file leaves open.
    pub(crate) fn dims(&self, value: &str) -> Option<Vec<Option<usize>>> {
        let fact = self.facts.get(value)?;
        let dims = fact.shape.concretize().map(|dims| dims.iter().map(|dim| dim.to_usize().ok()).collect());
        dims.or_else(|| {
            let rank = self.rank(value)?;
            let known = |at: usize| fact.shape.dim(at).and_then(|dim| dim.concretize()?.to_usize().ok());
            Some((0..rank).map(known).collect())
        })
    }

    /// The dims of a value for an input of `shape`.
    pub(crate) fn dims_at(&self, value: &str, shape: [usize; 4]) -> Option<Vec<usize>> {
        let symbols = self
            .symbols
            .iter()
            .fold(SymbolValues::default(), |values, (axis, symbol)| values.with(symbol, shape[*axis] as i64));
        let dims = self.facts.get(value)?.shape.concretize()?;
        dims.iter().map(|dim| dim.eval(&symbols).to_usize().ok()).collect()
    }

    /// The elements of a value of integers or booleans that neither an input nor an open dim decides.
    pub(crate) fn ints(&self, graph: &Graph, value: &str) -> Option<Vec<i64>> {
        self.is_decided(graph, value, &mut { MOST_STEPS }).then(|| self.concrete(graph.resolve(value)))?
    }

    /// Whether no open dim stands behind `value`: tract calls `N = 3` false, where it may be either.
    fn is_decided(&self, graph: &Graph, value: &str, steps: &mut usize) -> bool {
        let value = graph.resolve(value);
        let Some(left) = steps.checked_sub(1) else { return false };
        *steps = left;
        if self.concrete(value).is_none() && graph.constant(value).is_none() {
            return false;
        }
        let maker = |value: &str| Some(graph.node(graph.producer(graph.resolve(value))?));
        let Some(node) = maker(value) else { return true };
        let is_shape = |node: &NodeProto| node.is_op("Shape");
        is_shape(node)
            || (node.is_op("Gather") || node.is_op("Slice"))
                && node.operand(0).and_then(maker).is_some_and(is_shape)
            || node.input.iter().filter(|x| !x.is_empty()).all(|x| self.is_decided(graph, x, steps))
    }

    /// What tract computes for a value of integers or booleans.
    fn concrete(&self, value: &str) -> Option<Vec<i64>> {
        let value = self.facts.get(value)?.value.concretize()?;
        let ints = guarded(|| value.cast_to::<i64>().map(std::borrow::Cow::into_owned)).ok()?.ok()?;
        Some(ints.to_plain_array_view::<i64>().ok()?.iter().copied().collect())
    }
}

/// What can be told of `model`, whose input has `dims`, `None` where the file leaves them open; nothing of what tract
/// cannot read.
pub(crate) fn infer(model: &Model, dims: [Option<usize>; 4]) -> Facts {
    // What one node does not tell, the others still do.
    analyse(model, dims, true).unwrap_or_default()
}

/// Whether no shape of `model` contradicts another for an input of `shape`.
pub(crate) fn shapes_agree(model: &Model, shape: [usize; 4]) -> bool {
    analyse(model, shape.map(Some), false).is_some()
}

/// What tract's inference finds; `None` if it fails, unless it is `lenient`.
fn analyse(model: &Model, dims: [Option<usize>; 4], lenient: bool) -> Option<Facts> {
    if !import::are_in_range(model.graph()) {
        return None;
    }
    let infer = || -> TractResult<Facts> {
        let proto = ModelProto::decode(&*without_weights(model).encode_to_vec())?;
        let parsed = import::reader().parse(&proto, None)?;
        let (mut inference, outlets) = (parsed.model, parsed.outlets_by_name);
        let mut symbols = Vec::new();
        let shape: TVec<TDim> = dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| {
                dim.map_or_else(
                    || {
                        let symbol = inference.symbols.new_with_prefix(OPEN[axis]);
                        symbols.push((axis, symbol.clone()));
                        symbol.to_dim()
                    },
                    |dim| dim.to_dim(),
                )
            })
            .collect();
        import::enter(&mut inference, &outlets, InferenceFact::dt_shape(f32::datum_type(), shape), model)?;
        // What takes a result of an If says nothing of the branch that is not taken.
        for id in 0..inference.nodes().len() {
            if inference.node(id).op.name() == "If" {
                let outputs = inference.node(id).outputs.len();
                inference.node_mut(id).op = Box::new(UnimplementedOp::new(outputs, "If", "not decided"));
            }
        }
        let outcome = inference.analyse(lenient);
        if !lenient {
            outcome?;
        }
        let fact =
            |(name, outlet): (String, OutletId)| Some((name, inference.outlet_fact(outlet).ok()?.clone()));
        Ok(Facts { facts: outlets.into_iter().filter_map(fact).collect(), symbols })
    };
    guarded(infer).ok()?.ok()
}

/// The messages of `model` with inputs in the place of its large float constants.
fn without_weights(model: &Model) -> crate::onnx::ModelProto {
    let mut proto = import::respelled(model);
    let Some(graph) = &mut proto.graph else { return proto };
    let is_weight = |tensor: &TensorProto| {
        tensor.data_type() == DataType::Float as i32 && tensor::len(tensor) > LARGEST_VALUE
    };
    let weights: Vec<TensorProto> = graph.initializer.extract_if(.., |tensor| is_weight(tensor)).collect();
    for weight in weights {
        graph.input.retain(|input| input.name() != weight.name());
        let dim =
            |&dim: &i64| Dimension { value: Some(dimension::Value::DimValue(dim)), ..Default::default() };
        let shape = TensorShapeProto { dim: weight.dims.iter().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(weight.data_type()), shape: Some(shape) };
        let value = Some(type_proto::Value::TensorType(tensor));
        graph.input.push(ValueInfoProto {
            name: weight.name.clone(),
            r#type: Some(TypeProto { value, ..Default::default() }),
            ..Default::default()
        });
    }
    proto
}
