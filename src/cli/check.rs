//! `check`: is the quantized model as good as the float model?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::check::{Scope, SiteOutput, Thresholds, compare};
use onnx_ptq4vit::data::Selection;
use onnx_ptq4vit::integer::{self, Runner};
use onnx_ptq4vit::onnx::Graph;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing;
use onnx_ptq4vit::report::CheckReport;

use super::images::ImageArgs;
use super::model::{InputArgs, ModelArgs, say};
use super::output::print;
use super::progress::Stderr;
use super::values::percent;

/// Compare a quantized model with its float model
///
/// Runs both on the same images, the quantized one in integer arithmetic. With --max-drop or --min-agreement the
/// exit code is 1 if the quantized model misses a threshold.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The float model
    float: PathBuf,
    /// The quantized model
    quantized: PathBuf,
    /// Images: a folder (searched recursively), an image, a CSV file with a `path` column, .npy or .npz
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Use so many images; of a folder, a random sample [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Chooses the sample of a folder
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A CSV file with the columns `path` and `label` (0-based classes), or `label` alone in the order of the data
    #[arg(long, value_name = "CSV")]
    labels: Option<PathBuf>,
    /// Compare the output of every quantized site, too
    #[arg(long, alias = "layers")]
    sites: bool,
    /// The largest loss of top-1 accuracy that passes, in percentage points
    #[arg(long, value_name = "POINTS", value_parser = percent, allow_negative_numbers = true)]
    max_drop: Option<f64>,
    /// The smallest top-1 agreement with the float model that passes, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    min_agreement: Option<f64>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    reading: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val/ --labels val.csv
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val.npz --max-drop 1 --min-agreement 95
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val/ --limit 16 --sites --json";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Stderr::new();
    let float = args.inputs.give(args.reading.read(&args.float)?, &args.data)?;
    let quantized = args.inputs.give(args.reading.read(&args.quantized)?, &args.data)?;
    say(&float, &progress)?;

    let selection = Selection { limit: args.limit, seed: args.seed };
    let recorded = preprocessing::recorded(&quantized)?;
    let mut data = args.images.open(&args.data, &float, recorded.clone(), selection, false, &progress)?;
    let conflicts = args.images.conflicts(&data, &float, recorded.as_ref())?;
    if let Some(labels) = &args.labels {
        data = data.with_labels(labels)?;
    }
    if args.max_drop.is_some() && data.labels.is_none() {
        return Err(Error::usage("--max-drop needs labels: give --labels, or data that has them").into());
    }

    let image = data.item_shape();
    let mut scope = Scope::default();
    scope.reading = float.outputs()?.compared.1;
    if args.sites {
        scope.sites = same_values(&float, &quantized)?;
    }
    let quantized = Runner::with_image(&quantized, image)?;
    let float = float.float_engine(image)?;
    let comparison = compare(&float, &quantized, &data, &scope, &progress)?;
    progress.finish();

    let mut thresholds = Thresholds::default();
    thresholds.max_drop = args.max_drop;
    thresholds.min_agreement = args.min_agreement;
    let verdict = thresholds.judge(&comparison)?;
    let passed = verdict.as_ref().is_none_or(|verdict| verdict.passed);
    let [float, quantized] = [&args.float, &args.quantized].map(|path| path.display().to_string());
    print(&CheckReport { float, quantized, verdict, comparison, warnings: progress.warnings() }, args.json)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The outputs of the sites, which the float model has under the same names.
fn same_values(float: &Prepared, quantized: &Prepared) -> Result<Vec<SiteOutput>> {
    let graph = float.graph();
    let sites = integer::contents(quantized.graph())?.sites.into_iter().map(|site| {
        let before_softmax = goes_into_softmax(graph, &site.output);
        SiteOutput { name: site.name, value: site.output, before_softmax }
    });
    let sites: Vec<SiteOutput> = sites.collect();
    match sites.iter().find(|site| graph.producer(&site.value).is_none()) {
        None => Ok(sites),
        Some(SiteOutput { name, value, .. }) => {
            let why = format!("the float model has no value `{value}`; was it quantized from this one?");
            Err(Error::model(format!("site `{name}`"), why).into())
        }
    }
}

/// Whether a Softmax takes `value`, perhaps scaled and masked.
fn goes_into_softmax(graph: &Graph, value: &str) -> bool {
    const MOST_STEPS: usize = 8;
    let mut value = value;
    for _ in 0..MOST_STEPS {
        let Some(user) = graph.consumers(value).first() else { return false };
        let node = graph.node(user.node);
        match node.op_type() {
            "Softmax" => return true,
            "Add" | "Mul" | "Div" | "Reshape" => value = &node.output[0],
            _ => return false,
        }
    }
    false
}
