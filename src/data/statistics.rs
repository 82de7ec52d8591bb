//! What is in a calibration set, and whether a model can have been trained on it.

use std::ops::RangeInclusive;

/// Of all values together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
}

/// What normalized pixels are in: the means and deviations of `ImageNet` take them from −2.2 to 2.7.
pub const UNIT_SCALED: RangeInclusive<f32> = -3.0..=3.0;

/// Values may reach so many times as far as what is expected: other data have longer tails than pixels.
const MARGIN: f64 = 8.0;
/// And they should vary by this share of what is expected.
const LEAST_VARIATION: f64 = 1e-3;

impl Statistics {
    /// Of `values`; zeros if there are none.
    pub fn of(values: impl Iterator<Item = f32> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        let mut mean = 0.0;
        for x in values.clone() {
            (min, max) = (min.min(x), max.max(x));
            mean += f64::from(x) / count;
        }
        if min > max {
            return Self { min: 0.0, max: 0.0, mean: 0.0, std: 0.0 };
        }
        let variance: f64 = values.map(|x| (f64::from(x) - mean).powi(2) / count).sum();
        Self { min, max, mean, std: variance.sqrt() }
    }

    /// What is wrong with them for a model that takes values in the range `expected`; `None` if nothing stands out.
    pub fn doubt(&self, expected: &RangeInclusive<f32>) -> Option<String> {
        let Self { min, max, mean, std } = *self;
        let [low, high] = [*expected.start(), *expected.end()].map(f64::from);
        let (middle, reach) = (f64::midpoint(low, high), (high - low) / 2.0 * MARGIN);
        let why = if min == 0.0 && max == 0.0 {
            "are all zero"
        } else if min == max {
            "are all the same"
        } else if min == 0.0 && max == 255.0 && reach < 255.0 {
            "look like pixels from 0 to 255, which the model does not seem to take"
        } else if (f64::from(min) - middle).abs().max((f64::from(max) - middle).abs()) > reach {
            "are far larger than what models are trained on"
        } else if std < LEAST_VARIATION * (high - low) {
            "hardly vary"
        } else {
            return None;
        };
        Some(format!(
            "the values {why}: {min} to {max}, mean {}, standard deviation {}; about {low} to {high} are expected. Scales \
             that are found on them will not fit what the model meets",
            short(mean),
            short(std),
        ))
    }
}

/// Four digits.
fn short(x: f64) -> String {
    if x == 0.0 || (1e-3..1e5).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_all_values() {
        let found = Statistics::of([1.0f32, 2.0, 3.0, 6.0].into_iter());
        assert_eq!(found, Statistics { min: 1.0, max: 6.0, mean: 3.0, std: 3.5f64.sqrt() });
        assert_eq!(Statistics::of([].into_iter()), Statistics { min: 0.0, max: 0.0, mean: 0.0, std: 0.0 });
    }

    #[test]
    fn what_no_model_is_trained_on_is_doubted() {
        let bytes = 0.0..=255.0;
        let cases: &[(&[f32], &RangeInclusive<f32>, Option<&str>)] = &[
            (&[-2.1, 0.3, 2.6], &UNIT_SCALED, None),
            (&[0.0, 0.5, 1.0], &UNIT_SCALED, None),
            (&[-9.0, 0.0, 12.0], &UNIT_SCALED, None),
            (&[0.0, 17.0, 255.0], &bytes, None),
            (&[0.0, 0.0], &UNIT_SCALED, Some("all zero")),
            (&[0.5, 0.5], &UNIT_SCALED, Some("all the same: 0.5 to 0.5")),
            (&[0.0, 17.0, 255.0], &UNIT_SCALED, Some("pixels from 0 to 255")),
            (&[3.0, 17.0, 254.0], &UNIT_SCALED, Some("far larger")),
            (&[-1e30, 1e30], &UNIT_SCALED, Some("mean 0.0000, standard deviation 1.000e30")),
            (&[1e-9, 2e-9], &UNIT_SCALED, Some("hardly vary")),
            (&[0.0, 1e-2], &bytes, Some("hardly vary")),
        ];
        for (values, expected, part) in cases {
            let doubt = Statistics::of(values.iter().copied()).doubt(expected);
            match part {
                Some(part) => {
                    assert!(doubt.as_ref().is_some_and(|doubt| doubt.contains(part)), "{part}: {doubt:?}");
                }
                None => assert_eq!(doubt, None, "{values:?}"),
            }
        }
    }
}
