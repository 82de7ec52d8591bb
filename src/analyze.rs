//! Which sites cost the accuracy: the distance of the output from that of the float model when one site alone is quantized, and
//! when it alone is not.

use ndarray::{Array4, ArrayD};
use serde::Serialize;

use crate::calibrate::{Calibration, SiteScales, weight_len};
use crate::check::distance;
use crate::data::Dataset;
use crate::engine::{Engine, Reading};
use crate::export::{TwinForm, export_partly};
use crate::integer::Runner;
use crate::plan::{Plan, Site, blocks};
use crate::prepare::Prepared;
use crate::progress::Progress;
use crate::quant::{Bits, Quantizer};
use crate::{Error, Result};

/// What each site does to the output.
///
/// A distance is the mean KL divergence from the float model in nats, of a model that gives classes or labels; of others the
/// squared error relative to the squares of the float output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Analysis {
    /// How many images it was measured on.
    pub images: usize,
    /// What the distances are: `KL divergence` or `relative squared error`.
    pub distance: &'static str,
    /// The distance with all sites quantized.
    pub all: f64,
    /// Spearman's rank correlation between the losses of the search and the distances of the sites alone; `None` for fewer than
    /// three sites, or where one of both is the same for all.
    pub rank_correlation: Option<f64>,
    /// Those that do most harm alone first.
    pub sites: Vec<Harm>,
}

/// What one site does to the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Harm {
    /// The site's name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its block, from 0; `None` before the first and behind the last.
    pub block: Option<usize>,
    /// The distance if it alone is quantized.
    pub alone: f64,
    /// By how much the distance of all falls if it alone stays in float. Rounding elsewhere changes with it, so that this is noisy
    /// where many sites do harm.
    pub gain: f64,
    /// The loss that the search found.
    pub predicted: f64,
    /// Its share of the multiplications of the model, in percent; `None` if they cannot be counted.
    pub share: Option<f64>,
    /// Bytes of the codes of its weight, and of the float weight; 0 for a product of two activations.
    pub weight_bytes: [usize; 2],
    /// The distance if it alone is quantized, with 8 bits for the lhs in the same range; of the ten sites that do most harm, if the
    /// lhs has fewer.
    pub lhs_in_8_bits: Option<f64>,
    /// The same with 8 bits for the rhs.
    pub rhs_in_8_bits: Option<f64>,
}

/// Of how many sites it is tried what more bits would mend.
const MENDED: usize = 10;

/// Measures the harm of every site of `plan` on `images`, which should not be those of the calibration.
pub fn analyze(
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    images: &Dataset,
    progress: &dyn Progress,
) -> Result<Analysis> {
    let trial = Trial::new(model, plan, calibration, images)?;
    progress.stage("quantize one site at a time", 2 * plan.sites.len() as u64);
    let all = trial.distance(&|_| true)?;
    let mut sites = Vec::new();
    for (site, block) in plan.sites.iter().zip(blocks(&plan.sites)) {
        let alone = trial.distance(&|other| other.name == site.name)?;
        progress.step(&site.name, 1);
        let without = trial.distance(&|other| other.name != site.name)?;
        progress.step(&site.name, 1);
        let predicted = calibration.site(&site.name).map_or(f64::NAN, |scales| scales.loss);
        sites.push(Harm {
            name: site.name.clone(),
            kind: site.kind.name(),
            block,
            alone,
            gain: all - without,
            predicted,
            share: None,
            weight_bytes: weight_bytes(model, site, calibration),
            lhs_in_8_bits: None,
            rhs_in_8_bits: None,
        });
    }
    if let Some(shares) = plan.shares(model, images.item_shape()) {
        sites.iter_mut().zip(shares).for_each(|(site, share)| site.share = Some(share));
    }
    let of = |value: &dyn Fn(&Harm) -> f64| sites.iter().map(value).collect::<Vec<f64>>();
    let rank_correlation = spearman(&of(&|site| site.predicted), &of(&|site| site.alone));
    sites.sort_by(|a, b| b.alone.total_cmp(&a.alone));
    progress.stage("give the worst sites more bits", MENDED.min(sites.len()) as u64);
    for site in sites.iter_mut().take(MENDED) {
        if let Some(scales) = calibration.site(&site.name) {
            let [a, b] = [scales.a[0].bits(), scales.b_bits];
            let alone = |a: Bits, b: Bits| trial.alone_with(&site.name, &scales.with_bits(a, b)?);
            site.lhs_in_8_bits = (a < Bits::MAX).then(|| alone(Bits::MAX, b)).transpose()?;
            site.rhs_in_8_bits = (b < Bits::MAX).then(|| alone(a, Bits::MAX)).transpose()?;
        }
        progress.step(&site.name, 1);
    }
    Ok(Analysis { images: images.len(), distance: trial.name(), all, rank_correlation, sites })
}

/// Bytes of the codes of a site's weight, without what several share, and of the float weight.
fn weight_bytes(model: &Prepared, site: &Site, calibration: &Calibration) -> [usize; 2] {
    let len = weight_len(model.graph(), site);
    let bits = calibration.site(&site.name).map_or(8, |scales| usize::from(scales.b_bits.get()));
    [(len * bits).div_ceil(8), 4 * len]
}

