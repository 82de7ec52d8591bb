//! `bench`: how fast a model is, beside another one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use ndarray::Array4;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::engine::{Arithmetic, Engine, OperatorTime};
use onnx_ptq4vit::onnxruntime::OnnxRuntime;
use onnx_ptq4vit::prepare::Pixels;
use onnx_ptq4vit::report::{Align, table};
use onnx_ptq4vit::text::shown;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::engine::{EngineArgs, EngineName, builtin};
use super::model::{InputArgs, ModelArgs};
use super::output::print;
use super::values;

/// Measure how fast a model runs
///
/// A quantized model runs in integer arithmetic, a float model in tract. The images are noise: their content costs
/// nothing. With --against or --against-engine, two take turns, so that both see the same machine.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The model
    pub(super) model: PathBuf,
    /// Another model to compare with, usually the float one
    #[arg(long, value_name = "MODEL")]
    pub(super) against: Option<PathBuf>,
    /// What runs the other model; without --against, the same model once more [default: as --engine]
    #[arg(long, value_name = "ENGINE")]
    pub(super) against_engine: Option<EngineName>,
    /// Images in one run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) batch: u16,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// The size of an image, where the model leaves it open
    #[arg(long, value_name = "PIXELS|HxW", default_value = "224")]
    pub(super) size: values::Pixels,
    /// Also say where the time of a quantized model goes, by operator
    #[arg(long)]
    pub(super) profile: bool,
    /// Print as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    #[command(flatten)]
    pub(super) reading: ModelArgs,
    #[command(flatten)]
    pub(super) inputs: InputArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit bench vit.int8.onnx --against vit.onnx
  onnx-ptq4vit bench vit.int8.onnx --batch 8 --threads 2
  onnx-ptq4vit bench vit.int8.onnx --against-engine onnxruntime";

