//! The result of `check`.

use std::fmt;

use serde::Serialize;

use super::{Align, table};
use crate::check::{Accuracy, Classifier, Comparison, Features, Numbers, Precision, Verdict};
use crate::engine::BUILT_IN;
use crate::text::shown;

/// A comparison and what it means.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CheckReport {
    /// The float model's file.
    pub float: String,
    /// The quantized model's file.
    pub quantized: String,
    /// Which of how many shards it is of, from 1; `None` if of all images.
    pub shard: Option<(usize, usize)>,
    /// Against the thresholds, if there are any.
    pub verdict: Option<Verdict>,
    /// The figures.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// What was warned of on the way.
    pub warnings: Vec<String>,
}

impl CheckReport {
    /// 0; 1 if a threshold is missed, or met by figures that cannot be trusted.
    pub fn exit_code(&self) -> u8 {
        self.verdict.as_ref().map_or(0, |verdict| u8::from(!verdict.passed))
    }

    /// The line that says it all.
    pub fn headline(&self) -> String {
        let Comparison { images, accuracy, classifier, sqnr_db, features, .. } = &self.comparison;
        let shard = self.shard.map_or(String::new(), |(shard, of)| format!(" (shard {shard} of {of})"));
        let on = format!("on {images} {}{shard}", if *images == 1 { "image" } else { "images" });
        if let Some(verdict) = &self.verdict {
            let word = if verdict.passed { "PASS" } else { "FAIL" };
            let mut parts: Vec<String> = verdict.criteria.iter().map(ToString::to_string).collect();
            if !self.comparison.doubts.is_empty() {
                parts.insert(0, "the figures cannot be trusted".into());
            }
            return format!("{word}: {}, {on}", parts.join(", "));
        }
        if let Some(boxes) = self.comparison.boxes.filter(|_| classifier.is_none()) {
            let [recall, precision] = [boxes.recall, boxes.precision].map(percent);
            let [float, quantized] = [boxes.float, boxes.quantized];
            return format!(
                "{recall} of the float model's {float} boxes are found again, {precision} of the quantized model's \
                 {quantized} have a partner, {on}"
            );
        }
        let rest = match (accuracy, classifier, self.comparison.labels, self.comparison.numbers) {
            (Some(Accuracy { float, quantized, .. }), Some(classifier), ..) => format!(
                "top-1 {:.2} % -> {:.2} % ({:+.2} points), agreement {:.2} %",
                float.top1,
                quantized.top1,
                quantized.top1 - float.top1,
                classifier.agreement,
            ),
            (None, Some(Classifier { agreement, mean_iou: Some(iou), .. }), ..) => {
                format!("the models agree on {agreement:.2} % of the places, mean IoU {iou:.2} %")
            }
            (None, Some(classifier), ..) => {
                return format!("the models agree on {:.2} % of the images, {on}", classifier.agreement);
            }
            (_, None, Some(labels), _) => match labels.precision {
                Some(Precision { float: Some(float), quantized, .. }) => format!(
                    "mAP {float:.2} % -> {quantized:.2} % ({:+.2} points), the models agree on {:.2} % of the labels",
                    quantized - float,
                    labels.agreement
                ),
                _ => format!("the models agree on {:.2} % of the labels", labels.agreement),
            },
            (_, None, None, Some(numbers)) => format!("R² {}, SQNR {sqnr_db}", r2(numbers)),
            (_, None, None, None) => match features {
                Some(Features { same_neighbour: (percent, _), .. }) => {
                    format!(
                        "mean cosine {:.4}, {percent:.2} % keep their nearest neighbour",
                        self.comparison.cosine
                    )
                }
                None => format!("SQNR {sqnr_db}"),
            },
        };
        format!("{rest}, {on}")
    }

