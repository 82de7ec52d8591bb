//! How close a quantized model is to the float model it came from, on images.

mod boxes;
mod comparison;
mod doubts;
mod figures;
mod neighbours;
mod notable;
mod parts;
mod precision;
pub mod statistics;
mod tally;
mod verdict;

use std::ops::Range;

use ndarray::{ArrayD, ArrayViewD};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use boxes::Boxes;
pub use comparison::{
    Accuracy, Classifier, Comparison, Drop, Features, Labels, Numbers, OutputFigures, SiteFigures, TopK,
};
pub use figures::{Sqnr, binary_kl, cosine, distance, kl, probability_kl, rank, top};
pub use notable::{Answer, NotableImage};
pub use parts::{Part, Shard};
pub use precision::Precision;
pub use verdict::{Criterion, Thresholds, Verdict};

use crate::data::Dataset;
use crate::engine::{Detector, Engine, Reading, Tapped};
use crate::progress::Progress;
use crate::{Error, Result, files};
use boxes::{BoxCounts, Given};
use comparison::Names;
use neighbours::same_neighbours;
use parts::Subject;
use precision::{MOST_SCORES, Scores};
use tally::Tally;

/// Images in one block, at least: what parts of a comparison are made of, and among which neighbours are looked for.
pub const BLOCK: usize = 64;

/// What is compared, beside the outputs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scope {
    /// How the output is read.
    pub reading: Reading,
    /// The names of the other outputs that are compared.
    pub others: Vec<String>,
    /// Which of the outputs are boxes: of the FLOAT ones, the output and those in `others`.
    pub detector: Option<Detector>,
    /// The sites whose outputs are compared, too.
    pub sites: Vec<SiteOutput>,
    /// Which blocks of the images are compared.
    pub shard: Shard,
}

/// The output of a site, which both models have.
#[derive(Clone, Debug)]
pub struct SiteOutput {
    /// The site.
    pub name: String,
    /// The name of the value.
    pub value: String,
    /// Whether a Softmax takes it, which forgets what is added to a whole row.
    pub before_softmax: bool,
}

/// Who compares: the hashes of both models.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// SHA-256 of the float model.
    pub float_sha256: String,
    /// SHA-256 of the quantized model.
    pub quantized_sha256: String,
}

/// A comparison that is under way.
pub struct Run<'r> {
    /// Whose parts may be put together.
    pub identity: Identity,
    /// Continue from what was done before.
    pub resume: Option<Part>,
    /// Called with all that is done, after some more was.
    pub save: &'r dyn Fn(&Part) -> Result<()>,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { identity: Identity::default(), resume: None, save: &|_| Ok(()) }
    }
}

/// Batches between two looks for an error.
const CHUNK: usize = 32;

/// Runs both models on every image of `data` and compares what they give.
///
/// The result is the same on any number of threads. Each thread holds one batch.
pub fn compare(
    float: &dyn Engine,
    quantized: &dyn Engine,
    data: &Dataset,
    scope: &Scope,
    progress: &dyn Progress,
) -> Result<Comparison> {
    compare_part(float, quantized, data, scope, Run::default(), progress)?.comparison()
}

/// As [`compare`], of the blocks of one shard alone. The parts of all shards together have the figures of the whole, to the
/// last bit.
pub fn compare_part(
    float: &dyn Engine,
    quantized: &dyn Engine,
    data: &Dataset,
    scope: &Scope,
    run: Run,
    progress: &dyn Progress,
) -> Result<Part> {
    let shape = float.input_shape();
    if shape != quantized.input_shape() {
        let quantized = quantized.input_shape();
        let why = format!("the float model takes {shape:?} (N, C, H, W), the quantized model {quantized:?}");
        return Err(Error::model("input", why));
    }
    let of_labels = matches!(scope.reading, Reading::LabelLogits | Reading::LabelProbabilities);
    if data.label_sets.is_some() && !of_labels {
        let why = format!("images have several, but the model gives {}", scope.reading);
        return Err(Error::data("labels", why));
    }
    let batch = shape[0].max(1);
    let block = BLOCK.next_multiple_of(batch);
    let mut part = Part::new(subject(run.identity, [float.name(), quantized.name()], data, scope, block)?);
    if let Some(earlier) = run.resume {
        part.merge(earlier)?;
    }
    let of_shard = (0..part.total()).filter(|at| scope.shard.has(*at));
    let left: Vec<usize> = of_shard.filter(|at| !part.blocks.contains_key(at)).collect();
    let size = |at: usize| data.len().min((at + 1) * block) - at * block;
    progress.stage("compare both models", left.iter().map(|at| size(*at) as u64).sum());
    for blocks in left.chunks((CHUNK * batch).div_ceil(block)) {
        let starts: Vec<(usize, usize)> = blocks
            .iter()
            .flat_map(|&at| (at * block..at * block + size(at)).step_by(batch).map(move |start| (at, start)))
            .collect();
        let batches: Vec<Result<Batch>> = starts
            .par_iter()
            .map(|&(_, start)| Batch::compared(float, quantized, data, start, batch, scope, progress))
            .collect();
        // In the order of the images: neither sums nor the first error depend on the threads.
        let mut found: Vec<(usize, Batch)> = Vec::new();
        for (&(at, _), batch) in starts.iter().zip(batches) {
            let batch = batch?;
            match found.last_mut().filter(|(last, _)| *last == at) {
                Some((_, sum)) => sum.add(batch),
                None => found.push((at, batch)),
            }
        }
        part.blocks.extend(found.into_iter().map(|(at, batch)| (at, batch.tally())));
        (run.save)(&part)?;
    }
    Ok(part)
}

