//! A node of tract's that is not trusted: too large a result is refused before it is computed, a panic is an error.

use std::collections::HashMap;
use std::fmt;

use bytesize::ByteSize;
use tract_core::internal::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::*;

use crate::Error;
use crate::error::guarded;

/// Why a node is not computed.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The node.
    place: String,
    why: String,
    /// Whether the node is sound, but asks for too much.
    too_large: bool,
}

impl Refusal {
    pub(super) fn error(&self) -> Error {
        let make = if self.too_large { Error::limit } else { Error::model };
        make(&self.place, &self.why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl std::error::Error for Refusal {}

/// Puts every node of `model` but its sources behind a guard; `least_ranks` says of some nodes how many axes their first
/// operand has at least.
pub(super) fn wrap(model: &mut InferenceModel, limit: usize, least_ranks: &HashMap<usize, i64>) {
    for node in &mut model.nodes {
        if !InferenceModel::is_source(&node.op) {
            let place = format!("node `{}` ({})", node.name, node.op.name());
            let least_rank = least_ranks.get(&node.id).copied().unwrap_or(0);
            node.op = Box::new(Guard { op: node.op.clone(), place, limit, least_rank });
        }
    }
}

/// Another operator, watched.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    op: Box<dyn InferenceOp>,
    place: String,
    /// Of one result, in bytes.
    limit: usize,
    /// Of the first operand and the result: tract would count axes from before the first one.
    least_rank: i64,
}

impl Guard {
    fn guarded<T>(&self, run: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
        match guarded(run) {
            Ok(outcome) => outcome,
            Err(panic) => Err(self.refusal(format!("is malformed: {panic}"), false)),
        }
    }

    fn refusal(&self, why: String, too_large: bool) -> TractError {
        Refusal { place: self.place.clone(), why, too_large }.into()
    }

    /// An error if one of these facts, known by now, is of a tensor beyond the limit.
    fn check(&self, facts: &[InferenceFact]) -> TractResult<()> {
        for fact in facts {
            let Some(dims) = fact.shape.concretize() else { continue };
            let dims = dims.iter().map(|dim| dim.to_i64().ok()).collect::<Option<TVec<i64>>>();
            let Some(dims) = dims else { continue };
            let bytes = fact.datum_type.concretize().map_or(1, |t| t.size_of());
            let size = dims.iter().try_fold(bytes, |size, &dim| size.checked_mul(usize::try_from(dim).ok()?));
            if size.is_none_or(|size| size > self.limit) {
                let limit = ByteSize(self.limit as u64).display().iec();
                let why = format!("would make a tensor of shape {dims:?}, larger than the limit of {limit}");
                return Err(self.refusal(why, true));
            }
        }
        Ok(())
    }
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Guard {}

impl Op for Guard {
    fn name(&self) -> StaticName {
        self.op.name()
    }

    not_a_typed_op!();
}

impl EvalOp for Guard {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.guarded(|| self.op.eval_out_of_plan(inputs))
    }

    fn state(&self, context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        self.op.state(context)
    }
}

type Facts = (TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>);

impl InferenceOp for Guard {
    fn infer(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<Facts> {
        // First the shapes alone: what follows may compute values.
        let (_, found, _) = self.infer_facts(inputs.clone(), outputs.clone(), observed.clone())?;
        self.check(&found)?;
        let mut op = self.op.clone();
        let facts = self.guarded(|| op.infer(inputs, outputs, observed))?;
        self.op = op;
        self.check(&facts.1)?;
        Ok(facts)
    }

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<Facts> {
        let known = inputs.first().into_iter().chain(outputs.first());
        let rank = known.filter_map(|fact| fact.shape.rank().concretize()).min();
        if let Some(rank) = rank.filter(|&rank| rank < self.least_rank) {
            let why = format!("its axis is -{}, but its operand has {rank} axes", self.least_rank);
            return Err(self.refusal(why, false));
        }
        let mut op = self.op.clone();
        let facts = self.guarded(|| op.infer_facts(inputs, outputs, observed))?;
        self.op = op;
        Ok(facts)
    }

    fn observe_outlets(&self, model: &InferenceModel, node: &InferenceNode) -> TractResult<Vec<OutletId>> {
        self.op.observe_outlets(model, node)
    }

    fn incorporate(
        &self,
        model: &InferenceModel,
        node: &InferenceNode,
    ) -> TractResult<Option<InferenceModelPatch>> {
        self.guarded(|| self.op.incorporate(model, node))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.op.nboutputs()
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        self.guarded(|| self.op.to_typed(source, node, target, mapping))
    }

    as_op!();
}
