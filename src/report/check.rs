//! The result of `check`.

use std::fmt;

use serde::Serialize;

use super::{Align, table};
use crate::check::{Comparison, Numbers, Verdict};
use crate::text::shown;

/// A comparison and what it means.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The float model's file.
    pub float: String,
    /// The quantized model's file.
    pub quantized: String,
    /// Against the thresholds, if there are any.
    pub verdict: Option<Verdict>,
    /// The figures.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// What was warned of on the way.
    pub warnings: Vec<String>,
}

impl CheckReport {
    /// The line that says it all.
    fn headline(&self) -> String {
        let Comparison { images, accuracy, classifier, sqnr_db, .. } = &self.comparison;
        let images = format!("{images} {}", if *images == 1 { "image" } else { "images" });
        if let Some(verdict) = &self.verdict {
            let word = if verdict.passed { "PASS" } else { "FAIL" };
            return format!("{word}: {}, on {images}", verdict.criteria.join(", "));
        }
        match (accuracy, classifier) {
            (Some(accuracy), Some(classifier)) => format!(
                "top-1 {:.2} % -> {:.2} % ({:+.2} points), agreement {:.2} %, on {images}",
                accuracy.float.top1,
                accuracy.quantized.top1,
                accuracy.quantized.top1 - accuracy.float.top1,
                classifier.agreement,
            ),
            (None, Some(classifier)) => {
                format!("the models agree on {:.2} % of {images}", classifier.agreement)
            }
            (_, None) => match (self.comparison.labels, self.comparison.numbers) {
                (Some(labels), _) => {
                    format!("the models agree on {:.2} % of the labels, on {images}", labels.agreement)
                }
                (None, Some(numbers)) => format!("R² {}, SQNR {sqnr_db}, on {images}", r2(numbers)),
                (None, None) => format!("feature SQNR {sqnr_db}, on {images}"),
            },
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.headline())?;
        let Comparison { accuracy, classifier, sqnr_db, cosine, sites, .. } = &self.comparison;
        if let Some(accuracy) = accuracy {
            let (float, quantized) = (accuracy.float, accuracy.quantized);
            let row = |name: &str, float: f64, quantized: f64| {
                vec![name.to_string(), format!("{float:.2} %"), format!("{quantized:.2} %")]
            };
            let rows = [
                row("top-1 accuracy", float.top1, quantized.top1),
                row("top-5 accuracy", float.top5, quantized.top5),
            ];
            f.write_str(&table(
                &["", "float", "quantized"],
                &[Align::Left, Align::Right, Align::Right],
                rows,
            ))?;
            writeln!(f)?;
        }
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_string(), value]);
        if let Some(classifier) = classifier {
            row("top-1 agreement", format!("{:.2} %", classifier.agreement));
            row("KL divergence from float", format!("{:.5}", classifier.kl));
        }
        let Comparison { labels, numbers, .. } = &self.comparison;
        if let Some(labels) = labels {
            row("agreement of labels", format!("{:.2} %", labels.agreement));
            row("KL divergence from float", format!("{:.5}", labels.kl));
        }
        if let Some(numbers) = numbers {
            row("R²", r2(*numbers));
            row("largest error", format!("{:.6}", numbers.largest_error));
        }
        let of = match (classifier, labels, numbers) {
            (Some(_), ..) => "logit SQNR",
            (None, None, None) => "feature SQNR",
            _ => "SQNR",
        };
        row(of, sqnr_db.to_string());
        if numbers.is_none() {
            row("mean cosine", format!("{cosine:.6}"));
        }
        f.write_str(&table(&["", "quantized against float"], &[Align::Left, Align::Right], rows))?;
        if !sites.is_empty() {
            let rows = sites.iter().map(|site| vec![site.name.clone(), site.sqnr_db.to_string()]);
            writeln!(f)?;
            f.write_str(&table(&["site", "SQNR"], &[Align::Left, Align::Right], rows))?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {}", shown(warning))?;
        }
        Ok(())
    }
}

fn r2(numbers: Numbers) -> String {
    numbers.r2.map_or_else(
        || "unknown, as the float model gives the same for every image".into(),
        |r2| format!("{r2:.5}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Accuracy, Classifier, SiteFigures, Sqnr, TopK};

    #[test]
    fn the_verdict_comes_first() {
        let top = |top1| TopK { top1, top5: 99.5 };
        let noise = Sqnr { signal: 1000.0, noise: 1.0 };
        let mut report = CheckReport {
            float: "vit.onnx".into(),
            quantized: "vit.int8.onnx".into(),
            verdict: Some(Verdict {
                passed: false,
                criteria: vec!["top-1 drop 0.40 points (at most 0.1 allowed)".into()],
            }),
            warnings: vec!["2 of 1002 images are left out".into()],
            comparison: Comparison {
                images: 1000,
                accuracy: Some(Accuracy { float: top(91.6), quantized: top(91.2) }),
                classifier: Some(Classifier { agreement: 97.2, kl: 0.0152 }),
                labels: None,
                numbers: None,
                sqnr_db: noise,
                cosine: 0.9995,
                sites: vec![SiteFigures { name: "fc1".into(), sqnr_db: noise }],
            },
        };
        let expected = "\
FAIL: top-1 drop 0.40 points (at most 0.1 allowed), on 1000 images

                    float  quantized
  top-1 accuracy  91.60 %    91.20 %
  top-5 accuracy  99.50 %    99.50 %

                            quantized against float
  top-1 agreement                           97.20 %
  KL divergence from float                  0.01520
  logit SQNR                               30.00 dB
  mean cosine                              0.999500

  site      SQNR
  fc1   30.00 dB

warning: 2 of 1002 images are left out
";
        assert_eq!(report.to_string(), expected);
        report.verdict = None;
        let line = report.headline();
        assert_eq!(line, "top-1 91.60 % -> 91.20 % (-0.40 points), agreement 97.20 %, on 1000 images");
    }
}
