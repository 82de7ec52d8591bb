//! `check`: is the quantized model as good as the float model?

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::check::{Identity, Part, Run, Shard, SiteOutput, Thresholds, compare_part};
use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
use onnx_ptq4vit::engine::Reading;
use onnx_ptq4vit::integer;
use onnx_ptq4vit::onnx::Graph;
use onnx_ptq4vit::page::Page;
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::preprocessing;
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::quantize::scope;
use onnx_ptq4vit::report::CheckReport;

use super::engine::{EngineArgs, EngineName};
use super::images::ImageArgs;
use super::interrupt::whole;
use super::model::{InputArgs, ModelArgs, say};
use super::output::OutputArgs;
use super::page::{PageArgs, of_files, provenance, thumbnails};
use super::progress::Stderr;
use super::values::{ShardName, number, percent};

/// Compare a quantized model with its float model
///
/// Runs both on the same images, the quantized one in integer arithmetic; or both in stock ONNX Runtime (--engine). With a threshold (--max-drop, --min-agreement, and
/// others) the exit code is 1 if the quantized model misses it, or if the figures cannot be trusted. Many images may be shared
/// among machines: each runs a --shard, and --merge puts the parts together.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The float model
    #[arg(required_unless_present = "merge")]
    pub(super) float: Option<PathBuf>,
    /// The quantized model
    #[arg(required_unless_present = "merge")]
    pub(super) quantized: Option<PathBuf>,
    /// Images: a folder (searched recursively), an image, a CSV file with a column of paths, .npy or .npz
    #[arg(long, value_name = "PATH", required_unless_present = "merge")]
    pub(super) data: Option<PathBuf>,
    /// Use so many images; of a folder, a random sample [default: all]
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    /// Chooses the sample of a folder
    #[arg(long, default_value_t = 0, hide_short_help = true)]
    pub(super) seed: u64,
    /// A CSV file with the columns `path` and `label`; or `folders`: each class has a folder
    ///
    /// Labels are classes from 0, or their names. Without a column `path`, they are in the order of the data. Of a model that
    /// gives labels, an image may have any number: `3;7;12`, or several rows of one path.
    #[arg(long, value_name = "CSV|folders")]
    pub(super) labels: Option<PathBuf>,
    /// Compare the output of every quantized site, too
    #[arg(long, alias = "layers")]
    pub(super) sites: bool,
    /// The largest loss of top-1 accuracy (of labels: mAP) that passes, in percentage points
    #[arg(long, value_name = "POINTS", value_parser = percent, allow_negative_numbers = true)]
    pub(super) max_drop: Option<f64>,
    /// The smallest agreement with the float model that passes, in percent: of classes top-1, of boxes F1
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub(super) min_agreement: Option<f64>,
    /// The largest KL divergence from the float model that passes, in nats
    #[arg(long, value_name = "NATS", value_parser = number)]
    pub(super) max_kl: Option<f64>,
    /// The smallest mean cosine between the outputs of both models that passes
    #[arg(long, value_name = "COSINE", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub(super) min_cosine: Option<f64>,
    /// The smallest R² that passes, of a model that gives numbers
    #[arg(long, value_name = "R2", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub(super) min_r2: Option<f64>,
    /// Compare on the I-th of N parts of the images alone
    #[arg(long, value_name = "I/N", requires = "save", conflicts_with = "merge")]
    pub(super) shard: Option<ShardName>,
    /// Keep what is done in this file, and continue from it
    ///
    /// After an interruption the same command continues.
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    pub(super) save: Option<PathBuf>,
    /// Put the files of all shards together, in place of models and images
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["float", "quantized", "data", "labels", "limit", "sites", "engine"])]
    pub(super) merge: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) report: PageArgs,
    #[command(flatten)]
    pub(super) output_as: OutputArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) images: ImageArgs,
    #[command(flatten)]
    pub(super) reading: ModelArgs,
    #[command(flatten)]
    pub(super) inputs: InputArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val/ --labels val.csv
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val.npz --max-drop 1 --min-agreement 95
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val/ --shard 1/8 --save part1.json
  onnx-ptq4vit check --merge part*.json --max-drop 1";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Stderr::new();
    args.report.ensure_writable()?;
    let (report, mut page) = checked(args, &progress)?;
    let hashes = args.float.iter().chain(&args.quantized).map(PathBuf::as_path);
    page.provenance = provenance(of_files(hashes)?.into_iter().chain(std::mem::take(&mut page.provenance)));
    args.report.write(&page, &progress)?;
    args.output_as.print(&report)?;
    Ok(report.exit_code().into())
}

