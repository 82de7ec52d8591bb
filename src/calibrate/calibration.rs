//! The result of a calibration, and its JSON file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Options;
use super::codes::WeightCodes;
use super::fold::Fold;
use crate::data::Preprocess;
use crate::plan::{Plan, Site};
use crate::prepare::{Prepared, hex_digest};
use crate::quant::{Bits, Quantizer, Scale};
use crate::{Error, Result, files};

/// The largest file that is read, in bytes: codes of weights take four thirds of a byte each.
const LARGEST_FILE: u64 = 2 << 30;

/// The place of an error about the calibration that a run was to begin with.
pub const EARLIER: &str = "earlier calibration";

/// The scales of every site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Where the scales come from.
    pub provenance: Provenance,
    /// In the order of the graph.
    pub sites: Vec<SiteScales>,
}

/// Where a calibration comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name and version of this tool.
    pub tool: String,
    /// SHA-256 of the float model.
    pub model_sha256: String,
    /// Size of the calibration set.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// SHA-256 of the batches of the calibration set.
    #[serde(rename = "pictures_sha256")]
    pub images_sha256: String,
    /// How the images were prepared; `None` if they came as arrays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Preprocess>,
    /// The choices made.
    pub options: Options,
}

/// The scales of one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteScales {
    /// The site's name.
    pub name: String,
    /// Number of axes of the lhs.
    pub a_rank: usize,
    /// Quantizers of the lhs: one, or one per head.
    pub a: Vec<Quantizer>,
    /// Δ of the rhs: one, one for each of Q, K and V, one per output channel, or one per head.
    pub b: Vec<Scale>,
    /// Δ of the 8-bit codes of the output, bias included: a Conv has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Scale>,
    /// The channels of a linear layer's lhs (columns of A, rows of B) that stay in float, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outliers: Vec<usize>,
    /// What the normalization before a linear layer does to the channels of the lhs in place of the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<Fold>,
    /// What the columns of a weight are multiplied by, where attention takes them in another range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<f32>>,
    /// The codes of the weight, where they are not the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<WeightCodes>,
    /// The bias of a linear layer, where it is another than that of the float model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<Vec<f32>>,
    /// The part of `bias` that makes up for the mean error of the codes: in float there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Vec<f32>>,
    /// k of the rhs.
    pub b_bits: Bits,
    /// The metric's sum over the calibration set.
    pub loss: f64,
}

impl SiteScales {
    /// Those of `site` before they are found.
    pub(super) fn new(site: &Site, a_rank: usize, b_bits: Bits) -> Self {
        Self {
            name: site.name.clone(),
            a_rank,
            a: vec![],
            b: vec![],
            output: None,
            outliers: vec![],
            fold: None,
            columns: None,
            codes: None,
            bias: None,
            correction: None,
            b_bits,
            loss: 0.0,
        }
    }

    /// The same ranges, with an lhs of `a` bits and a rhs of `b` bits, whose weights are rounded to the nearest code.
    pub fn with_bits(&self, a: Bits, b: Bits) -> Result<Self> {
        let of_b = |&scale: &Scale| match (Quantizer::Uniform { scale, bits: self.b_bits }).with_bits(b)? {
            Quantizer::Uniform { scale, .. } => Ok(scale),
            _ => unreachable!("it is uniform"),
        };
        let codes = if b == self.b_bits { self.codes.clone() } else { None };
        let of_a = self.a.iter().map(|quantizer| quantizer.with_bits(a)).collect::<Result<_>>()?;
        let of_b = self.b.iter().map(of_b).collect::<Result<_>>()?;
        Ok(Self { a: of_a, b: of_b, b_bits: b, codes, ..self.clone() })
    }