/// The distances of the output from that of the float model if a site alone is quantized, its lhs by each of `quantizers` (one per
/// head).
pub fn task_losses(
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    images: &Dataset,
    site: &str,
    quantizers: &[Vec<Quantizer>],
) -> Result<Vec<f64>> {
    let trial = Trial::new(model, plan, calibration, images)?;
    let scales = calibration.site(site).ok_or_else(|| Error::data("calibration", "it lacks the site"))?;
    let loss = |quantizers: &Vec<Quantizer>| {
        let a = quantizers.iter().copied().take(scales.a.len()).collect();
        trial.alone_with(site, &SiteScales { a, ..scales.clone() })
    };
    quantizers.iter().map(loss).collect()
}

/// The fewest sites, those that do most harm alone first, that must stay in float for the distance to be at most `most`; an error if it is
/// larger with all but one of them.
pub fn fewest_in_float(
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    images: &Dataset,
    most: f64,
    progress: &dyn Progress,
) -> Result<Promise> {
    let trial = Trial::new(model, plan, calibration, images)?;
    let mut found = trial.distance(&|_| true)?;
    if found <= most {
        return Ok(Promise { in_float: Vec::new(), distance: found });
    }
    progress.stage("quantize one site at a time", plan.sites.len() as u64);
    let mut ranked = Vec::new();
    for site in &plan.sites {
        ranked.push((trial.distance(&|other| other.name == site.name)?, &site.name));
        progress.step(&site.name, 1);
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let first = |count: usize| ranked.iter().take(count).map(|(_, name)| (*name).clone()).collect::<Vec<_>>();
    let measured = |count: usize| {
        let in_float = first(count);
        trial.distance(&|site| !in_float.contains(&site.name))
    };
    // The distance falls with the number of sites in float, but for noise: the smallest number that holds is searched by halves.
    let (mut broken, mut kept) = (0, ranked.len() - 1);
    found = measured(kept)?;
    if found > most {
        let why = format!("with all sites but one in float it is {found:.5}, and at most {most} was asked");
        return Err(Error::unsupported("the promised distance from the float model", why));
    }
    while kept - broken > 1 {
        let middle = broken.midpoint(kept);
        let distance = measured(middle)?;
        if distance <= most {
            (kept, found) = (middle, distance);
        } else {
            broken = middle;
        }
    }
    Ok(Promise { in_float: first(kept), distance: found })
}

/// How a promise is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promise {
    /// The sites that stay in float.
    pub in_float: Vec<String>,
    /// The distance that was measured so.
    pub distance: f64,
}

/// What is tried on the same images.
struct Trial<'t> {
    model: &'t Prepared,
    plan: &'t Plan,
    calibration: &'t Calibration,
    images: Array4<f32>,
    reading: Reading,
    float: ArrayD<f32>,
}

impl<'t> Trial<'t> {
    fn new(
        model: &'t Prepared,
        plan: &'t Plan,
        calibration: &'t Calibration,
        images: &Dataset,
    ) -> Result<Self> {
        let shape = images.item_shape();
        let images = images.batch(0..images.len())?;
        let float = model.float_engine(shape)?.run(&images.view())?;
        Ok(Self { model, plan, calibration, images, reading: model.outputs()?.compared.1, float })
    }

    fn name(&self) -> &'static str {
        match self.reading {
            Reading::Numbers | Reading::Maps | Reading::Features => "relative squared error",
            _ => "KL divergence",
        }
    }

    /// Of the model in which those sites are quantized.
    fn distance(&self, is_quantized: &dyn Fn(&Site) -> bool) -> Result<f64> {
        self.distance_with(self.calibration, is_quantized)
    }

    /// Of the model in which one site alone is quantized, with these scales.
    fn alone_with(&self, site: &str, scales: &SiteScales) -> Result<f64> {
        let mut changed = self.calibration.clone();
        for own in changed.sites.iter_mut().filter(|own| own.name == site) {
            own.clone_from(scales);
        }
        self.distance_with(&changed, &|other| other.name == site)
    }

    /// As [`distance`](Self::distance), with other scales.
    fn distance_with(&self, calibration: &Calibration, is_quantized: &dyn Fn(&Site) -> bool) -> Result<f64> {
        let form = TwinForm::Function;
        let model = export_partly(self.model, self.plan, calibration, form, is_quantized)?;
        let mut model = Prepared::new(model)?;
        for (name, value) in self.model.given_inputs() {
            model = model.with_input(&name, value)?;
        }
        let (_, channels, height, width) = self.images.dim();
        let output = Runner::with_image(&model, [channels, height, width])?.run(&self.images.view())?;
        Ok(distance(self.reading, &self.float, &output))
    }
}

/// The correlation of ranks; equal values share the mean of their ranks.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let ranks = |values: &[f64]| -> Vec<f64> {
        let below = |x: f64| values.iter().filter(|y| **y < x).count() as f64;
        let equal = |x: f64| values.iter().filter(|y| **y == x).count() as f64;
        values.iter().map(|&x| below(x) + (equal(x) - 1.0) / 2.0).collect()
    };
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (a.len() >= 3 && spread > 0.0).then(|| product(&a, &b) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_correlate() {
        let close = |a: &[f64], b: &[f64], expected: f64| {
            let found = spearman(a, b).unwrap();
            assert!((found - expected).abs() < 1e-12, "{found}");
        };
        close(&[1.0, 5.0, 9.0], &[10.0, 11.0, 1e9], 1.0);
        close(&[1.0, 5.0, 9.0], &[3.0, 2.0, 1.0], -1.0);
        // 1 − 6·Σd²/(n(n²−1)) with d = 0, 1, 1, 0.
        close(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0], 0.8);
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[1.0, 2.0]), None);
    }
}
