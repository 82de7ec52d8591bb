//! `quantize`: a float model and images in, a quantized model out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use bytesize::ByteSize;
use onnx_ptq4vit::calibrate::{Calibration, EARLIER, Gradient, Options, Run, WeightScales, calibrate};
use onnx_ptq4vit::data::Selection;
use onnx_ptq4vit::export::{export, pack};
use onnx_ptq4vit::files::ensure_writable;
use onnx_ptq4vit::onnx::Storage;
use onnx_ptq4vit::plan::{Multiplications, Plan, plan};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing::{self, record_class_names};
use onnx_ptq4vit::progress::Progress as _;
use onnx_ptq4vit::report::QuantizeReport;
use onnx_ptq4vit::{Error, ErrorKind};
use prost::Message;

use super::images::ImageArgs;
use super::interrupt::whole;
use super::memory::half_of_free;
use super::model::{InputArgs, ModelArgs, say};
use super::output::{print, same_file};
use super::progress::Stderr;
use super::values::{MetricName, PresetName, SearchName, TwinName, WeightsName, Widths};

/// Quantize a float model
///
/// Finds the matrix products of a vision transformer, looks at the activations that calibration images cause,
/// searches the scales that disturb the output least, and writes a quantized ONNX file.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
pub(super) struct Args {
    /// The float model
    model: PathBuf,
    /// Calibration images: a folder (searched recursively), an image, a CSV file with a `path` column, .npy or .npz
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "calibration",
        conflicts_with = "calibration"
    )]
    calib: Option<PathBuf>,
    /// Where the quantized model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// How many calibration images to use; of a folder, a random sample
    #[arg(long, value_name = "N", default_value_t = 32)]
    calib_limit: usize,
    /// Chooses the sample of a folder and the random probes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Bits of weights and activations, each 2 to 8
    #[arg(long, value_name = "W<K>A<K>", default_value = "w8a8", conflicts_with = "calibration")]
    bits: Widths,
    /// Weights, keys and values of 7 bits at most: exact in all runtimes also on x86 CPUs without VNNI
    #[arg(long, conflicts_with = "calibration")]
    overflow_safe: bool,
    /// Sets the defaults of the choices below
    #[arg(long, alias = "method", value_enum, default_value = "best", conflicts_with = "calibration")]
    preset: PresetName,
    /// The distance that the search minimises [default: hessian, base: cosine]
    #[arg(long, value_enum, conflicts_with = "calibration")]
    metric: Option<MetricName>,
    /// Where the hessian metric's gradient comes from: fisher:N (N random probes) or pseudo-label [default: fisher:4]
    #[arg(long, value_name = "KIND", conflicts_with = "calibration")]
    gradient: Option<Gradient>,
    /// Quantize post-softmax values uniformly
    #[arg(long, conflicts_with = "calibration")]
    no_softmax_twin: bool,
    /// Quantize post-GELU values uniformly
    #[arg(long, conflicts_with = "calibration")]
    no_gelu_twin: bool,
    /// Quantize outlier channels like all others; `paper` and `base` always do
    #[arg(long, conflicts_with = "calibration")]
    no_outliers: bool,
    /// How many scales a weight has [default: per-channel; paper, base: per-tensor]
    #[arg(long, value_enum, conflicts_with = "calibration")]
    weights: Option<WeightsName>,
    /// Leave the ranges of channels before linear layers as they are
    #[arg(long, conflicts_with = "calibration")]
    no_fold: bool,
    /// Round weights to the nearest code, also below 8 bits
    #[arg(long, conflicts_with = "calibration")]
    no_rounding: bool,
    /// Leave biases as they are
    #[arg(long, conflicts_with = "calibration")]
    no_bias_correction: bool,
    /// Leave this node in float; may be repeated. `inspect` lists the names
    #[arg(long, value_name = "NODE")]
    exclude: Vec<String>,
    /// How thoroughly scales are searched; the result is the same
    #[arg(long, value_enum, default_value = "pruned", conflicts_with = "calibration")]
    search: SearchName,
    /// What calibration may take of the memory [default: half of what is free]
    #[arg(long, value_name = "SIZE", conflicts_with = "calibration")]
    memory: Option<ByteSize>,
    /// Keep the scales in this file, as JSON, as they are found; after an interruption the same command continues from it
    #[arg(long, value_name = "FILE", alias = "save-calibration", conflicts_with = "calibration")]
    checkpoint: Option<PathBuf>,
    /// Use saved scales instead of searching
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// How the twin matmuls are written
    #[arg(long, value_enum, value_name = "FORM", default_value = "function")]
    twin: TwinName,
    /// Write each weight as a byte, also below 7 bits; otherwise several share a word
    #[arg(long)]
    no_pack: bool,
    /// Print the summary as JSON
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
  onnx-ptq4vit quantize vit.onnx --calib images/ -o vit.int8.onnx
  onnx-ptq4vit quantize vit.onnx --calib train.csv --calib-limit 128 --bits w6a6 -o vit.int6.onnx
  onnx-ptq4vit quantize deit.onnx --calib images/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o deit.int8.onnx
  onnx-ptq4vit quantize vit.onnx --calib images/ --checkpoint vit.json -o vit.int8.onnx
  onnx-ptq4vit quantize vit.onnx --calibration vit.json --twin inline -o vit.openvino.onnx";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = Stderr::new();
    ensure_outputs(args)?;
    let model = args.reading.read(&args.model)?;
    let model = args.inputs.give(model, args.calib.as_deref().unwrap_or(Path::new("")))?;
    say(&model, &progress)?;
    let mut plan = plan(&model, &args.exclude).map_err(|error| match error.kind() {
        ErrorKind::Usage => Error::usage(format!("--exclude: {error}; `inspect` lists the names")),
        _ => error,
    })?;
    let count = plan.count(&model, model.input()?.typical_image());
    warn_of_float(count, &progress);
    let calibration = scales(args, &model, &plan, &progress)?;
    let mut quantized = export(&model, &plan, &calibration, args.twin.into())?;
    if !args.no_pack {
        quantized = pack(quantized)?;
    }
    record_class_names(&mut quantized, &args.images.class_names(&model)?);
    progress.finish();
    whole(|| quantized.write(&args.output, Storage::for_model(&quantized)))?;

    let files = [&args.model, &args.output].map(|path| path.display().to_string());
    let bytes = [model.model(), &quantized].map(|model| model.proto.encoded_len() as u64);
    let seconds = start.elapsed().as_secs_f64();
    let mut report = QuantizeReport::new(files, &plan, count, &calibration, bytes, seconds);
    report.warnings = progress.warnings();
    print(&report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Says at once that a user would not call the result quantized.
fn warn_of_float(count: Option<Multiplications>, progress: &Stderr) {
    const ENOUGH: f64 = 90.0;
    if let Some(percent) = count.map(Multiplications::integer_percent).filter(|&percent| percent < ENOUGH) {
        progress.note(&format!(
            "warning: only {percent:.1} % of the multiplications will be integer; `inspect` says what stays in float"
        ));
    }
}

/// Searched on images, or read.
fn scales(args: &Args, model: &Prepared, plan: &Plan, progress: &Stderr) -> Result<Calibration> {
    if let Some(path) = &args.calibration {
        let calibration = Calibration::read(path)?;
        calibration.check_fits(model, plan)?;
        return Ok(calibration);
    }
    let calib = args.calib.as_deref().ok_or_else(|| Error::usage("--calib or --calibration is needed"))?;
    let selection = Selection { limit: Some(args.calib_limit), seed: args.seed };
    let images = args.images.open(calib, model, None, selection, false, progress)?;
    if let Some(doubt) = preprocessing::unsure(model, &images)? {
        progress.note(&format!("warning: {doubt}"));
    }
    let resume = args.checkpoint.as_deref().map(checkpoint).transpose()?.flatten();
    let save = |found: &Calibration| match &args.checkpoint {
        Some(path) => whole(|| found.write(path)),
        None => Ok(()),
    };
    let run = Run {
        search: args.search.into(),
        memory: args.memory.map_or_else(half_of_free, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
        resume,
        save: &save,
    };
    Ok(calibrate(model, plan, &images, &options(args), run, progress).map_err(|error| {
        match &args.checkpoint {
            Some(path) if error.place() == Some(EARLIER) => kept(&format!("{}: {error}", path.display())),
            _ => error,
        }
    })?)
}

/// The calibration in a file that will be replaced; `None` if there is no file.
fn checkpoint(path: &Path) -> Result<Option<Calibration>> {
    if !path.try_exists().map_err(|e| Error::io(path, e))? {
        return Ok(None);
    }
    Calibration::read(path).map(Some).map_err(|error| kept(&error.to_string()).into())
}

fn kept(why: &str) -> Error {
    Error::usage(format!("{why}; it is not overwritten: remove it, or name another file as --checkpoint"))
}

fn options(args: &Args) -> Options {
    let default = Options::new(args.preset.into());
    let metric = args.metric.map_or(default.metric, Into::into);
    let weights = if metric.is_rowwise() { WeightScales::PerTensor } else { default.weights };
    Options {
        weight_bits: args.bits.weights,
        activation_bits: args.bits.activations,
        overflow_safe: args.overflow_safe,
        metric,
        gradient: args.gradient.unwrap_or(default.gradient),
        softmax_twin: default.softmax_twin && !args.no_softmax_twin,
        gelu_twin: default.gelu_twin && !args.no_gelu_twin,
        outliers: default.outliers && !args.no_outliers,
        weights: args.weights.map_or(weights, Into::into),
        fold: default.fold && !args.no_fold,
        rounding: default.rounding && !args.no_rounding,
        bias: default.bias && !args.no_bias_correction,
        seed: args.seed,
        ..default
    }
}

/// Every file that will be written can be, and none is read or written twice.
fn ensure_outputs(args: &Args) -> Result<()> {
    let outputs: Vec<&Path> =
        std::iter::once(&args.output).chain(&args.checkpoint).map(PathBuf::as_path).collect();
    let inputs = std::iter::once(&args.model).chain(&args.calib).chain(&args.calibration);
    let mut taken: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    for output in outputs {
        if let Some(other) = taken.iter().find(|other| same_file(output, other)) {
            let why = format!("{}: would overwrite {}", output.display(), other.display());
            return Err(Error::usage(why).into());
        }
        whole(|| ensure_writable(output))?;
        taken.push(output);
    }
    Ok(())
}
