//! `[bounds] → [Div] → QuantizeLinear → DequantizeLinear`: an operand, and the k that its bounds give.

use super::{Reader, formulas};
use crate::integer::site::widths;
use crate::onnx::NodeId;
use crate::pattern::var;
use crate::quant::{Bits, Quantizer};
use crate::{Error, Result};

/// What a `QuantizeLinear` and its `DequantizeLinear` say of the codes between them.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Codes {
    pub(super) scale: f32,
    pub(super) unsigned: bool,
}

/// A float value that enters a site, and how.
pub(super) struct Operand {
    pub(super) value: String,
    /// One, or one per head.
    pub(super) quantizers: Vec<Quantizer>,
    /// Whether it is divided by its scales before `QuantizeLinear`, so that the result must be multiplied by them.
    pub(super) scaled: bool,
    pub(super) nodes: Vec<NodeId>,
}

impl Reader<'_> {
    /// The codes between a `QuantizeLinear` and its `DequantizeLinear`, which have one scale.
    pub(super) fn codes(&self, quantize: NodeId, dequantize: NodeId) -> Result<Codes> {
        let read = |id: NodeId| {
            let (node, label) = (self.graph.node(id), self.graph.node(id).label());
            let [_, scale, ..] = node.input.as_slice() else {
                return Err(Error::model(label, "has fewer than two inputs"));
            };
            let (dims, scales) = self.scales(&label, scale)?;
            let [scale] = scales[..] else {
                return Err(Error::unsupported(label, "an activation's scale must be a scalar"));
            };
            Ok(Codes { scale, unsigned: self.zero_point(&label, node.input.get(2), &dims)? })
        };
        let (codes, again) = (read(quantize)?, read(dequantize)?);
        if codes != again {
            let [quantize, dequantize] = [quantize, dequantize].map(|id| self.graph.node(id).label());
            let why = format!("its scale or type is not that of the {quantize} before it");
            return Err(Error::unsupported(dequantize, why));
        }
        Ok(codes)
    }

    /// The operand of uniform int8 codes that arrives as `value`; `None` if it is not quantized.
    pub(super) fn uniform(&self, value: &str) -> Result<Option<Operand>> {
        let Some(pair) = formulas::quantized(var("x"), "quantize", "dequantize").matches(self.graph, value)
        else {
            return Ok(None);
        };
        let (quantize, input) = (pair.node("quantize"), pair.value("x"));
        let codes = self.codes(quantize, pair.node("dequantize"))?;
        let label = self.graph.node(quantize).label();
        if codes.unsigned {
            return Err(Error::unsupported(label, "uint8 codes outside the ranges of a twin"));
        }
        let mut nodes = pair.nodes.clone();
        let quantizer =
            |scale: f32, bits| Ok(Quantizer::Uniform { scale: Self::scale(&label, scale)?, bits });
        if let Some(divided) =
            formulas::divided().matches(self.graph, &**input).filter(|_| codes.scale == 1.0)
        {
            nodes.extend(divided.nodes.iter().copied());
            let scales = divided.floats("scales");
            let (mut value, mut bits) = (divided.value("x").clone(), widest());
            if let Some(bounded) = formulas::bounded().matches(self.graph, &*value)
                && let Some(k) = uniform_width(scales, bounded.floats("low"), bounded.floats("high"))
            {
                (value, bits) = (bounded.value("x").clone(), k);
                nodes.extend(bounded.nodes);
            }
            let quantizers = scales.iter().map(|&scale| quantizer(scale, bits)).collect::<Result<_>>()?;
            return Ok(Some(Operand { value, quantizers, scaled: true, nodes }));
        }
        let (mut value, mut bits) = (input.clone(), widest());
        // A Clip to other bounds is the model's own: it stays, in float.
        if let Some(clip) = formulas::clip().matches(self.graph, &**input)
            && let Some(k) = uniform_width(&[codes.scale], clip.floats("min"), clip.floats("max"))
        {
            (value, bits) = (clip.value("x").clone(), k);
            nodes.extend(clip.nodes);
        }
        Ok(Some(Operand { value, quantizers: vec![quantizer(codes.scale, bits)?], scaled: false, nodes }))
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

pub(super) fn widest() -> Bits {
    widths().last().expect("8 bits")
}
