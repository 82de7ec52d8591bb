//! `[bounds] → [Div] → QuantizeLinear → DequantizeLinear`: an operand, and the k that its bounds give.

use super::Reader;
use crate::integer::site::widths;
use crate::onnx::NodeId;
use crate::quant::{Bits, Quantizer};
use crate::{Error, Result};

/// A `QuantizeLinear` and its `DequantizeLinear`, with one scale.
pub(super) struct Pair<'m> {
    pub(super) input: &'m str,
    pub(super) scale: f32,
    pub(super) unsigned: bool,
    pub(super) nodes: [NodeId; 2],
}

/// A value, its quantizers, and the nodes between it and the product.
type ScaledHeads = (String, Vec<Quantizer>, Vec<NodeId>);

/// A float value that enters a site, and how.
pub(super) struct Operand {
    pub(super) value: String,
    /// One, or one a head.
    pub(super) quantizers: Vec<Quantizer>,
    /// Whether it is divided by its scales before `QuantizeLinear`, so that the result must be multiplied by them.
    pub(super) scaled: bool,
    pub(super) nodes: Vec<NodeId>,
}

impl<'m> Reader<'m> {
    /// The pair that makes `value`; `None` if no `DequantizeLinear` behind a `QuantizeLinear` does.
    pub(super) fn pair(&self, value: &str) -> Result<Option<Pair<'m>>> {
        let Some((dequantize_id, dequantize)) = self.made_by(value, "DequantizeLinear") else {
            return Ok(None);
        };
        let Some(codes) = dequantize.input.first() else { return Ok(None) };
        let Some((quantize_id, quantize)) = self.made_by(codes, "QuantizeLinear") else { return Ok(None) };
        let mut found = Vec::new();
        for node in [quantize, dequantize] {
            let label = node.label();
            let [_, scale, ..] = node.input.as_slice() else {
                return Err(Error::model(label, "has fewer than two inputs"));
            };
            let (dims, scales) = self.scales(&label, scale)?;
            let [scale] = scales[..] else {
                return Err(Error::unsupported(label, "an activation's scale must be a scalar"));
            };
            found.push((scale, self.zero_point(&label, node.input.get(2), &dims)?));
        }
        if found[0] != found[1] {
            let why = format!("its scale or type is not that of the {} before it", quantize.label());
            return Err(Error::unsupported(dequantize.label(), why));
        }
        let (scale, unsigned) = found[0];
        Ok(Some(Pair { input: &quantize.input[0], scale, unsigned, nodes: [quantize_id, dequantize_id] }))
    }

    /// The operand of uniform int8 codes that arrives as `value`; `None` if it is not quantized.
    pub(super) fn uniform(&self, value: &str) -> Result<Option<Operand>> {
        let Some(pair) = self.pair(value)? else { return Ok(None) };
        let label = self.graph.node(pair.nodes[0]).label();
        if pair.unsigned {
            return Err(Error::unsupported(label, "uint8 codes outside the ranges of a twin"));
        }
        if let Some((value, quantizers, nodes)) = self.scaled_heads(&label, &pair)? {
            return Ok(Some(Operand { value, quantizers, scaled: true, nodes }));
        }
        let scale = Self::scale(&label, pair.scale)?;
        let mut nodes = pair.nodes.to_vec();
        let (value, bits) = match self.clip(pair.input) {
            Some((id, value, min, max)) => match uniform_width(&[scale.get()], &[min], &[max]) {
                Some(bits) => {
                    nodes.push(id);
                    (value, bits)
                }
                // A Clip of the model itself: it stays, in float.
                None => (pair.input, widest()),
            },
            None => (pair.input, widest()),
        };
        let quantizers = vec![Quantizer::Uniform { scale, bits }];
        Ok(Some(Operand { value: value.into(), quantizers, scaled: false, nodes }))
    }

    /// A Clip between scalars that makes `value`: its place, its input, its bounds.
    pub(super) fn clip(&self, value: &str) -> Option<(NodeId, &'m str, f32, f32)> {
        let (id, node) = self.made_by(value, "Clip")?;
        let [input, min, max] = node.input.as_slice() else { return None };
        Some((id, input, self.scalar(min)?, self.scalar(max)?))
    }

    /// `[Max → Min →] Div` by `[H, 1, 1]` before a pair of scale 1: the float value, its quantizers, all nodes.
    fn scaled_heads(&self, label: &str, pair: &Pair<'m>) -> Result<Option<ScaledHeads>> {
        let Some((div, [input, scales])) = self.binary(pair.input, "Div").filter(|_| pair.scale == 1.0)
        else {
            return Ok(None);
        };
        let Some(scales) = self.per_head(scales) else { return Ok(None) };
        let mut nodes = vec![div, pair.nodes[0], pair.nodes[1]];
        let (value, bits) = match self.head_bounds(input, &scales) {
            Some((bounds, value, bits)) => {
                nodes.extend(bounds);
                (value, bits)
            }
            None => (input, widest()),
        };
        let quantizer = |&s: &f32| Ok(Quantizer::Uniform { scale: Self::scale(label, s)?, bits });
        Ok(Some((value.into(), scales.iter().map(quantizer).collect::<Result<_>>()?, nodes)))
    }

    /// `Min(Max(x, −2^(k−1)·Δ_h), (2^(k−1)−1)·Δ_h)` that makes `value`: the nodes, x and k.
    fn head_bounds(&self, value: &str, scales: &[f32]) -> Option<([NodeId; 2], &'m str, Bits)> {
        let (min_id, [floored, high]) = self.binary(value, "Min")?;
        let (max_id, [input, low]) = self.binary(floored, "Max")?;
        let bits = uniform_width(scales, &self.per_head(low)?, &self.per_head(high)?)?;
        Some(([min_id, max_id], input, bits))
    }
}

/// The k for which every `min = −2^(k−1)·Δ` and `max = (2^(k−1)−1)·Δ`, as f32 products.
pub(super) fn uniform_width(scales: &[f32], mins: &[f32], maxs: &[f32]) -> Option<Bits> {
    let scaled = |by: f32| scales.iter().map(move |s| by * s);
    widths().find(|bits| {
        let half = bits.half() as f32;
        scaled(-half).eq(mins.iter().copied()) && scaled(half - 1.0).eq(maxs.iter().copied())
    })
}

fn widest() -> Bits {
    widths().last().expect("8 bits")
}
