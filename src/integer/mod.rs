//! The emitted file on integer kernels: an independent reader, which knows nothing of how the file was made.
//!
//! `read` finds the quantized matrix products, `lower` puts one node of ours in the place of each and hands the rest
//! to tract as floats, `ops` are those nodes. In every product the codes are multiplied exactly, in integers, and
//! `acc · (Δ_A · Δ_B)` is the only rounding.

mod fuse;
mod lower;
mod math;
mod ops;
mod read;
mod runner;
mod site;

pub use runner::{OperatorTime, Runner, SiteValues};
pub use site::SiteInfo;

use crate::Result;
use crate::onnx::Model;

/// The quantized sites of `model`, in the order of the graph; an error if it has none, or quantizes what no site takes.
pub fn sites(model: &Model) -> Result<Vec<SiteInfo>> {
    Ok(read::read(model)?.into_iter().map(|site| site.info).collect())
}
