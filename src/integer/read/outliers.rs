//! A linear layer some of whose channels stay in float.

use super::{Reader, Unnamed, formulas};
use crate::Result;
use crate::integer::site::{Outliers, Product};
use crate::onnx::{DOMAIN, NodeProto, tensor};

impl Reader<'_> {
    /// A linear layer with outliers. A sum that is nearly so is a float Add like any other.
    pub(super) fn with_outliers(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(found) = formulas::outliers().matches(self.graph, &*node.output[0]) else { return Ok(None) };
        let channels = self.graph.constant(found.value("channels")).and_then(|c| tensor::i64s(c).ok());
        let Some(channels) =
            channels.filter(|_| self.graph.node(found.node("gather")).attr_int("axis") == Some(-1))
        else {
            return Ok(None);
        };
        let channels: Vec<usize> = channels.into_iter().filter_map(|c| usize::try_from(c).ok()).collect();
        let Some(inner) = self.graph.producer(found.value("inliers")) else { return Ok(None) };
        let Some(mut site) = self.inliers(self.graph.node(inner))? else { return Ok(None) };
        let Product::Linear { weight, outliers, .. } = &mut site.product else { return Ok(None) };
        let rows = found.constant("rows");
        let within = channels.iter().all(|&channel| channel < weight.k);
        if site.inputs != [found.value("x").as_str()] || rows.dims != [channels.len(), weight.n] || !within {
            return Ok(None);
        }
        *outliers = Outliers { channels, rows: rows.values.clone() };
        site.nodes.extend(found.nodes);
        site.nodes.push(inner);
        Ok(Some(site))
    }

    /// The linear layer whose product `node` makes.
    fn inliers(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        match node.op_type() {
            _ if node.domain() == DOMAIN => self.function(node).map(Some),
            _ if !node.is_standard() => Ok(None),
            "MatMul" => self.matmul(node),
            "Add" => self.twin_gelu(node),
            _ => Ok(None),
        }
    }
}
