//! tract: the way in for a file that is not trusted, the float model, and its gradients.
//!
//! Beside `integer`, whose operators are tract's, this is the only place that knows tract.

mod autodiff;
mod float;
pub(crate) mod import;
mod infer;
pub(crate) mod matmul;
mod session;

pub use float::FloatEngine;
pub(crate) use import::uncomputable;
pub(crate) use infer::{Facts, infer, shapes_agree};
pub use session::{Recorded, Session};

use tract_onnx::prelude::{Arc, IntoRunnable as _, TractResult, TypedModel, TypedSimplePlan};
use tract_onnx::tract_hir::internal::TractErrorContext as _;

use crate::error::guarded;
use crate::onnx::Model;
use crate::{Error, Result};

/// tract's typed graph of `model` whose outputs are the values named `taps`.
fn tapped<T: AsRef<str>>(model: &Model, shape: [usize; 4], taps: &[T]) -> Result<TypedModel> {
    import::typed(model, shape, &|inference, outlets| {
        let outlet = |tap: &T| {
            let tap = tap.as_ref();
            outlets.get(tap).copied().with_context(|| format!("no value is named `{tap}`"))
        };
        let outlets = taps.iter().map(outlet).collect::<Result<Vec<_>, _>>()?;
        inference.select_output_outlets(&outlets)
    })
}

/// What tract makes of a graph. Its errors are limits of this version, its panics are faults of the model.
pub(crate) fn rewriting<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    guarded(work)
        .map_err(|panic| Error::model("graph", format!("tract cannot optimize it: {panic}")))?
        .map_err(|e| Error::unsupported("tract", format!("{e:#}")))
}

/// tract's optimized plan of a graph; the plan as it is where an optimization of tract fails.
pub(crate) fn runnable(typed: TypedModel) -> Result<Arc<TypedSimplePlan>> {
    let optimized = rewriting(|| typed.clone().into_optimized()).unwrap_or(typed);
    rewriting(|| optimized.into_runnable())
}

/// What a run in tract gives. Its errors and its panics are faults of the model.
pub(crate) fn running<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    let failed = |why: String| Error::model("running the model", why);
    guarded(work).map_err(failed)?.map_err(|e| failed(format!("{e:#}")))
}
