//! `analyze`: which sites cost the accuracy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::analyze::analyze;
use onnx_ptq4vit::page::Page;
use onnx_ptq4vit::report::AnalyzeReport;

use super::calibration::{CalibrationArgs, held_back, planned, scales};
use super::images::ImageArgs;
use super::model::{InputArgs, ModelArgs, say};
use super::output::OutputArgs;
use super::page::{self, SitesPageArgs, of_calibration, provenance};
use super::progress::Stderr;

/// Find the sites that cost the accuracy
///
/// Finds the scales as `quantize` does, and measures how far the output is from that of the float model when each site alone is
/// quantized, and when it alone stays in float. Sites that gain much in float are worth an --exclude, or more bits.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The float model
    model: PathBuf,
    /// Images to measure on; without it, images of --calib that the calibration does not use
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// How many images to measure on
    #[arg(long, value_name = "N", default_value_t = 32)]
    limit: usize,
    /// Show so many sites
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    #[command(flatten)]
    output_as: OutputArgs,
    #[command(flatten)]
    report: SitesPageArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    reading: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit analyze vit.onnx --calib images/
  onnx-ptq4vit analyze vit.onnx --calib images/ --bits w4a8 --checkpoint w4a8.json --top 40
  onnx-ptq4vit analyze vit.onnx --calibration w4a8.json --data val/";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Stderr::new();
    args.report.page.ensure_writable()?;
    if args.limit == 0 {
        return Err(Error::usage("--limit 0 leaves no image to measure on").into());
    }
    let model = args.reading.read(&args.model)?;
    let data = args.calibration.calib.as_deref().or(args.data.as_deref());
    let model = args.inputs.give(model, data.unwrap_or(Path::new("")))?;
    say(&model, &progress)?;
    let plan = planned(&args.calibration, &model, &[])?;
    args.report.wanted(&plan)?;
    let (calibration, _) = scales(&args.calibration, &args.images, &model, &plan, &progress)?;
    let data = args.data.as_deref();
    let mut images = held_back(&args.calibration, &args.images, &model, data, args.limit, &progress)?;
    let analysis = analyze(&model, &plan, &calibration, &images, &progress)?;
    let mut page = Page::default();
    if args.report.page.report.is_some() {
        images.truncate(page::IMAGES);
        args.report.add_curves(&mut page, &model, &plan, &calibration, &images, &progress)?;
    }
    progress.finish();
    let (model, warnings) = (args.model.display().to_string(), progress.warnings());
    let report = AnalyzeReport { model, top: args.top, analysis, warnings };
    page.provenance = provenance(of_calibration(&calibration));
    (page.analyze, page.calibration) = (Some(report.clone()), Some(calibration));
    args.report.page.write(&page, &progress)?;
    args.output_as.print(&report)?;
    Ok(ExitCode::SUCCESS)
}
