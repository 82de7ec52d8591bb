//! How far a quantized output is from the float one: the quantity that the search minimises.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::kernel::squared_error;

/// A distance between the float output `O` and the quantized output `Ô` of a site. Each is a sum of non-negative
/// terms, each of one row or less, so that a partial sum bounds the whole from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// `Σ (∂L/∂O)² (Ô − O)²`, PTQ4ViT Eq. (7).
    Hessian,
    /// `Σ (Ô − O)²`.
    Mse,
    /// `Σ_rows 1 − cos(Ô, O)`, as base PTQ.
    Cosine,
    /// `Σ_rows 1 − r(Ô, O)`, Pearson's correlation.
    Pearson,
}

/// One row of a product, as the metric sees it.
pub(super) struct Row<'a> {
    /// `Ô / scale`: sums of products of codes.
    pub(super) acc: &'a [f32],
    /// `O`.
    pub(super) reference: &'a [f32],
    /// `(∂L/∂O)²` for [`Metric::Hessian`], 1 for [`Metric::Mse`].
    pub(super) curvature: &'a [f32],
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hessian, Self::Mse, Self::Cosine, Self::Pearson];

    /// The row's distance in the columns `range` with `Ô = scale · acc`.
    pub(super) fn loss(self, row: &Row, range: Range<usize>, scale: f32) -> f64 {
        let (acc, reference) = (&row.acc[range.clone()], &row.reference[range.clone()]);
        match self {
            Self::Hessian | Self::Mse => squared_error(acc, scale, reference, &row.curvature[range]).into(),
            Self::Cosine => one_minus_cosine(acc, reference, 0.0, 0.0),
            Self::Pearson => {
                let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
                one_minus_cosine(acc, reference, mean(acc), mean(reference))
            }
        }
    }

    /// Whether the metric compares whole rows, and so cannot tell single columns apart.
    pub fn is_rowwise(self) -> bool {
        matches!(self, Self::Cosine | Self::Pearson)
    }
}

/// `1 − ⟨x−x̄, y−ȳ⟩ / (‖x−x̄‖ ‖y−ȳ‖)`: 0 where both vanish, 1 where one does.
fn one_minus_cosine(x: &[f32], y: &[f32], x_mean: f64, y_mean: f64) -> f64 {
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (&x, &y) in x.iter().zip(y) {
        let (x, y) = (f64::from(x) - x_mean, f64::from(y) - y_mean);
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    match (xx > 0.0, yy > 0.0) {
        // `max` would make the best of what is not a number.
        _ if (xx * yy).is_nan() || xy.is_nan() || yy.is_infinite() => f64::NAN,
        (true, true) => (1.0 - xy / (xx * yy).sqrt()).max(0.0),
        (false, false) => 0.0,
        _ => 1.0,
    }
}
