//! Products with a constant weight: uniform linear layers, and the post-GELU twin as plain nodes.

use super::operand::Codes;
use super::{Reader, Unnamed, formulas};
use crate::integer::site::{Outliers, Product, Weight, widths};
use crate::onnx::{NodeId, NodeProto, tensor};
use crate::quant::{MAX_SHIFT, Quantizer, Scale, TwinScale};
use crate::{Error, Result};

impl Reader<'_> {
    /// `MatMul(QDQ(x), DQ(W))`, or of two activations with a scalar scale each.
    pub(super) fn matmul(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(found) = formulas::product().matches(self.graph, &*node.output[0]) else { return Ok(None) };
        let (a, b) = (found.value("a"), found.value("b"));
        let (lhs, rhs) = (self.uniform(a)?, self.uniform(b)?);
        let weight = self.dequantized(b).filter(|_| rhs.is_none());
        match (lhs, rhs, weight) {
            (None, None, None) => Ok(None),
            (Some(lhs), None, Some(weight)) => {
                no_head_scales(node, lhs.scaled)?;
                Ok(Some(Unnamed {
                    op: "MatMul",
                    inputs: vec![lhs.value],
                    nodes: [lhs.nodes, vec![weight]].concat(),
                    product: linear(lhs.quantizers[0], self.linear_weight(weight)?),
                }))
            }
            (Some(lhs), Some(rhs), None) => {
                no_head_scales(node, lhs.scaled || rhs.scaled)?;
                Ok(Some(Unnamed {
                    op: "MatMul",
                    inputs: vec![lhs.value, rhs.value],
                    nodes: [lhs.nodes, rhs.nodes].concat(),
                    product: Product::Heads { a: lhs.quantizers, b: rhs.quantizers },
                }))
            }
            // Floats that come from a Conv.
            _ if [a, b].iter().any(|value| self.is_rounded_conv(value)) => Ok(None),
            _ => Err(Error::unsupported(node.label(), "only one of its operands is quantized")),
        }
    }

    /// A classifier, whose bias is its own.
    pub(super) fn classifier(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(found) = formulas::classifier().matches(self.graph, &*node.output[0]) else {
            return Ok(None);
        };
        let axes = self.graph.constant(found.value("axes")).and_then(|axes| tensor::i64s(axes).ok());
        let Some(mut site) = self.matmul(self.graph.node(found.node("product")))? else { return Ok(None) };
        if let Product::Linear { weight, bias, .. } = &mut site.product
            && axes == Some(vec![0])
            && found.constant("bias").dims == [1, 1, weight.n]
        {
            *bias = Some(found.floats("bias").to_vec());
            site.nodes.extend(found.nodes);
            return Ok(Some(site));
        }
        Ok(None)
    }

    /// The `DequantizeLinear` that makes `value`.
    pub(super) fn dequantized(&self, value: &str) -> Option<NodeId> {
        self.graph.producer(value).filter(|&id| self.graph.node(id).is_op("DequantizeLinear"))
    }

    /// The weight `[K, N]` behind a `DequantizeLinear` of a `MatMul`.
    fn linear_weight(&self, dequantize: NodeId) -> Result<Weight> {
        let node = self.graph.node(dequantize);
        let axis = node.attr_int("axis").unwrap_or(1);
        let (weight, dims) = self.weight(&node.label(), &node.input, axis, 1)?;
        two_axes(node, &dims)?;
        Ok(weight)
    }

    /// The post-GELU twin as plain nodes.
    pub(super) fn twin_gelu(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let wrong = |why: &str| Error::unsupported(node.label(), format!("a post-GELU twin, but {why}"));
        let found = formulas::twin_gelu().find(self.graph, &*node.output[0]);
        let Some(found) = found.map_err(|near| wrong(near.0))? else { return Ok(None) };
        let [w0, w1] = ["w0", "w1"].map(|name| found.node(name));
        if self.graph.node(w0).input != self.graph.node(w1).input {
            let why = "the ranges of a twin have weights of different scales";
            return Err(Error::unsupported(node.label(), why));
        }
        // The terms of the sum come in either order.
        let range = |name: &str| -> Result<(Codes, [f32; 2])> {
            let node = |part| found.node(&format!("{name}_{part}"));
            let end = |part| found.scalar(&format!("{name}_{part}"));
            Ok((self.codes(node("q"), node("dq"))?, [end("min"), end("max")]))
        };
        let mut ranges = [range("n")?, range("p")?];
        ranges.sort_by(|(_, [a, _]), (_, [b, _])| a.total_cmp(b));
        let [(negative, [fine_min, zero]), (positive, [other_zero, coarse_max])] = ranges;
        if negative.unsigned {
            return Err(wrong("its codes below zero are uint8"));
        }
        let x = found.value("x");
        if x != found.value("same_x") || zero != 0.0 || other_zero != 0.0 {
            return Err(wrong("its ranges do not meet at zero of one value"));
        }
        let a = gelu_quantizer(negative.scale, positive.scale, fine_min, coarse_max)
            .map_err(|why| wrong(&why))?;
        Ok(Some(Unnamed {
            op: "TwinGeluMatMul",
            inputs: vec![x.clone()],
            product: linear(a, self.linear_weight(w0)?),
            nodes: found.nodes,
        }))
    }
}

/// A linear layer as it stands, without what may be added to it.
pub(super) fn linear(a: Quantizer, weight: Weight) -> Product {
    Product::Linear { a, weight, bias: None, outliers: Outliers::default() }
}

/// An error unless a weight is `[K, N]`.
pub(super) fn two_axes(node: &NodeProto, dims: &[usize]) -> Result<()> {
    let why = || format!("a weight of dims {dims:?}, expected [K, N]");
    if dims.len() == 2 { Ok(()) } else { Err(Error::unsupported(node.label(), why())) }
}

pub(super) fn no_head_scales(node: &NodeProto, scaled: bool) -> Result<()> {
    let why = "an operand is divided by per-head scales, but the result is not multiplied by their product";
    if scaled { Err(Error::unsupported(node.label(), why)) } else { Ok(()) }
}

/// The post-GELU twin of these scales whose ranges end at `−q·fine` and `q·coarse`, `q = 2^(k−1)−1`.
pub(super) fn gelu_quantizer(
    fine: f32,
    coarse: f32,
    fine_min: f32,
    coarse_max: f32,
) -> Result<Quantizer, String> {
    let shift = shift_between(fine, coarse)?;
    let ends = |half: i32| (-((half - 1) as f32) * fine, (half - 1) as f32 * coarse);
    let bits = widths().find(|bits| ends(bits.half()) == (fine_min, coarse_max));
    let bits = bits.ok_or_else(|| {
        format!("no k has ranges that end at {fine_min} and {coarse_max} with scales {fine} and {coarse}")
    })?;
    let fine = Scale::new(fine).map_err(|e| e.to_string())?;
    Ok(Quantizer::TwinGelu { scale: TwinScale { fine, shift }, bits })
}

/// The m for which `coarse = fine·2^m`.
pub(super) fn shift_between(fine: f32, coarse: f32) -> Result<u8, String> {
    let scaled = |m: u8| fine * Scale::power_of_two(m.into()).get();
    (0..=MAX_SHIFT)
        .find(|&m| scaled(m) == coarse)
        .ok_or_else(|| format!("{coarse} is not {fine} times 2^m for an m from 0 to {MAX_SHIFT}"))
}
