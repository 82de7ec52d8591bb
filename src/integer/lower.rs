//! From the file to a tract plan: nodes of ours for the sites, floats for the rest.

use rayon::prelude::*;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::expand;

use super::fuse;
use super::ops::{SITE, SiteExpansion, SiteOp};
use super::site::Site;
use crate::Result;
use crate::onnx::node::node;
use crate::onnx::{DOMAIN, Edits, Model};
use crate::runtime::{import, rewriting, runnable};

/// The graph of `model` for inputs of `shape`, with the outputs of the file: a node for each site, and our own for
/// what tract does more slowly.
pub(super) fn lower(model: &Model, sites: &[Site], shape: [usize; 4]) -> Result<TypedModel> {
    let ops = sites.par_iter().enumerate().map(|(index, site)| SiteOp::new(index, site));
    // The first error in order, on any number of threads.
    let ops: Vec<Result<SiteOp>> = ops.collect();
    let ops: Vec<SiteOp> = ops.into_iter().collect::<Result<_>>()?;
    let model = with_placeholders(model, sites)?;
    let typed = import::typed(&model, shape, &|inference, outlets| {
        for (site, op) in sites.iter().zip(&ops) {
            let name = &site.info.output;
            let outlet = outlets.get(name).with_context(|| format!("no value is named `{name}`"))?;
            inference.node_mut(outlet.node).op = expand(SiteExpansion(op.clone()));
        }
        Ok(())
    })?;
    Ok(rewritten(typed, |typed| {
        typed.declutter()?;
        fuse::rows(typed)
    }))
}

/// `typed` after `rewrite`, or as it is where that fails.
fn rewritten(typed: TypedModel, rewrite: impl Fn(&mut TypedModel) -> TractResult<()>) -> TypedModel {
    let mut copy = typed.clone();
    rewriting(|| rewrite(&mut copy)).map_or(typed, |()| copy)
}

/// The plan that computes the same, to the bit, by fewer and larger operators.
pub(super) fn fused_plan(typed: &TypedModel) -> Result<Arc<TypedSimplePlan>> {
    runnable(rewritten(typed.clone(), |typed| {
        fuse::attention(typed)?;
        fuse::epilogues(typed)?;
        fuse::mlps(typed)
    }))
}

/// The model with a node that tract does not know in the place of each site.
fn with_placeholders(model: &Model, sites: &[Site]) -> Result<Model> {
    let mut model = model.clone();
    let mut edits = Edits::new(&model);
    for site in sites {
        let info = &site.info;
        let inputs = info.inputs.iter().map(String::as_str);
        let placeholder = node(SITE, &info.name, inputs, [info.output.as_str()]);
        edits.replace_node(site.root, vec![placeholder.in_domain(DOMAIN)]);
    }
    edits.import_opset(DOMAIN, 1);
    edits.apply(&mut model)?;
    Ok(model)
}
