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

pub use runner::Runner;
pub use site::SiteInfo;

use crate::Result;
use crate::onnx::{Graph, NodeId};

/// The quantized sites of a graph, in its order; an error if it has none, or quantizes what no site takes.
pub fn sites(graph: &Graph) -> Result<Vec<SiteInfo>> {
    Ok(read::read(graph)?.sites.into_iter().map(|site| site.info).collect())
}

/// The matrix products of a quantized graph that are in no site, and so are computed in float.
pub fn float_products(graph: &Graph) -> Result<Vec<NodeId>> {
    Ok(read::read(graph)?.float)
}
