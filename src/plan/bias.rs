//! The row of constants that is added to the product of a site.

use super::{RhsOperand, Site, WeightLayout};
use crate::onnx::{Graph, NodeId, tensor};

/// Where the bias of a linear layer is. (That of a Conv stays its third input.)
#[derive(Clone, Debug, PartialEq)]
pub struct Bias {
    /// One number per column of the product.
    pub values: Vec<f32>,
    /// How it is added.
    pub place: BiasPlace,
}

/// How a bias is added.
#[derive(Clone, Debug, PartialEq)]
pub enum BiasPlace {
    /// As the third input of Gemm.
    Gemm,
    /// By the node that takes the product.
    Add {
        /// The Add.
        node: NodeId,
        /// Which of its inputs is the bias.
        input: usize,
        /// The number of axes of the bias.
        rank: usize,
    },
}

/// The bias of `site`; why the site can't be quantized if it has one that is no row of constants.
pub(super) fn find(graph: &Graph, site: &Site) -> Result<Option<Bias>, String> {
    let RhsOperand::Weight { value, layout, .. } = &site.b else { return Ok(None) };
    let dims = graph.constant(value).map(tensor::shape).unwrap_or_default();
    let columns = match layout {
        WeightLayout::Kn => dims[1],
        WeightLayout::Nk => dims[0],
        WeightLayout::Conv(_) => return Ok(None),
    };
    let node = graph.node(site.node);
    if node.is_op("Gemm") {
        let Some(c) = node.operand(2) else { return Ok(None) };
        let (values, _) = row(graph, c, columns).ok_or("the bias of this Gemm is no row of constants")?;
        return Ok(Some(Bias { values, place: BiasPlace::Gemm }));
    }
    Ok(added(graph, site, columns))
}

/// The bias that is added to the output of a `MatMul`.
fn added(graph: &Graph, site: &Site, columns: usize) -> Option<Bias> {
    let [consumer] = graph.consumers(&site.output) else { return None };
    let add = graph.node(consumer.node);
    if !add.is_op("Add") || graph.is_output(&site.output) {
        return None;
    }
    let [x, y] = &add.input[..] else { return None };
    let (input, value) = if consumer.input == 0 { (1, y) } else { (0, x) };
    let (values, rank) = row(graph, value, columns)?;
    Some(Bias { values, place: BiasPlace::Add { node: consumer.node, input, rank } })
}

/// The constant `value` as one number per column, and its number of axes.
fn row(graph: &Graph, value: &str, columns: usize) -> Option<(Vec<f32>, usize)> {
    let constant = graph.constant(value)?;
    let flat = constant.dims.iter().rev().skip(1).all(|&dim| dim == 1);
    let values = match tensor::f32s(constant).ok()? {
        values if flat && values.len() == columns => values,
        values if values.len() == 1 => vec![values[0]; columns],
        _ => return None,
    };
    Some((values, constant.dims.len()))
}
