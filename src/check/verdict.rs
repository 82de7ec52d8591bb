//! Whether a comparison is good enough.

use serde::Serialize;

use super::Comparison;
use crate::{Error, Result};

/// What a comparison must reach. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Thresholds {
    /// The largest loss of top-1 accuracy that passes, in percentage points.
    pub max_drop: Option<f64>,
    /// The smallest top-1 agreement that passes, in percent.
    pub min_agreement: Option<f64>,
}

/// Whether a comparison passed, and how each threshold went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Every threshold is met.
    pub passed: bool,
    /// One line per threshold.
    pub criteria: Vec<String>,
}

impl Thresholds {
    /// The same, with a largest loss of top-1 accuracy in percentage points.
    #[must_use]
    pub fn with_max_drop(self, points: f64) -> Self {
        Self { max_drop: Some(points), ..self }
    }

    /// The same, with a smallest top-1 agreement in percent.
    #[must_use]
    pub fn with_min_agreement(self, percent: f64) -> Self {
        Self { min_agreement: Some(percent), ..self }
    }

    /// `None` if there is no threshold; a usage error if what one is about could not be measured.
    pub fn judge(&self, comparison: &Comparison) -> Result<Option<Verdict>> {
        let mut verdict = Verdict { passed: true, criteria: Vec::new() };
        if let Some(most) = self.max_drop {
            let accuracy = comparison.accuracy.ok_or_else(|| Error::usage("a largest drop needs labels"))?;
            let drop = accuracy.float.top1 - accuracy.quantized.top1;
            verdict.passed &= within(drop, most);
            verdict.criteria.push(format!("top-1 drop {drop:.2} points (at most {most} allowed)"));
        }
        if let Some(least) = self.min_agreement {
            let classes = comparison.classifier.map(|classes| ("top-1 agreement", classes.agreement));
            let labels = comparison.labels.map(|labels| ("agreement of labels", labels.agreement));
            let (of, agreement) = classes.or(labels).ok_or_else(|| {
                Error::usage("a smallest agreement needs a model that gives classes or labels")
            })?;
            verdict.passed &= within(least, agreement);
            verdict.criteria.push(format!("{of} {agreement:.2} % (at least {least} asked)"));
        }
        Ok(Some(verdict).filter(|verdict| !verdict.criteria.is_empty()))
    }
}

/// `a ≤ b`, where percentages of counts may be a rounding error apart.
fn within(a: f64, b: f64) -> bool {
    a <= b + 1e-9
}

#[cfg(test)]
mod tests {
    use super::super::{Accuracy, Classifier, Sqnr, TopK};
    use super::*;

    fn comparison() -> Comparison {
        let top = |top1| TopK { top1, top5: 100.0 };
        Comparison {
            images: 1000,
            accuracy: Some(Accuracy { float: top(91.6), quantized: top(91.2) }),
            classifier: Some(Classifier { agreement: 97.2, kl: 0.0152 }),
            labels: None,
            numbers: None,
            sqnr_db: Sqnr::default(),
            cosine: 1.0,
            sites: Vec::new(),
        }
    }

    #[test]
    fn thresholds_are_met_or_not() {
        let passed = |max_drop, min_agreement| {
            Thresholds { max_drop, min_agreement }.judge(&comparison()).unwrap().map(|verdict| verdict.passed)
        };
        assert_eq!(passed(None, None), None);
        // 91.6 − 91.2 is a little more than 0.4 in floating point.
        assert_eq!(passed(Some(0.4), None), Some(true));
        assert_eq!(passed(Some(0.39), None), Some(false));
        assert_eq!(passed(None, Some(97.2)), Some(true));
        assert_eq!(passed(None, Some(97.3)), Some(false));
        assert_eq!(passed(Some(1.0), Some(97.3)), Some(false));
        assert_eq!(passed(Some(1.0), Some(97.0)), Some(true));
    }

    #[test]
    fn what_cannot_be_measured_is_a_usage_error() {
        let features = Comparison { accuracy: None, classifier: None, ..comparison() };
        for thresholds in [
            Thresholds { max_drop: Some(1.0), ..Thresholds::default() },
            Thresholds { min_agreement: Some(1.0), ..Thresholds::default() },
        ] {
            assert_eq!(thresholds.judge(&features).unwrap_err().exit_code(), 2);
        }
    }
}
