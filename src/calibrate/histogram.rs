//! Histograms of activations, on axes that show where values lie close.

use super::search::LhsKind;

/// Bins of a histogram.
const BINS: usize = 72;

/// The smallest probability that is told from zero.
const LEAST: f32 = 1e-7;

/// How an axis is stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stretch {
    /// Not at all.
    Linear,
    /// By the decimal logarithm; what is smaller than `LEAST`, 10⁻⁷, lies at its beginning.
    Log,
    /// By `asinh(x/s)`, which is linear around zero and logarithmic far from it.
    Asinh(f32),
}

impl Stretch {
    /// Where `x` lies.
    pub fn place(self, x: f32) -> f64 {
        match self {
            Self::Linear => x.into(),
            Self::Log => f64::from(x.max(LEAST)).log10(),
            Self::Asinh(s) => f64::from(x / s).asinh(),
        }
    }

    /// The value that lies there.
    pub fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => 10f64.powf(place),
            Self::Asinh(s) => place.sinh() * f64::from(s),
        }
    }
}

/// How many values lie in each of equally long parts of a stretched axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The axis.
    pub stretch: Stretch,
    /// The places where it begins and ends.
    pub range: [f64; 2],
    /// How many values lie in each part.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Of the values of an lhs.
    pub(super) fn of(values: impl Iterator<Item = f32> + Clone, kind: LhsKind) -> Self {
        let stretch = match kind {
            LhsKind::Uniform => Stretch::Linear,
            LhsKind::TwinSoftmax => Stretch::Log,
            LhsKind::TwinGelu { .. } => Stretch::Asinh(0.1),
        };
        let mut range = match stretch {
            Stretch::Log => [stretch.place(LEAST), 0.0],
            _ => values.clone().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], x| {
                let place = stretch.place(x);
                [low.min(place), high.max(place)]
            }),
        };
        if range[1].partial_cmp(&range[0]) != Some(std::cmp::Ordering::Greater) {
            let at = if range[0].is_finite() { range[0] } else { 0.0 };
            range = [at - 0.5, at + 0.5];
        }
        let mut counts = vec![0; BINS];
        for x in values {
            let part = (stretch.place(x) - range[0]) / (range[1] - range[0]);
            counts[((part * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
        Self { stretch, range, counts }
    }
}