    /// The rows of figures that say how far the quantized model is from the float one: a name and a value.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let Comparison { accuracy, classifier, labels, numbers, features, .. } = &self.comparison;
        let Comparison { sqnr_db, rmse, relative_error, cosine, .. } = &self.comparison;
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
        let with = |percent: f64, interval: Option<[f64; 2]>| match interval {
            Some(interval) => format!("{percent:.2} % ({})", range(interval)),
            None => format!("{percent:.2} %"),
        };
        if let Some(Accuracy { drop, .. }) = accuracy {
            row("top-1 drop", format!("{:.2} points ({})", drop.points, range(drop.interval)));
            row("probability if equally good", format!("{:.3}", drop.p));
        }
        if let Some(classifier) = classifier {
            row("top-1 agreement", with(classifier.agreement, classifier.agreement_interval));
            if let Some(iou) = classifier.mean_iou {
                row("mean IoU with float", format!("{iou:.2} %"));
            }
            row("KL divergence from float", format!("{:.5}", classifier.kl));
        }
        if let Some(labels) = labels {
            row("agreement of labels", with(labels.agreement, None));
            row("images with the same labels", with(labels.same.0, Some(labels.same.1)));
            row("label that agrees least", format!("{} ({:.2} %)", labels.worst.0, labels.worst.1));
            if let Some(Precision { float, quantized, occurring, worst, .. }) = labels.precision {
                match float {
                    Some(float) => {
                        row("mAP of the float model", format!("{float:.2} % ({occurring} labels)"));
                        row("mAP of the quantized model", format!("{quantized:.2} %"));
                        row("mAP drop", format!("{:.2} points", float - quantized));
                    }
                    None => row(
                        "mAP, the float model being right",
                        format!("{quantized:.2} % ({occurring} labels)"),
                    ),
                }
                row("label whose precision falls most", format!("{} ({:.2} points)", worst.0, worst.1));
            }
            row("KL divergence from float", format!("{:.5}", labels.kl));
        }
        if let Some(boxes) = &self.comparison.boxes {
            let scores = match boxes.last_is_no_object {
                true => "the last class is no object",
                false => "a probability for each class",
            };
            row("boxes above 0.5", format!("{} ({} in float; {scores})", boxes.quantized, boxes.float));
            row("found again (recall)", percent(boxes.recall));
            row("with a partner (precision)", percent(boxes.precision));
            row("F1", percent(boxes.f1));
            row("mean IoU of the pairs", percent(boxes.mean_iou));
            row("images with the same boxes", with(boxes.same.0, Some(boxes.same.1)));
        }
        if let Some(numbers) = numbers {
            row("R²", r2(*numbers));
            row("largest error", format!("{:.6}", numbers.largest_error));
        }
        if let Some(Features { same_neighbour: (percent, interval) }) = features {
            row("same nearest neighbour", with(*percent, Some(*interval)));
        }
        row(if classifier.is_some() { "logit SQNR" } else { "SQNR" }, sqnr_db.to_string());
        if classifier.is_none() && labels.is_none() {
            row("RMSE", format!("{rmse:.6}"));
            row(
                "relative error",
                relative_error.map_or("unknown".into(), |error| format!("{:.3} %", 100.0 * error)),
            );
        }
        if numbers.is_none() {
            row("mean cosine", format!("{cosine:.6}"));
        }
        rows
    }
}

/// An interval, as `96.00 to 98.10`.
fn range([low, high]: [f64; 2]) -> String {
    format!("{low:.2} to {high:.2}")
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        let Comparison { engines, accuracy, others, sites, doubts, remarks, .. } = &self.comparison;
        if engines.iter().any(|engine| engine != BUILT_IN) {
            let [float, quantized] = engines.each_ref().map(|engine| shown(engine));
            writeln!(f, "run by: float {float}, quantized {quantized}")?;
        }
        for doubt in doubts {
            writeln!(f, "\nnot to be trusted: {}", shown(doubt))?;
        }
        for criterion in self.verdict.iter().flat_map(|verdict| &verdict.criteria) {
            if criterion.too_few_to_tell {
                let n = self.comparison.images;
                writeln!(
                    f,
                    "\n{n} images are too few to tell: the {} may be on either side ({})",
                    criterion.of, criterion.asked
                )?;
            }
        }
        writeln!(f)?;
        if let Some(accuracy) = accuracy {
            let (float, quantized) = (accuracy.float, accuracy.quantized);
            let row = |name: &str, [float, quantized]: [String; 2]| vec![name.to_string(), float, quantized];
            let rows = [
                row("top-1 accuracy", [float, quantized].map(|top| format!("{:.2} %", top.top1))),
                row("  95 % interval", [float, quantized].map(|top| range(top.top1_interval))),
                row("top-5 accuracy", [float, quantized].map(|top| format!("{:.2} %", top.top5))),
            ];
            let align = [Align::Left, Align::Right, Align::Right];
            f.write_str(&table(&["", "float", "quantized"], &align, rows))?;
            writeln!(f)?;
        }
        let heading = ["", "quantized against float (95 % interval)"];
        f.write_str(&table(&heading, &[Align::Left, Align::Left], self.rows()))?;
        let figures: [(&str, Vec<_>); 2] = [
            ("other output", others.iter().map(|other| (&other.name, other.sqnr_db)).collect()),
            ("site", sites.iter().map(|site| (&site.name, site.sqnr_db)).collect()),
        ];
        for (what, list) in figures.iter().filter(|(_, list)| !list.is_empty()) {
            let rows = list.iter().map(|(name, sqnr)| vec![(*name).clone(), sqnr.to_string()]);
            writeln!(f)?;
            f.write_str(&table(&[*what, "SQNR"], &[Align::Left, Align::Right], rows))?;
        }
        for warning in self.warnings.iter().chain(remarks) {
            writeln!(f, "\nwarning: {}", shown(warning))?;
        }
        Ok(())
    }
}

fn percent(of: Option<f64>) -> String {
    of.map_or_else(|| "none".into(), |percent| format!("{percent:.2} %"))
}

fn r2(numbers: Numbers) -> String {
    numbers.r2.map_or_else(
        || "unknown, as the float model gives the same for every image".into(),
        |r2| format!("{r2:.5}"),
    )
}
