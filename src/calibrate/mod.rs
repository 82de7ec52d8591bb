//! The calibrator.

pub mod loss;
mod metric;
pub mod search;

pub use metric::Metric;
