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

/// What the products of a quantized graph are.
pub struct Contents {
    /// The quantized ones, in the order of the graph.
    pub sites: Vec<SiteInfo>,
    /// Those that are in no site, and so are computed in float.
    pub float: Vec<NodeId>,
}

/// Reads a quantized graph; an error if it has no site, or quantizes what no site takes.
pub fn contents(graph: &Graph) -> Result<Contents> {
    let read::Found { sites, float } = read::read(graph)?;
    Ok(Contents { sites: sites.into_iter().map(|site| site.info).collect(), float })
}
