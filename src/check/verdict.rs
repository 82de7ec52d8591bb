//! Whether a comparison is good enough.

use serde::Serialize;

use super::Comparison;
use crate::{Error, Result};

/// What a comparison must reach. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Thresholds {
    /// The largest loss of top-1 accuracy, or of labels of mAP, that passes, in percentage points.
    pub max_drop: Option<f64>,
    /// The smallest agreement of classes or labels that passes, or of boxes F1, in percent.
    pub min_agreement: Option<f64>,
    /// The largest KL divergence that passes, in nats.
    pub max_kl: Option<f64>,
    /// The smallest mean cosine of the outputs that passes.
    pub min_cosine: Option<f64>,
    /// The smallest R² of numbers that passes.
    pub min_r2: Option<f64>,
}

/// Whether a comparison passed, and how each threshold went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Verdict {
    /// Every threshold is met, and nothing casts doubt on the figures.
    pub passed: bool,
    /// One per threshold.
    pub criteria: Vec<Criterion>,
}

/// How one threshold went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Criterion {
    /// What is measured, such as `top-1 drop`.
    pub of: &'static str,
    /// As measured, with its unit.
    pub found: String,
    /// What was asked, such as `at most 1`.
    pub asked: String,
    /// It is met.
    pub met: bool,
    /// The interval of 95 % confidence is on both sides of the threshold: more images are needed to tell.
    pub too_few_to_tell: bool,
}

impl std::fmt::Display for Criterion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.of, self.found, self.asked)
    }
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

    /// The same, with a largest KL divergence in nats.
    #[must_use]
    pub fn with_max_kl(self, nats: f64) -> Self {
        Self { max_kl: Some(nats), ..self }
    }

    /// The same, with a smallest mean cosine of the outputs.
    #[must_use]
    pub fn with_min_cosine(self, cosine: f64) -> Self {
        Self { min_cosine: Some(cosine), ..self }
    }

    /// The same, with a smallest R².
    #[must_use]
    pub fn with_min_r2(self, r2: f64) -> Self {
        Self { min_r2: Some(r2), ..self }
    }

    /// `None` if there is no threshold; a usage error if what one is about could not be measured. A comparison with doubts
    /// passes none.
    pub fn judge(&self, comparison: &Comparison) -> Result<Option<Verdict>> {
        let mut criteria = Vec::new();
        let straddles =
            |interval: Option<[f64; 2]>, at: f64| interval.is_some_and(|[low, high]| low < at && at < high);
        if let Some(most) = self.max_drop {
            let accuracy =
                comparison.accuracy.map(|found| ("top-1 drop", found.drop.points, Some(found.drop.interval)));
            let precision = comparison.labels.and_then(|found| found.precision);
            let precision = precision.filter(|found| found.float.is_some());
            let precision = precision.map(|found| ("mAP drop", found.drop(), None));
            let (of, points, interval) =
                accuracy.or(precision).ok_or_else(|| Error::usage("a largest drop needs labels"))?;
            criteria.push(Criterion {
                of,
                found: format!("{points:.2} points"),
                asked: format!("at most {most} allowed"),
                met: within(points, most),
                too_few_to_tell: straddles(interval, most),
            });
        }
        if let Some(least) = self.min_agreement {
            let classes = comparison
                .classifier
                .map(|found| ("top-1 agreement", found.agreement, found.agreement_interval));
            let labels = comparison.labels.map(|found| ("agreement of labels", found.agreement, None));
            // No box at all is not known to agree.
            let boxes = comparison.boxes.map(|found| ("F1 of the boxes", found.f1.unwrap_or(f64::NAN), None));
            let (of, agreement, interval) = classes.or(labels).or(boxes).ok_or_else(|| {
                Error::usage("a smallest agreement needs a model that gives classes, labels or boxes")
            })?;
            let known = !agreement.is_nan();
            criteria.push(Criterion {
                of,
                found: if known { format!("{agreement:.2} %") } else { "unknown".into() },
                asked: format!("at least {least} asked"),
                met: within(least, agreement),
                too_few_to_tell: straddles(interval, least),
            });
        }
        let mut plain = |of, found: f64, asked: String, met: bool| {
            criteria.push(Criterion { of, found: format!("{found:.5}"), asked, met, too_few_to_tell: false });
        };
        if let Some(most) = self.max_kl {
            let kl = comparison.classifier.map(|found| found.kl).or(comparison.labels.map(|found| found.kl));
            let kl = kl.ok_or_else(|| {
                Error::usage("a largest KL divergence needs a model that gives classes or labels")
            })?;
            plain("KL divergence", kl, format!("at most {most} allowed"), kl <= most);
        }
        if let Some(least) = self.min_cosine {
            let found = comparison.cosine;
            plain("mean cosine", found, format!("at least {least} asked"), found >= least);
        }
        if let Some(least) = self.min_r2 {
            let numbers = comparison
                .numbers
                .ok_or_else(|| Error::usage("a smallest R² needs a model that gives numbers"))?;
            let found = numbers.r2.unwrap_or(f64::NAN);
            plain("R²", found, format!("at least {least} asked"), found >= least);
        }
        let passed = criteria.iter().all(|criterion| criterion.met) && comparison.doubts.is_empty();
        Ok(Some(Verdict { passed, criteria }).filter(|verdict| !verdict.criteria.is_empty()))
    }
}