/// The comparison that is asked for, and a page about it if that is.
pub(super) fn checked(args: &Args, progress: &Stderr) -> Result<(CheckReport, Page)> {
    let (part, seen) = match args.merge.split_first() {
        None => {
            let (part, data, class_names) = compared(args, progress)?;
            (part, Some((data, class_names)))
        }
        Some((first, others)) => {
            let mut part = Part::read(first)?;
            for path in others {
                part.merge(Part::read(path)?).map_err(|e| Error::data(path.display(), e))?;
            }
            (part, None)
        }
    };
    progress.finish();
    let shard = args.shard.map(|ShardName(shard)| (shard.index + 1, shard.of));
    let comparison = if shard.is_some() { part.so_far() } else { part.comparison()? };
    let verdict = args.thresholds().judge(&comparison)?;
    let mut page = Page::default();
    if let (Some((data, class_names)), true) = (seen, args.report.report.is_some()) {
        page.thumbnails = thumbnails(&comparison, &data)?;
        page.provenance =
            data.preprocess().map(|how| ("preprocessing".to_string(), how.to_string())).into_iter().collect();
        page.class_names = class_names;
    }
    let [float, quantized] = part.models.clone();
    let warnings = progress.warnings();
    let report = CheckReport { float, quantized, shard, verdict, comparison, warnings };
    page.check = Some(report.clone());
    Ok((report, page))
}

impl Args {
    fn thresholds(&self) -> Thresholds {
        let mut thresholds = Thresholds::default();
        thresholds.max_drop = self.max_drop;
        thresholds.min_agreement = self.min_agreement;
        thresholds.max_kl = self.max_kl;
        thresholds.min_cosine = self.min_cosine;
        thresholds.min_r2 = self.min_r2;
        thresholds
    }
}

/// An error if what is needed to compare `float` with a model that will be made of it is missing.
pub(super) fn ensure_ready(args: &Args, float: &Prepared) -> Result<()> {
    args.engine.ensure_ready(args.sites)?;
    opened(args, float, None, &())?;
    Ok(())
}

/// The images that are asked for, and their labels.
fn opened(
    args: &Args,
    float: &Prepared,
    recorded: Option<Preprocess>,
    progress: &dyn Progress,
) -> Result<Dataset> {
    let path = args.data.as_ref().ok_or_else(|| Error::usage("--data is needed"))?;
    let selection = Selection { limit: args.limit, seed: args.seed, skip: 0 };
    let mut data = args.images.open(path, float, recorded, selection, false, progress)?;
    if let Some(labels) = &args.labels {
        let columns = args.images.columns(float)?;
        data = match labels.as_os_str() == "folders" {
            true => data.with_labels_of_folders(&columns)?,
            false => data.with_labels_of(labels, &columns)?,
        };
        data.notes.iter().for_each(|note| progress.note(&format!("labels: {note}")));
    }
    let reading = float.outputs()?.compared.1;
    if args.max_drop.is_some() && matches!(reading, Reading::Numbers | Reading::Maps | Reading::Features) {
        let why =
            format!("--max-drop needs a model that gives classes or labels, and this one gives {reading}");
        return Err(Error::usage(why).into());
    }
    if args.min_agreement.is_some_and(|percent| percent > 0.0 && percent <= 1.0) {
        progress.note("warning: --min-agreement is in percent: 1 is one image in a hundred");
    }
    if args.max_drop.is_some() && data.labels.is_none() && data.label_sets.is_none() {
        return Err(Error::usage("--max-drop needs labels: give --labels, or data that has them").into());
    }
    Ok(data)
}

