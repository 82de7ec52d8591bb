//! A comparison in parts: blocks of images, which several machines may share, and which add up to the same figures.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Comparison;
use super::comparison::Names;
use super::tally::Tally;
use crate::engine::BUILT_IN;
use crate::{Error, Result, files};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 30;

/// More than any set of images has.
const MOST_IMAGES: usize = 1 << 28;

/// Which of the blocks of images are compared: those at `index`, `index + of`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// How many shards there are.
    pub of: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl Shard {
    /// Whether a block is one of this shard.
    pub(super) fn has(self, block: usize) -> bool {
        block % self.of == self.index
    }
}

/// What a comparison is of: parts of the same one have the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subject {
    pub(super) tool: String,
    pub(super) float_sha256: String,
    pub(super) quantized_sha256: String,
    /// What ran the float and the quantized model.
    #[serde(default = "built_in")]
    pub(super) engines: [String; 2],
    /// Of the names of the images, their labels, and how they are prepared.
    pub(super) data_sha256: String,
    pub(super) images: usize,
    /// Images in one block.
    pub(super) block: usize,
    pub(super) labelled: bool,
    pub(super) names: Names,
}

/// What ran the models of parts that do not say it.
fn built_in() -> [String; 2] {
    [BUILT_IN; 2].map(Into::into)
}

/// Blocks of a comparison that are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub(super) subject: Subject,
    pub(super) blocks: BTreeMap<usize, Tally>,
    /// The files of the float and of the quantized model.
    pub models: [String; 2],
    /// What else casts doubt on it.
    pub doubts: BTreeSet<String>,
}

impl Part {
    pub(super) fn new(subject: Subject) -> Self {
        Self { subject, blocks: BTreeMap::new(), models: Default::default(), doubts: BTreeSet::new() }
    }

    /// Reads a file that [`write`](Self::write) made.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_json(&files::read(path, LARGEST_FILE)?).map_err(|why| Error::data(path.display(), why))
    }

    /// Reads the content of such a file; else says what is wrong with it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let part: Self =
            serde_json::from_slice(text).map_err(|e| format!("not a part of a comparison: {e}"))?;
        match part.is_sound() {
            true => Ok(part),
            false => Err("its blocks contradict each other".into()),
        }
    }

    fn is_sound(&self) -> bool {
        let Subject { images, block, names, .. } = &self.subject;
        let count = |at: usize| images.saturating_sub(at.saturating_mul(*block)).min(*block);
        *block > 0
            && *images <= MOST_IMAGES
            && self.blocks.values().all(Tally::is_sound)
            && self.blocks.iter().all(|(at, tally)| {
                let sites = [(&tally.others, &names.others), (&tally.sites, &names.sites)];
                tally.images == count(*at)
                    && tally.images > 0
                    && sites.iter().all(|(sums, names)| sums.len() == names.len())
            })
    }

    /// Writes it as JSON, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write(path, |file| Ok(serde_json::to_writer(file, self)?))
    }

    /// Adds another part of the same comparison; an error if it is of another, or if both have a block.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if other.subject != self.subject {
            return Err(Error::data(
                "parts",
                "they are not of one comparison: models, engines, images or options differ",
            ));
        }
        for (at, tally) in other.blocks {
            if self.blocks.insert(at, tally).is_some() {
                return Err(Error::data("parts", format!("block {at} of the images is in two of them")));
            }
        }
        self.doubts.extend(other.doubts);
        Ok(())
    }

    /// The number of blocks that all images make.
    pub(super) fn total(&self) -> usize {
        self.subject.images.div_ceil(self.subject.block)
    }

    /// The images of the blocks that are done.
    pub fn images(&self) -> usize {
        self.blocks.values().map(|tally| tally.images).sum()
    }

    /// The figures of all images; an error that says what is missing.
    pub fn comparison(&self) -> Result<Comparison> {
        let missing: Vec<usize> = (0..self.total()).filter(|at| !self.blocks.contains_key(at)).collect();
        if let Some(first) = missing.first() {
            let (count, total, size) = (missing.len(), self.total(), self.subject.block);
            let why = format!(
                "{count} of {total} blocks of {size} images are missing, the first from image {}",
                first * size
            );
            return Err(Error::data("parts", why));
        }
        Ok(self.so_far())
    }

    /// The figures of the blocks that are done.
    pub fn so_far(&self) -> Comparison {
        // In the order of the images: sums of floats depend on it.
        let mut total = Tally::default();
        self.blocks.values().for_each(|tally| total.add(tally));
        let mut comparison = Comparison::of(&total, self.subject.labelled, &self.subject.names);
        comparison.engines.clone_from(&self.subject.engines);
        comparison.doubts.splice(0..0, self.doubts.iter().cloned());
        comparison
    }
}
