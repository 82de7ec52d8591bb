//! How many multiplications a model takes, and which share of them is quantized.

use serde::Serialize;

use super::{FloatNode, Plan};
use crate::onnx::{Graph, NodeId};
use crate::prepare::Prepared;
use crate::runtime::{Facts, infer};

/// The multiplications of the matrix products and convolutions of a model, for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Multiplications {
    /// Those of sites.
    pub integer: u64,
    /// All.
    pub total: u64,
}

impl Multiplications {
    /// The quantized share in percent; 100 of nothing.
    pub fn integer_percent(self) -> f64 {
        if self.total == 0 { 100.0 } else { 100.0 * self.integer as f64 / self.total as f64 }
    }
}

impl Plan {
    /// Counts the multiplications for an image of `[C, H, W]`, notes the share of each product that stays in float, and
    /// puts the most expensive of these first; `None` if some product's shape can't be told.
    pub fn count(&mut self, model: &Prepared, image: [usize; 3]) -> Option<Multiplications> {
        let (sites, products) = self.counts(model, image)?;
        let integer = sites.iter().sum();
        let total = integer + products.iter().sum::<u64>();
        for (node, count) in self.float.iter_mut().zip(products) {
            node.percent = node.product.map(|_| percent(count, total));
        }
        let percent = |node: &FloatNode| node.percent.unwrap_or(-1.0);
        self.float.sort_by(|a, b| percent(b).total_cmp(&percent(a)));
        Some(Multiplications { integer, total })
    }

    /// The share of each site of the multiplications of the model for an image of `[C, H, W]`, in percent; `None` if some product's
    /// shape can't be told.
    pub fn shares(&self, model: &Prepared, image: [usize; 3]) -> Option<Vec<f64>> {
        let (sites, products) = self.counts(model, image)?;
        let total = sites.iter().chain(&products).sum();
        Some(sites.into_iter().map(|site| percent(site, total)).collect())
    }

    /// The multiplications of each site, and of each node that stays in float.
    fn counts(
        &self,
        model: &Prepared,
        [channels, height, width]: [usize; 3],
    ) -> Option<(Vec<u64>, Vec<u64>)> {
        let shape = [1, channels, height, width];
        let counted = |facts: &Facts| {
            let count = |id| multiplications(model.graph(), facts, id, shape);
            let sites = self.sites.iter().map(|site| count(site.node)).collect::<Option<_>>()?;
            let products = self.float.iter().map(|node| node.product.map_or(Some(0), count));
            Some((sites, products.collect::<Option<_>>()?))
        };
        // Where open dims leave shapes open, they are told for this size.
        counted(model.facts()).or_else(|| counted(&infer(model.model(), shape.map(Some))))
    }
}

fn percent(count: u64, total: u64) -> f64 {
    100.0 * count as f64 / total.max(1) as f64
}

/// Those of a `MatMul`, Gemm, Conv or `ConvTranspose`, for an input of `shape`.
fn multiplications(graph: &Graph, facts: &Facts, id: NodeId, shape: [usize; 4]) -> Option<u64> {
    let node = graph.node(id);
    let dims = |value: &String| facts.dims_at(value, shape);
    let outputs = dims(node.output.first()?)?.iter().map(|&dim| dim as u64).product::<u64>();
    if node.is_op("ConvTranspose") {
        // Each input is multiplied with the weights of its channel.
        let [inputs, weight] = [dims(node.input.first()?)?, dims(node.input.get(1)?)?];
        return Some((inputs.iter().product::<usize>() * weight[1..].iter().product::<usize>()) as u64);
    }
    let depth = match node.op_type() {
        "Conv" => dims(node.input.get(1)?)?[1..].iter().product(),
        "Gemm" if node.attr_int("transA").unwrap_or(0) != 0 => *dims(node.input.first()?)?.first()?,
        _ => *dims(node.input.first()?)?.last()?,
    };
    Some(outputs * depth as u64)
}
