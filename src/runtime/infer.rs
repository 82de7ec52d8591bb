//! What tract can tell of a model without running it: the shapes of its values, and values that no input decides.

use std::collections::HashMap;

use prost::Message as _;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::{DimLike as _, InferenceFact};

use super::import;
use crate::error::guarded;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{TensorShapeProto, TypeProto, type_proto};
use crate::onnx::{DataType, Model, TensorProto, ValueInfoProto, tensor};

/// Float constants of more elements are not looked at: only their shapes matter.
const LARGEST_VALUE: usize = 256;

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

    /// The elements of a value of integers or booleans that no input decides.
    pub(crate) fn ints(&self, value: &str) -> Option<Vec<i64>> {
        let value = self.facts.get(value)?.value.concretize()?;
        let ints = guarded(|| value.cast_to::<i64>().map(std::borrow::Cow::into_owned)).ok()?.ok()?;
        Some(ints.to_plain_array_view::<i64>().ok()?.iter().copied().collect())
    }
}

/// What can be told of `model`, whose input has `dims`, `None` where the file leaves them open; nothing of what tract
/// cannot read.
pub(crate) fn infer(model: &Model, dims: [Option<usize>; 4]) -> Facts {
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
        for outlet in inference.outputs.clone() {
            inference.set_outlet_fact(outlet, InferenceFact::default())?;
        }
        inference.set_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?;
        import::guard(&mut inference, model.limits.tensor_bytes);
        // What one node does not tell, the others still do.
        let _ = inference.analyse(true);
        let fact =
            |(name, outlet): (String, OutletId)| Some((name, inference.outlet_fact(outlet).ok()?.clone()));
        Ok(Facts { facts: outlets.into_iter().filter_map(fact).collect(), symbols })
    };
    guarded(infer).ok().and_then(Result::ok).unwrap_or_default()
}

/// The messages of `model` with inputs in the place of its large float constants.
fn without_weights(model: &Model) -> crate::onnx::ModelProto {
    let mut proto = import::with_defaults(model);
    let Some(graph) = &mut proto.graph else { return proto };
    let is_weight = |tensor: &TensorProto| {
        let large = tensor::shape(tensor).iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        tensor.data_type() == DataType::Float as i32 && large.is_none_or(|n| n > LARGEST_VALUE)
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
