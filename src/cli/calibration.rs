//! How scales are found: arguments and work that several commands share.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bytesize::ByteSize;
use onnx_ptq4vit::calibrate::{Calibration, EARLIER, Gradient, Options, Run, WeightScales, calibrate};
use onnx_ptq4vit::data::{Dataset, Selection};
use onnx_ptq4vit::plan::{Plan, plan};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing;
use onnx_ptq4vit::progress::Progress as _;
use onnx_ptq4vit::{Error, ErrorKind};

use super::images::ImageArgs;
use super::interrupt::whole;
use super::memory::half_of_free;
use super::progress::Stderr;
use super::values::{MetricName, PresetName, SearchName, WeightsName, Widths};

/// What is quantized, and how its scales are found.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
pub(super) struct CalibrationArgs {
    /// Calibration images: a folder, an image, a CSV file with a column of paths, .npy or .npz
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "calibration",
        conflicts_with = "calibration"
    )]
    pub(super) calib: Option<PathBuf>,
    /// How many calibration images to use; of a folder, a random sample
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(super) calib_limit: usize,
    /// Chooses the sample of a folder and the random probes
    #[arg(long, default_value_t = 0, hide_short_help = true)]
    pub(super) seed: u64,
    /// Bits of weights and activations, each 2 to 8
    #[arg(long, value_name = "W<K>A<K>", default_value = "w8a8", conflicts_with = "calibration")]
    pub(super) bits: Widths,
    /// Weights of 7 bits at most, which are exact on every x86 CPU
    ///
    /// Keys and values have 7 bits, too. With 8 bits, ONNX Runtime saturates on x86 CPUs without VNNI.
    #[arg(long, conflicts_with = "calibration")]
    pub(super) overflow_safe: bool,
    /// Sets the defaults of the choices below
    #[arg(long, alias = "method", value_enum, default_value = "best", conflicts_with = "calibration")]
    pub(super) preset: PresetName,
    /// The distance that the search minimises [default: hessian, base: cosine]
    #[arg(long, value_enum, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) metric: Option<MetricName>,
    /// Where the hessian metric's gradient comes from: fisher:N (N random probes) or pseudo-label [default: fisher:4]
    #[arg(long, value_name = "KIND", conflicts_with = "calibration", hide_short_help = true)]
    pub(super) gradient: Option<Gradient>,
    /// Quantize post-softmax values uniformly
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_softmax_twin: bool,
    /// Quantize post-GELU values uniformly
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_gelu_twin: bool,
    /// Quantize outlier channels like all others; `paper` and `base` always do
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_outliers: bool,
    /// How many scales a weight has [default: per-channel; paper, base: per-tensor]
    #[arg(long, value_enum, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) weights: Option<WeightsName>,
    /// Leave the ranges of channels before linear layers as they are
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_fold: bool,
    /// Round weights to the nearest code, also below 8 bits
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_rounding: bool,
    /// Leave biases as they are
    #[arg(long, conflicts_with = "calibration", hide_short_help = true)]
    pub(super) no_bias_correction: bool,
    /// Leave these sites in float: a name, a pattern with * and ?, or re: and a regular expression
    ///
    /// `inspect` lists the names. The option may be repeated.
    #[arg(long, value_name = "SITE")]
    pub(super) exclude: Vec<String>,
    /// Leave all sites of a kind in float, such as fc2; may be repeated
    #[arg(long, value_name = "KIND", hide_short_help = true)]
    pub(super) exclude_kind: Vec<String>,
    /// Leave a block, or a range of blocks, in float, counted from 0; may be repeated
    #[arg(long, value_name = "I|I-J", hide_short_help = true)]
    pub(super) exclude_blocks: Vec<String>,
    /// How thoroughly scales are searched; the result is the same
    #[arg(
        long,
        value_enum,
        default_value = "pruned",
        conflicts_with = "calibration",
        hide_short_help = true
    )]
    pub(super) search: SearchName,
    /// What calibration may take of the memory [default: half of what is free]
    #[arg(long, value_name = "SIZE", conflicts_with = "calibration", hide_short_help = true)]
    pub(super) memory: Option<ByteSize>,
    /// Keep the scales in this JSON file as they are found, and continue from it
    ///
    /// After an interruption the same command continues.
    #[arg(long, value_name = "FILE", alias = "save-calibration", conflicts_with = "calibration")]
    pub(super) checkpoint: Option<PathBuf>,
    /// Use saved scales instead of searching
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
}

/// The sites that are to be quantized, without those called `in_float`.
pub(super) fn planned(args: &CalibrationArgs, model: &Prepared, in_float: &[String]) -> Result<Plan> {
    let kinds = args.exclude_kind.iter().map(|kind| format!("kind:{kind}"));
    let blocks = args.exclude_blocks.iter().map(|range| format!("blocks:{range}"));
    let exclude: Vec<String> =
        args.exclude.iter().chain(in_float).cloned().chain(kinds).chain(blocks).collect();
    Ok(plan(model, &exclude).map_err(|error| match error.kind() {
        ErrorKind::Usage => Error::usage(format!("{error}; `inspect` lists the names")),
        _ => error,
    })?)
}

/// Images that the calibration does not use: `count` of `data`, or if there is none those that come behind the calibration's own.
pub(super) fn held_back(
    args: &CalibrationArgs,
    images: &ImageArgs,
    model: &Prepared,
    data: Option<&Path>,
    count: usize,
    progress: &Stderr,
) -> Result<Dataset> {
    let calib = args.calib.as_deref();
    let path = data.or(calib).ok_or_else(|| Error::usage("--data or --calib is needed"))?;
    let open = |skip: usize| {
        let selection = Selection { limit: Some(count), seed: args.seed, skip };
        images.open(path, model, None, selection, false, progress)
    };
    let found = open(if data.is_none() { args.calib_limit } else { 0 })?;
    if !found.is_empty() {
        return Ok(found);
    }
    progress.note("warning: there are no images beside those of the calibration: it is measured on these, and so too low");
    Ok(open(0)?)
}

/// Searched on images, which come with them, or read.
pub(super) fn scales(
    args: &CalibrationArgs,
    images: &ImageArgs,
    model: &Prepared,
    plan: &Plan,
    progress: &Stderr,
) -> Result<(Calibration, Option<Dataset>)> {
    if let Some(path) = &args.calibration {
        let calibration = Calibration::read(path)?;
        calibration.check_fits(model, plan)?;
        return Ok((calibration, None));
    }
    let calib = args.calib.as_deref().ok_or_else(|| Error::usage("--calib or --calibration is needed"))?;
    let selection = Selection { limit: Some(args.calib_limit), seed: args.seed, skip: 0 };
    let images = images.open(calib, model, None, selection, false, progress)?;
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
    let found =
        calibrate(model, plan, &images, &options(args), run, progress).map_err(|error| {
            match &args.checkpoint {
                Some(path) if error.place() == Some(EARLIER) => kept(&format!("{}: {error}", path.display())),
                _ => error,
            }
        })?;
    Ok((found, Some(images)))
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

fn options(args: &CalibrationArgs) -> Options {
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
