//! `inspect`: what is, or would be, quantized.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use onnx_ptq4vit::integer::{self, Contents};
use onnx_ptq4vit::onnx::Graph;
use onnx_ptq4vit::plan::{FloatNode, plan};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::report::{InspectReport, QuantizedSite};

use super::output::print;

/// List what is quantized in a model, or would be
///
/// Of a float model: the sites, what they take, and what stays in float and why. Of a quantized model: its sites,
/// their bits, and what the file says of its making.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  onnx-ptq4vit inspect vit.onnx")]
pub(super) struct Args {
    /// The model, float or quantized
    model: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let model = Prepared::open(&args.model)?;
    print(&report(&model, args.model.display().to_string())?, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to say of `model`, which the report calls `name`.
pub(crate) fn report(model: &Prepared, name: String) -> onnx_ptq4vit::Result<InspectReport> {
    let graph = model.graph();
    let task = model.outputs().map(|outputs| outputs.to_string()).unwrap_or_default();
    let input = [model.input()?.describe(), task];
    if model.is_quantized() {
        return quantized(name, input, graph);
    }
    let shape = |value: &str| graph.constant(value).map(|weight| weight.dims.clone());
    let mut plan = plan(model, &[])?;
    let count = plan.count(model, model.input()?.typical_image());
    Ok(InspectReport::of_plan(name, input, &plan, count, shape))
}

fn quantized(name: String, [input, task]: [String; 2], graph: &Graph) -> onnx_ptq4vit::Result<InspectReport> {
    let Contents { sites, float } = integer::contents(graph)?;
    let sites = sites.into_iter().map(|site| QuantizedSite {
        name: site.name,
        op: site.op.to_string(),
        inputs: site.inputs,
        output: site.output,
        a_bits: site.a_bits.get(),
        b_bits: site.b_bits.get(),
    });
    let float = float.into_iter().map(|id| graph.node(id)).map(|node| FloatNode {
        node: node.label(),
        op: node.op_type().into(),
        reason: "its operands are not quantized".into(),
        percent: None,
        product: None,
    });
    let metadata = graph.model().proto.metadata_props.iter();
    Ok(InspectReport::Quantized {
        model: name,
        quantized: true,
        input,
        task,
        metadata: metadata.map(|entry| (entry.key().into(), entry.value().into())).collect(),
        sites: sites.collect(),
        float: float.collect(),
    })
}
