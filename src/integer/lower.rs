//! From the file to a tract plan: nodes of ours for the sites, floats for the rest.

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops::expandable::expand;

use super::fuse;
use super::ops::{SiteExpansion, SiteOp};
use super::site::{Site, SiteInfo};
use crate::error::guarded;
use crate::onnx::node::node;
use crate::onnx::{DOMAIN, Edits, Model, ValueInfoProto};
use crate::{Error, Result, import};

/// The graph of `model` for inputs of `shape`, with the outputs of the file: a node for each site, and our own for
/// what tract does more slowly.
pub(super) fn lower(model: &Model, sites: &[Site], shape: [usize; 4]) -> Result<TypedModel> {
    let ops = sites.iter().enumerate().map(|(index, site)| SiteOp::new(index, site));
    let ops: Vec<SiteOp> = ops.collect::<Result<_>>()?;
    let model = with_placeholders(model, sites)?;
    let mut typed = import::typed(&model, shape, &|inference, outlets| {
        for (site, op) in sites.iter().zip(&ops) {
            let name = &site.info.output;
            let outlet = outlets.get(name).with_context(|| format!("no value is named `{name}`"))?;
            inference.node_mut(outlet.node).op = expand(SiteExpansion(op.clone()));
        }
        Ok(())
    })?;
    in_tract(|| {
        typed.declutter()?;
        fuse::rows(&mut typed)
    })?;
    Ok(typed)
}

/// The plan of a graph of [`lower`], a node for each site.
pub(super) fn plain_plan(typed: &TypedModel, sites: &[SiteInfo]) -> Result<Arc<TypedSimplePlan>> {
    runnable(typed.clone(), sites)
}

/// The plan that computes the same, to the bit, in fewer and larger steps.
pub(super) fn fused_plan(typed: &TypedModel, sites: &[SiteInfo]) -> Result<Arc<TypedSimplePlan>> {
    let mut typed = typed.clone();
    in_tract(|| {
        fuse::attention(&mut typed)?;
        fuse::epilogues(&mut typed)
    })?;
    runnable(typed, sites)
}

fn runnable(typed: TypedModel, sites: &[SiteInfo]) -> Result<Arc<TypedSimplePlan>> {
    let optimized = import::optimized(typed)?;
    check_all_there(&optimized, sites)?;
    optimized.into_runnable().map_err(|e| Error::unsupported("tract", format!("{e:#}")))
}

fn in_tract<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    guarded(work)
        .map_err(|panic| Error::model("graph", format!("tract cannot rewrite it: {panic}")))?
        .map_err(|e| Error::unsupported("tract", format!("{e:#}")))
}

/// The model with a node that tract does not know in the place of each site.
fn with_placeholders(model: &Model, sites: &[Site]) -> Result<Model> {
    let mut model = model.clone();
    let mut edits = Edits::new(&model);
    for site in sites {
        let info = &site.info;
        let inputs = info.inputs.iter().map(String::as_str);
        let placeholder = node("Ptq4vitSite", &info.name, inputs, [info.output.as_str()]);
        edits.replace_node(site.root, vec![placeholder.in_domain(DOMAIN)]);
    }
    edits.import_opset(DOMAIN, 1);
    edits.apply(&mut model)?;
    Ok(model)
}

/// Every site is in the plan exactly once: the optimizer neither dropped nor doubled it.
fn check_all_there(model: &TypedModel, sites: &[SiteInfo]) -> Result<()> {
    let mut counts = vec![0; sites.len()];
    for op in model.nodes().iter().filter_map(|node| node.op_as::<SiteOp>()) {
        op.sites.iter().for_each(|&site| counts[site] += 1);
    }
    match counts.iter().position(|&count| count != 1) {
        None => Ok(()),
        Some(index) => Err(Error::unsupported(
            format!("site `{}`", sites[index].name),
            format!("it is {} times in the optimized model: does it lead to an output?", counts[index]),
        )),
    }
}

/// The dims `[N, C, H, W]` of the image tensor, the only input; `None` where the file leaves one open.
pub(super) fn input_dims(model: &Model) -> Result<[Option<usize>; 4]> {
    let graph = crate::onnx::Graph::new(model)?;
    let inputs: Vec<&ValueInfoProto> = graph.inputs().collect();
    let [input] = inputs[..] else {
        let names: Vec<&str> = inputs.iter().map(|input| input.name()).collect();
        return Err(Error::unsupported("inputs", format!("expected one image tensor, found {names:?}")));
    };
    let dims = graph.shape(input.name()).unwrap_or_default();
    let wrong = format!("expected [N, C, H, W], found {dims:?}");
    let dims: [Option<i64>; 4] =
        dims.try_into().map_err(|_| Error::unsupported(format!("input `{}`", input.name()), wrong))?;
    Ok(dims.map(|dim| dim.and_then(|dim| usize::try_from(dim).ok()).filter(|&dim| dim > 0)))
}
