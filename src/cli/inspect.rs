//! `inspect`: what is, or would be, quantized.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use onnx_ptq4vit::integer;
use onnx_ptq4vit::normalize::Normalized;
use onnx_ptq4vit::onnx::{Graph, Model, NodeProto};
use onnx_ptq4vit::plan::{FloatNode, plan};
use onnx_ptq4vit::report::{InspectReport, QuantizedSite};
use onnx_ptq4vit::session::input_spec;

use super::model::is_quantized;
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
    let model = Normalized::new(Model::read(&args.model)?)?.model;
    let graph = Graph::new(&model)?;
    let name = args.model.display().to_string();
    let input = input_spec(&graph)?.describe();
    let report = if is_quantized(&graph) {
        quantized(name, input, &model, &graph)?
    } else {
        let shape = |value: &str| graph.constant(value).map(|weight| weight.dims.clone());
        InspectReport::of_plan(name, input, &plan(&graph, &[])?, shape)
    };
    print(&report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn quantized(name: String, input: String, model: &Model, graph: &Graph) -> Result<InspectReport> {
    let sites = integer::sites(model)?.into_iter().map(|site| QuantizedSite {
        name: site.name,
        op: site.op.to_string(),
        inputs: site.inputs,
        output: site.output,
        a_bits: site.a_bits.get(),
        b_bits: site.b_bits.get(),
    });
    let metadata = model.proto.metadata_props.iter().map(|entry| (entry.key().into(), entry.value().into()));
    Ok(InspectReport::Quantized {
        model: name,
        quantized: true,
        input,
        metadata: metadata.collect(),
        sites: sites.collect(),
        float: float_products(graph),
    })
}

/// The products of a quantized model whose operands are no codes.
fn float_products(graph: &Graph) -> Vec<FloatNode> {
    let products = graph.nodes().map(|(_, node)| node).filter(|node| {
        ["MatMul", "Gemm", "Conv"].iter().any(|op| node.is_op(op))
            && !node.input.iter().take(2).all(|value| is_dequantized(graph, value))
    });
    let float_node = |node: &NodeProto| FloatNode {
        node: node.label(),
        op: node.op_type().into(),
        reason: "its operands are not quantized".into(),
    };
    products.map(float_node).collect()
}

/// Whether `value` is dequantized codes, moved about or not.
fn is_dequantized<'a>(graph: &Graph<'a>, mut value: &'a str) -> bool {
    while let Some(node) = graph.producer(value).map(|id| graph.node(id)) {
        let moves = ["Identity", "Reshape", "Transpose"].iter().any(|op| node.is_op(op));
        match node.input.first() {
            Some(source) if moves => value = source,
            _ => return node.is_op("DequantizeLinear"),
        }
    }
    false
}
