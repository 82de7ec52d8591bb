//! `quantize`: a float model and images in, a quantized model out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::analyze::{analyze, fewest_in_float};
use onnx_ptq4vit::calibrate::Calibration;
use onnx_ptq4vit::export::{Target, TwinForm, export_partly, pack};
use onnx_ptq4vit::files::{Kind, ensure_writable, ensure_writable_as};
use onnx_ptq4vit::onnx::Storage;
use onnx_ptq4vit::page::{Page, Speed};
use onnx_ptq4vit::plan::{Multiplications, Plan, Site};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing::record_class_names;
use onnx_ptq4vit::progress::Progress as _;
use onnx_ptq4vit::report::{AnalyzeReport, QuantizeReport, load};
use prost::Message;

use super::bench;
use super::calibration::{CalibrationArgs, held_back, planned, scales};
use super::check;
use super::engine::{EngineArgs, EngineName};
use super::images::ImageArgs;
use super::interrupt::whole;
use super::model::{InputArgs, ModelArgs, say};
use super::output::{OutputArgs, same_file};
use super::page::{self, SitesPageArgs, of_calibration, of_files, provenance};
use super::progress::Stderr;
use super::values::{Pixels, TargetName, TwinName, number, percent};

/// Quantize a float model
///
/// Finds the matrix products of a vision transformer, looks at the activations that calibration images cause,
/// searches the scales that disturb the output least, and writes a quantized ONNX file.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The float model
    model: PathBuf,
    /// Where the quantized model goes
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Leave as few sites in float as keep this KL divergence
    ///
    /// From the float model, in nats. It is measured on images that the calibration does not use.
    #[arg(long, value_name = "NATS", value_parser = number)]
    max_kl: Option<f64>,
    #[command(flatten)]
    report: SitesPageArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Then measure what each site does to the output, as `analyze` does
    #[arg(long)]
    analyze: bool,
    /// Then compare with the float model on these images, as `check` does
    #[arg(long, value_name = "PATH")]
    check: Option<PathBuf>,
    #[command(flatten)]
    thresholds: CheckArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// What will run the file
    #[arg(long, value_enum, default_value = "generic")]
    target: TargetName,
    /// How the twin matmuls are written [default: as the target wants them]
    #[arg(long, value_enum, value_name = "FORM", hide_short_help = true)]
    twin: Option<TwinName>,
    /// Write each weight as a byte, also below 7 bits; otherwise several share a word
    #[arg(long, hide_short_help = true)]
    no_pack: bool,
    #[command(flatten)]
    output_as: OutputArgs,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    reading: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
}

/// What `--check` takes beside the images.
#[derive(clap::Args)]
struct CheckArgs {
    /// Labels for --check: a CSV file, or `folders`
    #[arg(long, value_name = "CSV|folders", requires = "check", hide_short_help = true)]
    labels: Option<PathBuf>,
    /// The largest loss of top-1 accuracy that passes --check, in percentage points
    #[arg(long, value_name = "POINTS", value_parser = percent, allow_negative_numbers = true, requires = "check", hide_short_help = true)]
    max_drop: Option<f64>,
    /// Compare on so many images of --check; of a folder, a random sample [default: all]
    #[arg(long, value_name = "N", requires = "check", hide_short_help = true)]
    check_limit: Option<usize>,
    /// The smallest mean cosine between the outputs that passes --check
    #[arg(long, value_name = "COSINE", value_parser = number, allow_negative_numbers = true, requires = "check", hide_short_help = true)]
    min_cosine: Option<f64>,
    /// The smallest R² that passes --check, of a model that gives numbers
    #[arg(long, value_name = "R2", value_parser = number, allow_negative_numbers = true, requires = "check", hide_short_help = true)]
    min_r2: Option<f64>,
    /// The smallest top-1 agreement that passes --check, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true, requires = "check", hide_short_help = true)]
    min_agreement: Option<f64>,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit quantize vit.onnx --calib images/ -o vit.int8.onnx
  onnx-ptq4vit quantize vit.onnx --calib images/ -o vit.int8.onnx --check val/ --report vit.html
  onnx-ptq4vit quantize vit.onnx --calib train.csv --calib-limit 128 --bits w6a6 -o vit.int6.onnx
  onnx-ptq4vit quantize vit.onnx --calib images/ --exclude '*blocks.11*' -o vit.int8.onnx
  onnx-ptq4vit quantize vit.onnx --calibration vit.json --target tensorrt -o vit.trt.onnx";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = Stderr::new();
    ensure_outputs(args)?;
    let model = args.reading.read(&args.model)?;
    let model = args.inputs.give(model, args.calibration.calib.as_deref().unwrap_or(Path::new("")))?;
    say(&model, &progress)?;
    if args.check.is_none() && args.engine.name != EngineName::Builtin {
        return Err(Error::usage("--engine says what runs --check, which is not asked for").into());
    }
    if let Some(data) = &args.check {
        check::ensure_ready(&args.to_check(data), &model)?;
    }
    let planned_sites = planned(&args.calibration, &model, &[])?;
    args.report.wanted(&planned_sites)?;
    let mut plan = planned_sites.clone();
    let mut count = plan.count(&model, model.input()?.typical_image());
    warn_of_float(count, &progress);
    let (calibration, images) = scales(&args.calibration, &args.images, &model, &plan, &progress)?;
    if let Some(most) = args.max_kl {
        plan = promised(args, &model, &planned_sites, &calibration, most, &progress)?;
        count = plan.count(&model, model.input()?.typical_image());
        warn_of_float(count, &progress);
    }
    let is_quantized = |site: &Site| plan.sites.iter().any(|kept| kept.name == site.name);
    let target = Target::from(args.target);
    let form = args.twin.map_or(target.twin_form(), TwinForm::from);
    let mut quantized = export_partly(&model, &planned_sites, &calibration, form, &is_quantized)?;
    if target.packs() && !args.no_pack {
        quantized = pack(quantized)?;
    }
    record_class_names(&mut quantized, &args.images.class_names(&model)?);
    progress.finish();
    whole(|| quantized.write(&args.output, Storage::for_model(&quantized)))?;