    /// Whether it has scales, those of the lhs are of one kind and width, and the coarse scale of a post-softmax twin is
    /// what it must be.
    fn is_sound(&self) -> bool {
        let alike = |a: &Quantizer| {
            let softmax = match a {
                Quantizer::TwinSoftmax { scale, bits } => scale.coarse() * bits.half() as f32 == 1.0,
                _ => true,
            };
            let first = &self.a[0];
            softmax && a.bits() == first.bits() && std::mem::discriminant(a) == std::mem::discriminant(first)
        };
        // Two axes are a classifier's, whose product is written in another form.
        let outliers =
            self.outliers.is_empty() || self.a_rank > 2 && self.outliers.is_sorted_by(|a, b| a < b);
        let fold = self.fold.as_ref().is_none_or(Fold::is_sound);
        let columns = self.columns.iter().flatten().all(|x| x.is_normal() && *x > 0.0);
        let bias = self.bias.iter().chain(&self.correction).flatten().all(|x| x.is_finite());
        let range = -self.b_bits.half()..self.b_bits.half();
        let codes = self.codes.iter().flat_map(WeightCodes::all).all(|&code| range.contains(&code.into()));
        (outliers && fold && columns && bias && codes)
            && (1..=8).contains(&self.a_rank)
            && !self.a.is_empty()
            && !self.b.is_empty()
            && self.a.iter().all(alike)
    }
}

impl Calibration {
    /// Reads a file that [`write`](Self::write) made.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read(path, LARGEST_FILE)?;
        Self::from_json(&text).map_err(|why| Error::data(path.display(), why))
    }

    /// Reads the content of such a file; else says what is wrong with it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(text)
            .map_err(|e| format!("not a calibration file of this version: {e}"))?;
        let preprocessing = read.provenance.preprocessing.as_ref();
        preprocessing.map_or(Ok(()), |found| found.check().map_err(|e| e.to_string()))?;
        match read.sites.iter().find(|site| !site.is_sound()) {
            Some(site) => Err(format!("the scales of site `{}` contradict each other", site.name)),
            None => Ok(read),
        }
    }

    /// Writes the calibration to `path` as JSON, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write(path, |file| Ok(serde_json::to_writer_pretty(file, self)?))
    }

    /// An error, which says what differs, unless a run from `provenance` over the sites of `plan` begins with it. What the
    /// images hold is asked for last.
    pub(super) fn ensure_begins(
        &self,
        provenance: &Provenance,
        plan: &Plan,
        images_sha256: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let names = self.sites.iter().map(|site| &site.name);
        let Provenance { tool, model_sha256, images, images_sha256: earlier, options, preprocessing: _ } =
            &self.provenance;
        let differs = if *model_sha256 != provenance.model_sha256 {
            "for another model"
        } else if *tool != provenance.tool {
            "by another version of this program"
        } else if *options != provenance.options {
            "with other options"
        } else if !names.eq(plan.sites.iter().take(self.sites.len()).map(|site| &site.name)) {
            "for other sites"
        } else if *images != provenance.images || *earlier != images_sha256()? {
            "on other images"
        } else {
            return Ok(());
        };
        Err(Error::data(EARLIER, format!("it was made {differs}")))
    }

    /// The scales of the site `name`.
    pub fn site(&self, name: &str) -> Option<&SiteScales> {
        self.sites.iter().find(|site| site.name == name)
    }

    /// An error unless the scales were made for this model and cover every site of `plan`.
    pub fn check_fits(&self, model: &Prepared, plan: &Plan) -> Result<()> {
        if self.provenance.model_sha256 != model.sha256() {
            return Err(Error::data("calibration", "it was made for another model"));
        }
        match plan.sites.iter().find(|site| self.site(&site.name).is_none()) {
            Some(site) => {
                Err(Error::data("calibration", format!("it has no scales for site `{}`", site.name)))
            }
            None => Ok(()),
        }
    }

    /// SHA-256 of the scales, in hexadecimal: what the emitted file records.
    pub fn fingerprint(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain data has a JSON form");
        hex_digest(&json)
    }
}