fn subject(
    identity: Identity,
    engines: [String; 2],
    data: &Dataset,
    scope: &Scope,
    block: usize,
) -> Result<Subject> {
    let preprocess = data.preprocess().map(serde_json::to_string).transpose();
    let preprocess = preprocess.map_err(|e| Error::data("preprocessing", e))?.unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update(preprocess);
    for name in &data.names {
        hash.update(name);
        hash.update([0]);
    }
    data.labels.iter().flatten().for_each(|label| hash.update(label.to_le_bytes()));
    for set in data.label_sets.iter().flatten() {
        hash.update((set.len() as u64).to_le_bytes());
        for label in set {
            hash.update(label.to_le_bytes());
        }
    }
    if let Some(array) = data.array() {
        array.iter().for_each(|x| hash.update(x.to_le_bytes()));
    }
    let sites = scope.sites.iter().map(|site| site.name.clone()).collect();
    Ok(Subject {
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
        float_sha256: identity.float_sha256,
        quantized_sha256: identity.quantized_sha256,
        engines,
        data_sha256: files::hex(&hash.finalize()),
        images: data.len(),
        block,
        labelled: data.labels.is_some() || data.label_sets.is_some(),
        names: Names { others: scope.others.clone(), sites },
    })
}

/// The boxes among what a model gives for the images `names`; an error if they are not finite.
fn given<'t>(
    (model, found): (&str, &'t Tapped),
    detector: &Detector,
    scope: &Scope,
    names: &[String],
) -> Result<Given<'t>> {
    let value = |name: &String| {
        let at = scope.others.iter().position(|other| other == name);
        at.map_or(&found.output, |at| &found.values[at])
    };
    let boxes = value(&detector.boxes);
    let scores = value(&detector.scores);
    let values = [(&detector.boxes, boxes), (&detector.scores, scores)];
    for (name, of) in values.into_iter().filter(|(_, of)| of.ndim() > 0) {
        let mut of_images = of.outer_iter().zip(names);
        let wrong =
            |(of, image): (ArrayViewD<f32>, _)| Some((of.iter().copied().find(|x| !x.is_finite())?, image));
        if let Some((x, image)) = of_images.find_map(wrong) {
            return Err(Error::model(model, format!("its output `{name}` for `{image}` holds {x}")));
        }
    }
    let classes = detector.classes.as_ref().and(found.values.last());
    Ok(Given { scores, boxes, classes })
}

/// The labels of some images, which may be one of each.
fn label_sets(data: &Dataset, range: Range<usize>) -> Option<Vec<Vec<u32>>> {
    let sets = data.label_sets.as_ref().map(|sets| sets[range.clone()].to_vec());
    let single = |labels: &Vec<u32>| labels[range].iter().map(|label| vec![*label]).collect();
    sets.or_else(|| data.labels.as_ref().map(single))
}

/// The sums over a batch, or several of one block, and the features of its images.
struct Batch {
    tally: Tally,
    features: [Vec<Vec<f32>>; 2],
}

impl Batch {
    fn compared(
        float: &dyn Engine,
        quantized: &dyn Engine,
        data: &Dataset,
        start: usize,
        batch: usize,
        scope: &Scope,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let end = data.len().min(start + batch);
        let images = data.batch(start..end)?;
        let values = scope.sites.iter().map(|site| &site.value);
        let classes = scope.detector.iter().filter_map(|detector| detector.classes.as_ref());
        let taps: Vec<&str> = scope.others.iter().chain(values).chain(classes).map(String::as_str).collect();
        let found = quantized.run_tapped(&images.view(), &taps)?;
        let expected = float.run_tapped(&images.view(), &taps)?;
        let names = &data.names[start..end];
        let of_labels = matches!(scope.reading, Reading::LabelLogits | Reading::LabelProbabilities);
        let labels = data.labels.as_ref().filter(|_| !of_labels).map(|labels| &labels[start..end]);
        let mut tally = Tally::of_outputs(&expected.output, &found.output, scope.reading, names, labels)?;
        if of_labels && tally.classes.saturating_mul(data.len()) <= MOST_SCORES {
            let [float, quantized] = [&expected.output, &found.output].map(|of| of.iter().copied());
            let given = label_sets(data, start..end);
            tally.scores = Scores::of(float, quantized, tally.classes, given.as_deref())
                .map_err(|why| Error::data("labels", why))?;
        }
        if let Some(detector) = &scope.detector {
            let given = |of| given(of, detector, scope, names);
            tally.boxes = BoxCounts::of(
                detector,
                &given(("float model", &expected))?,
                &given(("quantized model", &found))?,
            );
        }
        let (others, sites) = found.values.split_at(scope.others.len());
        let (expected_others, expected_sites) = expected.values.split_at(scope.others.len());
        for ((name, found), expected) in scope.others.iter().zip(others).zip(expected_others) {
            tally.add_other(name, expected, found)?;
        }
        for ((site, found), expected) in scope.sites.iter().zip(sites).zip(expected_sites) {
            tally.add_site(site, expected, found)?;
        }
        for name in names {
            progress.step(name, 1);
        }
        let has_features = tally.reading == Reading::Features && tally.boxes.is_none();
        let rows = |of: &ArrayD<f32>| match has_features {
            true => of.outer_iter().map(|row| row.iter().copied().collect()).collect(),
            false => Vec::new(),
        };
        let features = [rows(&expected.output), rows(&found.output)];
        Ok(Self { tally, features })
    }

    fn add(&mut self, next: Self) {
        self.tally.add(&next.tally);
        for (own, more) in self.features.iter_mut().zip(next.features) {
            own.extend(more);
        }
    }

    fn tally(self) -> Tally {
        let [float, quantized] = &self.features;
        Tally { neighbours: same_neighbours(float, quantized), ..self.tally }
    }
}
