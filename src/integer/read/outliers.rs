//! A linear layer some of whose channels stay in float.

use super::{Reader, Unnamed, operands, orders};
use crate::Result;
use crate::integer::site::{Outliers, Product};
use crate::onnx::{DOMAIN, NodeProto, tensor};

impl Reader<'_> {
    /// `inliers(x) + MatMul(Gather(x, channels, axis −1), rows)`. A sum that is nearly so is a float Add like any other.
    pub(super) fn with_outliers(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(terms) = operands(node) else { return Ok(None) };
        for [inliers, outliers] in orders(terms) {
            let Some((product, [gathered, rows])) = self.binary(outliers, "MatMul") else { continue };
            let Some((gather, [x, channels])) = self.binary(gathered, "Gather") else { continue };
            let last_axis = self.graph.node(gather).attr_int("axis") == Some(-1);
            let channels = self.graph.constant(channels).and_then(|c| tensor::i64s(c).ok());
            let (Some(channels), Some((dims, rows)), true) = (channels, self.floats(rows), last_axis) else {
                continue;
            };
            let channels: Vec<usize> = channels.into_iter().filter_map(|c| usize::try_from(c).ok()).collect();
            let Some(inner) = self.graph.producer(inliers) else { continue };
            let Some(mut found) = self.inliers(self.graph.node(inner))? else { continue };
            let Product::Linear { weight, outliers, .. } = &mut found.product else { continue };
            let within = channels.iter().all(|&channel| channel < weight.k);
            if found.inputs == [x] && dims == [channels.len(), weight.n] && within {
                *outliers = Outliers { channels, rows };
                found.nodes.extend([product, gather, inner]);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The linear layer whose product `node` makes.
    fn inliers(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        match node.op_type() {
            _ if node.domain() == DOMAIN => self.function(node).map(Some),
            "MatMul" if node.is_op("MatMul") => self.matmul(node),
            "Add" if node.is_op("Add") => self.twin_gelu(node),
            _ => Ok(None),
        }
    }
}
