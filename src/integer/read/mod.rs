//! Finds the sites of a file: backwards from each result to the floats that enter, by the nodes alone.

mod attention;
mod constants;
mod conv;
mod formulas;
mod function;
mod linear;
mod operand;
mod outliers;

use std::collections::BTreeSet;

use super::site::{Product, Site, SiteInfo};
use crate::onnx::{DOMAIN, Graph, NodeId, NodeProto};
use crate::{Error, Result};

/// What the nodes of a quantized graph make.
pub(super) struct Found {
    /// In the order of the graph.
    pub(super) sites: Vec<Site>,
    /// The matrix products that are in no site.
    pub(super) float: Vec<NodeId>,
}

/// The sites of `graph`.
pub(super) fn read(graph: &Graph) -> Result<Found> {
    let reader = Reader { graph };
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut sites = Vec::new();
    // Backwards, so that a twin's sum comes before the products that it consists of.
    for (id, node) in reader.graph.nodes().rev() {
        if taken.contains(&id) {
            continue;
        }
        if let Some(site) = reader.site(id, node)? {
            reader.check_closed(&site)?;
            taken.extend(&site.nodes);
            sites.push(site);
        }
    }
    for (id, node) in reader.graph.nodes() {
        if !taken.contains(&id) && (node.is_op("QuantizeLinear") || node.is_op("DequantizeLinear")) {
            return Err(Error::unsupported(node.label(), "belongs to no quantized MatMul or Conv"));
        }
    }
    if sites.is_empty() {
        return Err(Error::model(
            "graph",
            "no quantized site: expected MatMul or Conv nodes behind DequantizeLinear",
        ));
    }
    sites.reverse();
    let products = reader.graph.nodes().filter(|(id, node)| {
        !taken.contains(id) && ["MatMul", "Gemm", "Conv"].iter().any(|op| node.is_op(op))
    });
    Ok(Found { sites, float: products.map(|(id, _)| id).collect() })
}

struct Reader<'m> {
    graph: &'m Graph,
}

/// A site before it has a name.
struct Unnamed {
    op: &'static str,
    inputs: Vec<String>,
    /// What serves the site alone; a node may be named twice.
    nodes: Vec<NodeId>,
    product: Product,
}

impl Reader<'_> {
    /// The site whose result `node` makes; `None` if it makes none, an error if it is nearly one.
    fn site(&self, id: NodeId, node: &NodeProto) -> Result<Option<Site>> {
        let Some(found) = self.unnamed(node)? else { return Ok(None) };
        let output = node.output[0].clone();
        let name = if node.name().is_empty() { output.clone() } else { node.name().to_string() };
        let (a, b_bits, b_scales) = match &found.product {
            Product::Linear { a, weight, .. } | Product::Conv { a, weight, .. } => {
                (vec![*a], weight.bits(), weight.scales.clone())
            }
            Product::Heads { a, b } => (a.clone(), b[0].bits(), b.iter().map(|q| q.scale()).collect()),
        };
        let outliers = match &found.product {
            Product::Linear { outliers, .. } => outliers.channels.clone(),
            _ => Vec::new(),
        };
        let nodes = found.nodes.into_iter().chain([id]).collect();
        let info = SiteInfo {
            name,
            op: found.op,
            inputs: found.inputs,
            output,
            a_bits: a[0].bits(),
            b_bits,
            a,
            outliers,
            b_scales,
        };
        Ok(Some(Site { info, root: id, nodes, product: found.product }))
    }

    fn unnamed(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        match node.op_type() {
            _ if node.domain() == DOMAIN => self.function(node).map(Some),
            _ if !node.is_standard() => Ok(None),
            "Mul" => match self.twin_softmax(node)? {
                None => self.heads(node),
                twin => Ok(twin),
            },
            "Add" => match self.with_outliers(node)? {
                None => self.twin_gelu(node),
                sum => Ok(sum),
            },
            "Squeeze" => self.classifier(node),
            "MatMul" => self.matmul(node),
            "Conv" => self.conv(node),
            "DequantizeLinear" => self.rounded_conv(node),
            "Clip" => self.clipped_conv(node),
            _ => Ok(None),
        }
    }

    /// Nothing but the root of a site may be seen from outside it.
    fn check_closed(&self, site: &Site) -> Result<()> {
        for &id in site.nodes.iter().filter(|&&id| id != site.root) {
            let node = self.graph.node(id);
            for value in &node.output {
                let strays = self.graph.consumers(value).iter().find(|user| !site.nodes.contains(&user.node));
                if let Some(user) = strays {
                    let why = format!("is inside the site `{}`, but {} takes it", site.info.name, {
                        self.graph.node(user.node).label()
                    });
                    return Err(Error::unsupported(node.label(), why));
                }
                if self.graph.is_output(value) {
                    let why =
                        format!("is inside the site `{}`, but is an output of the graph", site.info.name);
                    return Err(Error::unsupported(node.label(), why));
                }
            }
        }
        Ok(())
    }
}