    let files = [&args.model, &args.output].map(|path| path.display().to_string());
    let bytes = [model.model(), &quantized].map(|model| model.proto.encoded_len() as u64);
    let seconds = start.elapsed().as_secs_f64();
    let mut report = QuantizeReport::new(files, &plan, count, &calibration, bytes, seconds);
    report.load = load(target, &report.output, &quantized)?;
    report.warnings = progress.warnings();
    if args.analyze {
        const IMAGES: usize = 32;
        const SHOWN: usize = 20;
        let images =
            held_back(&args.calibration, &args.images, &model, args.check.as_deref(), IMAGES, &progress)?;
        let analysis = analyze(&model, &plan, &calibration, &images, &progress)?;
        let model = args.model.display().to_string();
        report.analyze = Some(AnalyzeReport { model, top: SHOWN, analysis, warnings: Vec::new() });
    }
    let mut page = Page::default();
    if let Some(data) = &args.check {
        let (mut check, of_check) = check::checked(&args.to_check(data), &progress)?;
        check.warnings.retain(|warning| !report.warnings.contains(warning));
        (page, report.check) = (of_check, Some(check));
    }
    if args.report.page.report.is_some() {
        page.analyze.clone_from(&report.analyze);
        page.kinds = plan.sites.iter().map(|site| (site.name.clone(), site.kind.name())).collect();
        page.quantize = Some(report.clone());
        page.provenance = provenance(of_calibration(&calibration));
        page.provenance.extend(of_files([args.output.as_path()].into_iter())?);
        if let Some(mut images) = images {
            images.truncate(page::IMAGES);
            args.report.add_curves(&mut page, &model, &planned_sites, &calibration, &images, &progress)?;
            progress.finish();
        }
        page.calibration = Some(calibration);
        page.speed = Some(args.speed()?);
        args.report.page.write(&page, &progress)?;
    }
    args.output_as.print(&report)?;
    Ok(report.check.map_or(0, |check| check.exit_code()).into())
}

impl Args {
    /// How fast both models run, one image at a time.
    fn speed(&self) -> Result<Speed> {
        const SECONDS: f64 = 2.0;
        let [height, width] = self.images.size();
        let report = bench::measured(&bench::Args {
            model: self.output.clone(),
            against: Some(self.model.clone()),
            against_engine: None,
            batch: 1,
            seconds: SECONDS,
            size: Pixels::Sides([height, width]),
            profile: false,
            json: false,
            engine: self.engine.clone(),
            reading: self.reading.clone(),
            inputs: self.inputs.clone(),
        })?;
        let [quantized, float] = [0, 1].map(|at| report.models[at].p50_ms);
        let threads =
            if report.threads == 1 { "1 thread".into() } else { format!("{} threads", report.threads) };
        let how = format!("{threads}, engine {}", report.models[0].engine);
        Ok(Speed { float, quantized, how })
    }

    /// The arguments of `check` for the file that was written.
    fn to_check(&self, data: &Path) -> check::Args {
        check::Args {
            float: Some(self.model.clone()),
            quantized: Some(self.output.clone()),
            data: Some(data.into()),
            limit: self.thresholds.check_limit,
            seed: self.calibration.seed,
            labels: self.thresholds.labels.clone(),
            sites: false,
            max_drop: self.thresholds.max_drop,
            min_agreement: self.thresholds.min_agreement,
            max_kl: self.max_kl,
            min_cosine: self.thresholds.min_cosine,
            min_r2: self.thresholds.min_r2,
            shard: None,
            save: None,
            merge: Vec::new(),
            report: self.report.page.clone(),
            engine: self.engine.clone(),
            output_as: self.output_as.clone(),
            images: self.images.clone(),
            reading: self.reading.clone(),
            inputs: self.inputs.clone(),
        }
    }
}

/// The plan with as few sites less as are needed for the distance from the float model to be at most `most`.
fn promised(
    args: &Args,
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    most: f64,
    progress: &Stderr,
) -> Result<Plan> {
    const IMAGES: usize = 32;
    let images = held_back(&args.calibration, &args.images, model, None, IMAGES, progress)?;
    let promise = fewest_in_float(model, plan, calibration, &images, most, progress)?;
    let (count, of) = (promise.in_float.len(), images.len());
    progress.note(&format!(
        "on {of} other images the distance from the float model is {:.5} (at most {most} asked), with {count} sites in float",
        promise.distance
    ));
    let mut plan = planned(&args.calibration, model, &promise.in_float)?;
    for node in plan.float.iter_mut().filter(|node| promise.in_float.contains(&node.node)) {
        node.reason = "left in float for --max-kl".into();
    }
    Ok(plan)
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

/// Every file that will be written can be, and none is read or written twice.
fn ensure_outputs(args: &Args) -> Result<()> {
    whole(|| ensure_writable_as(&args.output, Kind::Onnx))?;
    args.report.page.ensure_writable()?;
    let outputs: Vec<&Path> = std::iter::once(&args.output)
        .chain(&args.calibration.checkpoint)
        .chain(&args.report.page.report)
        .map(PathBuf::as_path)
        .collect();
    let inputs =
        std::iter::once(&args.model).chain(&args.calibration.calib).chain(&args.calibration.calibration);
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
