//! The calibrator.

mod metric;
pub mod search;

pub use metric::Metric;
