//! `diff`: where two models part.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use ndarray::{Axis, stack};
use onnx_ptq4vit::Error;
use onnx_ptq4vit::check::Sqnr;
use onnx_ptq4vit::data::Selection;
use onnx_ptq4vit::integer;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing;
use onnx_ptq4vit::report::{Align, table};
use serde::Serialize;

use super::check::goes_into_softmax;
use super::engine::builtin;
use super::images::ImageArgs;
use super::model::{InputArgs, ModelArgs};
use super::output::print;
use super::progress::Stderr;
use super::values::number;

/// Show the first values in which two models differ
///
/// Runs both on the same images and compares every value that both have under one name, in the order of the graph: a float model
/// and one that was quantized from it (what enters and leaves its sites), or two exports of one network.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The model that is right
    first: PathBuf,
    /// The other one
    second: PathBuf,
    /// Images: a folder, an image, a CSV file with a column of paths, .npy or .npz
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// How many images to compare on
    #[arg(long, value_name = "N", default_value_t = 4)]
    limit: usize,
    /// The models part where the signal-to-noise ratio falls below so many decibels
    #[arg(long, value_name = "DB", default_value = "20", value_parser = number, allow_negative_numbers = true)]
    below: f64,
    /// Show so many values, from the one where the models part
    #[arg(long, value_name = "N", default_value_t = 12)]
    top: usize,
    /// Print as JSON, with all values
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
  onnx-ptq4vit diff vit.onnx vit.int8.onnx --data images/
  onnx-ptq4vit diff vit.onnx other_export.onnx --data images/ --below 60";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Stderr::new();
    let [first, second] = [&args.first, &args.second];
    let first = args.inputs.give(args.reading.read(first)?, &args.data)?;
    let second = args.inputs.give(args.reading.read(second)?, &args.data)?;
    let selection = Selection { limit: Some(args.limit), ..Selection::default() };
    let recorded = preprocessing::recorded(&second)?;
    let data = args.images.open(&args.data, &first, recorded, selection, false, &progress)?;
    let [left, right] = [builtin(&first, data.item_shape())?, builtin(&second, data.item_shape())?];
    let shapes = [left.input_shape(), right.input_shape()];
    if shapes[0] != shapes[1] {
        let why = format!("the models take {:?} and {:?} (N, C, H, W)", shapes[0], shapes[1]);
        return Err(Error::model("input", why).into());
    }
    let names = common(&first, &second)?;
    if names.is_empty() {
        return Err(Error::model("values", "the models have no value of the same name").into());
    }
    // A quantized model has channels in other ranges, which the layers behind take back.
    let folded = first.is_quantized() != second.is_quantized();
    let taps: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut values: Vec<Value> =
        names.iter().map(|name| Value { name: name.clone(), sqnr_db: Sqnr::default() }).collect();
    for start in (0..data.len()).step_by(shapes[0][0]) {
        // Whole batches: some values have no axis of images.
        let images: Vec<_> =
            (start..start + shapes[0][0]).map(|at| data.load(at % data.len())).collect::<Result<_, _>>()?;
        let views: Vec<_> = images.iter().map(|image| image.view()).collect();
        let batch = stack(Axis(0), &views)?;
        let (left, right) = (left.pass(batch.clone(), &taps)?, right.pass(batch, &taps)?);
        for (value, (a, b)) in values.iter_mut().zip(left.values.iter().zip(&right.values)) {
            if a.shape() != b.shape() {
                let why = format!("shape {:?} in the one, {:?} in the other", a.shape(), b.shape());
                return Err(Error::model(format!("value `{}`", value.name), why).into());
            }
            value.sqnr_db += match folded {
                true => Sqnr::of_site(a, b, goes_into_softmax(first.graph(), &value.name)),
                false => Sqnr::of(a, b),
            };
        }
    }
    let parts = values.iter().position(|value| value.sqnr_db.db().is_some_and(|db| db < args.below));
    let parts_at = parts.map(|at| values[at].name.clone());
    print(&Report { below: args.below, parts_at, values, top: args.top }, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The FLOAT values that both models can show, in the order of the first.
fn common(first: &Prepared, second: &Prepared) -> Result<Vec<String>> {
    let shown = [shown_by(first)?, shown_by(second)?];
    let shows = |model: &Prepared, shown: &Option<HashSet<String>>, name: &str| {
        model.computes_float(name) && shown.as_ref().is_none_or(|shown| shown.contains(name))
    };
    let outputs = first.graph().nodes().flat_map(|(_, node)| &node.output).filter(|name| !name.is_empty());
    let common = outputs.filter(|name| shows(first, &shown[0], name) && shows(second, &shown[1], name));
    Ok(common.cloned().collect())
}

/// Of a quantized model, which computes several nodes in one step: what enters and leaves its sites.
fn shown_by(model: &Prepared) -> Result<Option<HashSet<String>>> {
    if !model.is_quantized() {
        return Ok(None);
    }
    let sites = integer::contents(model.graph())?.sites.into_iter();
    Ok(Some(sites.flat_map(|site| site.inputs.into_iter().chain([site.output])).collect()))
}

#[derive(Serialize)]
struct Report {
    below: f64,
    /// The first value whose ratio is below the threshold.
    parts_at: Option<String>,
    values: Vec<Value>,
    #[serde(skip)]
    top: usize,
}

#[derive(Serialize)]
struct Value {
    name: String,
    sqnr_db: Sqnr,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.values.len();
        let first = match &self.parts_at {
            None => {
                writeln!(f, "the models do not part: all {count} values have at least {} dB\n", self.below)?;
                count.saturating_sub(self.top)
            }
            Some(name) => {
                let at = self.values.iter().position(|value| value.name == *name).unwrap_or(0);
                writeln!(
                    f,
                    "the models part at `{name}`, value {} of {count}: below {} dB\n",
                    at + 1,
                    self.below
                )?;
                at.saturating_sub(2)
            }
        };
        let rows = self.values[first..].iter().take(self.top);
        let rows = rows.map(|value| vec![value.name.clone(), value.sqnr_db.to_string()]);
        f.write_str(&table(&["value", "SQNR"], &[Align::Left, Align::Right], rows))
    }
}