/// Runs both models on the images that are asked for, which come with it, and the names of the classes.
fn compared(args: &Args, progress: &Stderr) -> Result<(Part, Dataset, Vec<String>)> {
    let missing = || Error::usage("two models and --data are needed");
    let (float_path, quantized_path) =
        args.float.as_ref().zip(args.quantized.as_ref()).ok_or_else(missing)?;
    let path = args.data.as_ref().ok_or_else(missing)?;
    args.engine.ensure_ready(args.sites)?;
    if args.shard.is_some() && args.thresholds() != Thresholds::default() {
        return Err(Error::usage("a threshold is for all images: give it to --merge, not to a shard").into());
    }
    let float = args.inputs.give(args.reading.read(float_path)?, path)?;
    let quantized = args.inputs.give(args.reading.read(quantized_path)?, path)?;
    ensure_kinds(&float, &quantized)?;
    say(&float, progress)?;

    let recorded = preprocessing::recorded(&quantized)?;
    let mut data = opened(args, &float, recorded.clone(), progress)?;
    let class_names = args.images.class_names(&float)?;
    let conflicts = args.images.conflicts(&data, &float, recorded.as_ref(), progress)?;
    let image = data.item_shape();
    let outputs = float.outputs()?;
    let of_labels = matches!(outputs.compared.1, Reading::LabelLogits | Reading::LabelProbabilities);
    let of_classes = matches!(outputs.compared.1, Reading::Logits(_) | Reading::Probabilities);
    let mut unused = || match of_labels {
        true => false,
        false => data.label_sets.take().is_some() | (!of_classes && data.labels.take().is_some()),
    };
    if args.labels.is_none() && unused() {
        progress
            .note(&format!("the labels of the data are not used: the model gives {}", outputs.compared.1));
    }
    let all_computed = args.engine.name == EngineName::Onnxruntime;
    let mut scope = scope(&float, &quantized, all_computed)?;
    scope.shard = args.shard.map_or(Shard::default(), |ShardName(shard)| shard);
    if args.sites {
        scope.sites = same_values(&float, &quantized)?;
    }
    let identity =
        Identity { float_sha256: float.sha256().into(), quantized_sha256: quantized.sha256().into() };
    let models = [float_path, quantized_path].map(|path| path.display().to_string());
    let quantized = args.engine.engine(&quantized, image)?;
    let float = args.engine.engine(&float, image)?;
    let resume = match &args.save {
        Some(path) if path.try_exists().map_err(|e| Error::io(path, e))? => Some(Part::read(path)?),
        _ => None,
    };
    let dressed = |part: &Part| {
        let mut part = part.clone();
        part.models.clone_from(&models);
        part.doubts.extend(conflicts.iter().cloned());
        part
    };
    let is_judged = Cell::new(false);
    let save = |part: &Part| {
        // A threshold that the model has no figure for is told by the first images, not behind the last.
        if !is_judged.replace(true) {
            args.thresholds().judge(&part.so_far())?;
        }
        match &args.save {
            Some(path) => whole(|| dressed(part).write(path)),
            None => Ok(()),
        }
    };
    let resumed = resume.is_some();
    let part =
        compare_part(&*float, &*quantized, &data, &scope, Run { identity, resume, save: &save }, progress);
    let part = part.map_err(|error| match (&args.save, error.place()) {
        (Some(path), Some("parts")) if resumed => {
            Error::usage(format!("{}: {error}; it is not overwritten", path.display()))
        }
        _ => error,
    })?;
    save(&part)?;
    let part = dressed(&part);
    Ok((part, data, class_names))
}

/// An error unless the one model is float and the other quantized.
fn ensure_kinds(float: &Prepared, quantized: &Prepared) -> Result<()> {
    let name = |model: &Prepared| model.path().map_or(String::new(), |path| path.display().to_string());
    let why = match (float.is_quantized(), quantized.is_quantized()) {
        (false, true) => return Ok(()),
        (true, false) => "the arguments are swapped: the float model comes first".into(),
        (true, true) => format!("{} is quantized: the float model comes first", name(float)),
        (false, false) => format!("{} is not quantized", name(quantized)),
    };
    Err(Error::usage(why).into())
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
pub(super) fn goes_into_softmax(graph: &Graph, value: &str) -> bool {
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