/// `a ≤ b`, where percentages of counts may be a rounding error apart.
fn within(a: f64, b: f64) -> bool {
    a <= b + 1e-9
}

#[cfg(test)]
mod tests {
    use super::super::comparison::Names;
    use super::super::tally::Tally;
    use super::*;
    use crate::engine::Reading;

    /// 1000 images: 91.6 % and 91.2 % right, 97.2 % alike, a KL divergence of 0.0152.
    fn comparison() -> Comparison {
        let tally = Tally {
            images: 1000,
            reading: Reading::Logits(Some(1)),
            float: [916, 990],
            quantized: [912, 990],
            only: [9, 5],
            agree: [972, 1000],
            kl: 15.2,
            cosine: 999.0,
            classes: 1000,
            decision: Some(vec![1]),
            decisions_vary: true,
            outputs_vary: true,
            ..Tally::default()
        };
        Comparison::of(&tally, true, &Names::default())
    }

    #[track_caller]
    fn judged(thresholds: Thresholds) -> Option<bool> {
        thresholds.judge(&comparison()).unwrap().map(|verdict| verdict.passed)
    }

    #[test]
    fn thresholds_are_met_or_not() {
        let any = Thresholds::default();
        assert_eq!(judged(any), None);
        // 91.6 − 91.2 is a little more than 0.4 in floating point.
        assert_eq!(judged(any.with_max_drop(0.4)), Some(true));
        assert_eq!(judged(any.with_max_drop(0.39)), Some(false));
        assert_eq!(judged(any.with_min_agreement(97.2)), Some(true));
        assert_eq!(judged(any.with_min_agreement(97.3)), Some(false));
        assert_eq!(judged(any.with_max_drop(1.0).with_min_agreement(97.3)), Some(false));
        assert_eq!(judged(any.with_max_drop(1.0).with_min_agreement(97.0)), Some(true));
        assert_eq!(judged(any.with_max_kl(0.016)), Some(true));
        assert_eq!(judged(any.with_max_kl(0.015)), Some(false));
        assert_eq!(judged(any.with_min_cosine(0.9991)), Some(false));
    }

    #[test]
    fn too_few_images_are_told() {
        let few = |points| {
            let verdict = Thresholds::default().with_max_drop(points).judge(&comparison()).unwrap().unwrap();
            verdict.criteria[0].too_few_to_tell
        };
        assert_eq!([0.1, 0.5, 1.0, 3.0].map(few), [true, true, true, false]);
    }

    #[test]
    fn with_a_doubt_nothing_passes() {
        let doubted = Comparison { doubts: vec!["labels are off by one".into()], ..comparison() };
        let verdict = Thresholds::default().with_max_drop(50.0).judge(&doubted).unwrap().unwrap();
        assert!(verdict.criteria[0].met && !verdict.passed);
    }

    #[test]
    fn what_cannot_be_measured_is_a_usage_error() {
        let features = Comparison { accuracy: None, classifier: None, ..comparison() };
        let any = Thresholds::default();
        for thresholds in
            [any.with_max_drop(1.0), any.with_min_agreement(1.0), any.with_max_kl(1.0), any.with_min_r2(0.5)]
        {
            assert_eq!(thresholds.judge(&features).unwrap_err().exit_code(), 2);
        }
    }
}
