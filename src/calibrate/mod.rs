//! From images to scales: record every site of the float model, then search (PTQ4ViT, Algorithm 1).

mod bias;
mod calibration;
mod codes;
mod convolution;
mod curves;
mod fold;
mod gram;
mod heads;
mod histogram;
mod linear;
pub mod loss;
mod memory;
mod metric;
mod options;
mod outliers;
mod problems;
mod record;
mod rounding;
pub mod search;
mod shares;

pub use calibration::{Calibration, EARLIER, Provenance, SiteScales};
pub use codes::WeightCodes;
pub use curves::{CurvePoint, SiteCurves, curves, shown_scale, values_of};
pub use fold::Fold;
pub use histogram::{Histogram, Stretch};
pub use loss::Gradient;
pub use metric::Metric;
pub use options::{Options, Preset, WeightScales};
pub use problems::weight_len;
pub use search::Search;

use crate::Result;
use crate::data::Dataset;
use crate::plan::{Plan, ensure_finite};
use crate::prepare::Prepared;
use crate::progress::Progress;
use options::SiteBits;
use prost::Message as _;
use record::{Footprint, Recorder, SiteFootprint, some_of};

/// How a calibration is done; none of this changes its result.
pub struct Run<'r> {
    /// How thoroughly the search looks.
    pub search: Search,
    /// How much memory the process may take, in bytes. Sites that do not fit at once are recorded in groups, one after
    /// another.
    pub memory: usize,
    /// What an earlier run has finished, of this model, with these images and these options: anything else is an error.
    pub resume: Option<Calibration>,
    /// Called after every site, with what is finished.
    pub save: &'r dyn Fn(&Calibration) -> Result<()>,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { search: Search::Pruned, memory: 4 << 30, resume: None, save: &|_| Ok(()) }
    }
}

/// Searches the scales of every site of `plan` on `images`.
///
/// The result depends on the model, the images and the options alone, not on the run or the number of threads.
pub fn calibrate(
    model: &Prepared,
    plan: &Plan,
    images: &Dataset,
    options: &Options,
    run: Run,
    progress: &dyn Progress,
) -> Result<Calibration> {
    options.validate()?;
    ensure_finite(model, plan)?;
    let recorder = Recorder::new(model, plan, images, options)?;
    let provenance = |images_sha256| Provenance {
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
        model_sha256: model.sha256().into(),
        images: images.len(),
        images_sha256,
        preprocessing: images.preprocess().cloned(),
        options: *options,
    };
    // The digest of the images is known after the first recording; only a resumed run has to ask for it before.
    let mut sites = Vec::new();
    if let Some(earlier) = run.resume {
        earlier.ensure_begins(&provenance(String::new()), plan, || recorder.images_sha256())?;
        sites = earlier.sites;
    }
    let done = sites.len();
    if done == plan.sites.len() {
        return Ok(Calibration { provenance: provenance(recorder.images_sha256()?), sites });
    }
    if done > 0 {
        progress.note(&format!("{done} of {} sites were calibrated before", plan.sites.len()));
    }

    recorder.notes().iter().for_each(|note| progress.note(note));
    let bits: Vec<SiteBits> = plan.sites.iter().map(|site| options.bits_of(model.graph(), site)).collect();
    let groups = Groups::new(model, plan, &recorder, (options, &bits), done, run.memory)?;
    let mut solver = problems::Solver::new(model.graph(), plan, options, run.search, bits, &sites);
    let mut flat: Vec<String> = Vec::new();
    for (i, group) in groups.division.groups.iter().enumerate() {
        let part = groups.part(i);
        progress.stage(&format!("record values and gradients{part}"), recorder.batches() as u64);
        let records = recorder.record(group.clone(), groups.division.at_once, progress)?;
        let provenance = provenance(recorder.images_sha256()?);
        let mut calibration = Calibration { provenance, sites };
        let work: Vec<u64> = group.clone().map(|site| groups.work(site)).collect();
        progress.stage(&format!("search scales{part}"), work.iter().sum());
        for ((site, record), work) in plan.sites[group.clone()].iter().zip(records).zip(work) {
            if record.is_flat() {
                flat.push(format!("`{}`", site.name));
            }
            solver.solve(record, &mut calibration.sites)?;
            progress.step(&site.name, work);
            (run.save)(&calibration)?;
        }
        sites = calibration.sites;
    }
    if !flat.is_empty() {
        progress.note(&format!(
            "warning: {} of {} sites have a gradient of zero, as behind a Round: for {} the squared error of the site \
             itself was the metric",
            flat.len(),
            plan.sites.len(),
            some_of(&flat),
        ));
    }
    Ok(Calibration { provenance: provenance(recorder.images_sha256()?), sites })
}

/// The sites, divided into groups that are recorded one after another.
struct Groups {
    footprint: Footprint,
    /// Bytes of the weight of each site.
    weights: Vec<usize>,
    division: memory::Division,
}

impl Groups {
    /// Those from site `done` on, such that the process keeps within `memory` bytes.
    fn new(
        model: &Prepared,
        plan: &Plan,
        recorder: &Recorder,
        (options, bits): (&Options, &[SiteBits]),
        done: usize,
        memory: usize,
    ) -> Result<Self> {
        let (footprint, graph) = (recorder.footprint()?, model.graph());
        let weights: Vec<usize> =
            plan.sites.iter().map(|site| problems::weight_len(graph, site) * 4).collect();
        // A Gram matrix, one of both kinds of rows, and the factor, in f64; and the factor in f32, halved.
        let gram = |depth: usize| depth * depth * (3 * size_of::<f64>() + size_of::<f32>() / 2);
        let depth = |(site, bits): (_, &SiteBits)| match options.rounds_in_turn(bits.b) {
            true => problems::weight_depth(graph, site),
            false => 0,
        };
        let grams: Vec<usize> = plan.sites.iter().zip(bits).map(|at| gram(depth(at))).collect();
        let demand = memory::Demand {
            footprint: &footprint,
            weights: &weights,
            grams: &grams,
            batches: recorder.batches(),
            model: model.model().proto.encoded_len(),
            metric: options.metric,
        };
        let limits = memory::Limits { threads: rayon::current_num_threads(), memory };
        let division = memory::divide(demand, done, limits)?;
        Ok(Self { footprint, weights, division })
    }

    /// What is added to the name of a stage for group number `index`.
    fn part(&self, index: usize) -> String {
        match self.division.groups.len() {
            1 => String::new(),
            parts => format!(" (part {} of {parts})", index + 1),
        }
    }

    /// The work of one evaluation of a site: its multiplications, and its outputs, whose errors are summed.
    fn work(&self, site: usize) -> u64 {
        let SiteFootprint { a, b, output, heads } = self.footprint.sites[site];
        // (M·K)·(K·N)·(M·N) is the square of the multiplications.
        let [a, b, output] = [a, self.weights[site] + b, output].map(|bytes| bytes as f64 / 4.0);
        ((a * b * output / heads as f64).sqrt() + 16.0 * output) as u64
    }
}