/// Runs that are measured even if they take longer than asked.
const LEAST_RUNS: usize = 5;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("expected 0 to 86400".into()) }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    print(&measured(args)?, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What is measured of the models that are asked for.
pub(super) fn measured(args: &Args) -> Result<Report> {
    let mut models = vec![(&args.model, args.engine.name)];
    if args.against.is_some() || args.against_engine.is_some() {
        let engine = args.against_engine.unwrap_or(args.engine.name);
        models.push((args.against.as_ref().unwrap_or(&args.model), engine));
    }
    if args.profile && args.engine.name != EngineName::Builtin {
        return Err(Error::usage("--profile needs --engine builtin: ONNX Runtime does not tell").into());
    }
    let load = |(path, engine): (&PathBuf, _)| Candidate::load(path, engine, args);
    let models = models.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    measure(models, args)
}

/// A model that is ready to run, and its images.
struct Candidate {
    name: String,
    engine: Box<dyn Engine>,
    images: Array4<f32>,
    load: Duration,
}

impl Candidate {
    fn load(path: &Path, engine: EngineName, args: &Args) -> Result<Self> {
        let start = Instant::now();
        let model = args.inputs.give(args.reading.read(path)?, Path::new(""))?;
        let input = model.input()?;
        let [_, channels, height, width] = input.dims;
        let [open_height, open_width] = args.size.sides().map(|side| side as usize);
        let image = [channels.unwrap_or(3), height.unwrap_or(open_height), width.unwrap_or(open_width)];
        let batch = usize::from(args.batch);
        let engine: Box<dyn Engine> = match engine {
            EngineName::Builtin => builtin(&model, image)?,
            EngineName::Onnxruntime => {
                Box::new(OnnxRuntime::alone(&args.engine.library()?, &model, image, batch)?)
            }
        };
        let load = start.elapsed();
        let fixed = engine.input_shape()[0];
        if !batch.is_multiple_of(fixed) {
            let why = format!("--batch {batch}: the model fixes batches of {fixed}");
            return Err(Error::usage(why).into());
        }
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let images =
            Array4::from_shape_simple_fn([batch, image[0], image[1], image[2]], || match input.pixels {
                Pixels::Bytes(_) => f32::from(random.random::<u8>()),
                _ => random.random_range(-1.0..1.0),
            });
        Ok(Self { name: path.display().to_string(), engine, images, load })
    }

    /// How long one run takes.
    fn run(&self) -> Result<Duration> {
        let start = Instant::now();
        self.engine.run(&self.images.view())?;
        Ok(start.elapsed())
    }
}

/// One run of each in turn, until the time is up.
fn measure(models: Vec<Candidate>, args: &Args) -> Result<Report> {
    let first = models.iter().map(Candidate::run).collect::<Result<Vec<_>>>()?;
    let mut times = vec![Vec::new(); models.len()];
    let start = Instant::now();
    while times[0].len() < LEAST_RUNS || start.elapsed().as_secs_f64() < args.seconds {
        for (times, model) in times.iter_mut().zip(&models) {
            times.push(model.run()?);
        }
    }
    let mut profile = Vec::new();
    if args.profile {
        profile = models[0].engine.profile(&models[0].images.view())?;
        for time in &mut profile {
            time.seconds /= f64::from(args.batch);
        }
    }
    let batch = usize::from(args.batch);
    let models = models.into_iter().zip(first).zip(times);
    let models: Vec<Speed> =
        models.map(|((model, first), times)| Speed::new(model, first, times, batch)).collect();
    let ratio = models.get(1).map(|other| other.p50_ms / models[0].p50_ms);
    Ok(Report { batch, threads: rayon::current_num_threads(), models, ratio, profile })
}

/// What is printed.
#[derive(Serialize)]
pub(super) struct Report {
    batch: usize,
    pub(super) threads: usize,
    pub(super) models: Vec<Speed>,
    /// How many times as fast as the second model the first one is, by the medians.
    ratio: Option<f64>,
    /// Of the first model, an image.
    profile: Vec<OperatorTime>,
}

/// Milliseconds of one model.
#[derive(Serialize)]
pub(super) struct Speed {
    model: String,
    pub(super) engine: String,
    kind: Arithmetic,
    runs: usize,
    load_ms: f64,
    /// The first run after loading.
    first_ms: f64,
    pub(super) p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    /// By the mean.
    images_per_second: f64,
}

impl Speed {
    fn new(model: Candidate, first: Duration, mut times: Vec<Duration>, batch: usize) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        times.sort_unstable();
        let total: Duration = times.iter().sum();
        let percentile = |percent: usize| ms(times[(times.len() * percent / 100).min(times.len() - 1)]);
        Self {
            model: model.name,
            engine: model.engine.name(),
            kind: model.engine.arithmetic(),
            runs: times.len(),
            load_ms: ms(model.load),
            first_ms: ms(first),
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
            images_per_second: (batch * times.len()) as f64 / total.as_secs_f64(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let Self { batch, threads, .. } = self;
        writeln!(f, "batch {batch}, {threads} thread{}; milliseconds per run", plural(*threads))?;
        let heading = ["model", "engine", "arithmetic", "load", "first", "p50", "p90", "p99", "images/s"];
        let mut align = [Align::Right; 9];
        align[..3].fill(Align::Left);
        let rows = self.models.iter().map(|speed| {
            let ms = [speed.load_ms, speed.first_ms, speed.p50_ms, speed.p90_ms, speed.p99_ms];
            let numbers = ms.into_iter().chain([speed.images_per_second]).map(|x| format!("{x:.1}"));
            [speed.model.clone(), speed.engine.clone(), speed.kind.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        });
        f.write_str(&table(&heading, &align, rows))?;
        if let Some(ratio) = self.ratio {
            let [first, other] = [0, 1].map(|at| &self.models[at]);
            let engine = match first.engine == other.engine {
                true => String::new(),
                false => format!(" in {}", other.engine),
            };
            writeln!(f, "{ratio:.2} times as fast as {}{engine}", shown(&other.model))?;
        }
        if self.profile.is_empty() {
            return Ok(());
        }
        let total: f64 = self.profile.iter().map(|time| time.seconds).sum();
        let rows = self.profile.iter().map(|OperatorTime { operator, nodes, seconds }| {
            let share = format!("{:.1} %", 100.0 * seconds / total);
            vec![operator.clone(), nodes.to_string(), format!("{:.2}", seconds * 1e3), share]
        });
        let mut align = [Align::Right; 4];
        align[0] = Align::Left;
        write!(
            f,
            "\nby operator, for one image\n{}",
            table(&["operator", "nodes", "ms", "share"], &align, rows)
        )
    }
}
