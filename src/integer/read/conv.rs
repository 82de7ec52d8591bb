//! Convolutions, with the codes of their results where the file has them.

use super::linear::no_head_scales;
use super::operand::{uniform_width, widest};
use super::{Reader, Unnamed, formulas};
use crate::integer::site::{Product, Weight};
use crate::onnx::NodeProto;
use crate::quant::Quantizer;
use crate::windows::Windows;
use crate::{Error, Result};

impl Reader<'_> {
    /// `QDQ(Conv(QDQ(x), DQ(W), bias))`.
    pub(super) fn rounded_conv(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(found) = formulas::rounded_conv().matches(self.graph, &*node.output[0]) else {
            return Ok(None);
        };
        let Some(mut site) = self.conv(self.graph.node(found.node("conv")))? else { return Ok(None) };
        let codes = self.codes(found.node("q"), found.node("dq"))?;
        let Product::Conv { output, .. } = &mut site.product else { return Ok(None) };
        if codes.unsigned {
            return Err(Error::unsupported(node.label(), "uint8 codes of the result of a Conv"));
        }
        let scale = Self::scale(&node.label(), codes.scale)?;
        *output = Some(Quantizer::Uniform { scale, bits: widest() });
        site.nodes.extend(found.nodes);
        Ok(Some(site))
    }

    /// The same, behind a Clip to all of its codes. Any other Clip is the model's own.
    pub(super) fn clipped_conv(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(clip) = formulas::clip().matches(self.graph, &*node.output[0]) else { return Ok(None) };
        let Some(id) = self.graph.producer(clip.value("x")) else { return Ok(None) };
        let rounded = self.graph.node(id);
        if !rounded.is_op("DequantizeLinear") {
            return Ok(None);
        }
        let Some(mut site) = self.rounded_conv(rounded)? else { return Ok(None) };
        let Product::Conv { output: Some(Quantizer::Uniform { scale, bits }), .. } = site.product else {
            return Ok(None);
        };
        let width = uniform_width(&[scale.get()], clip.floats("min"), clip.floats("max"));
        site.nodes.extend(clip.nodes);
        site.nodes.push(id);
        Ok((width == Some(bits)).then_some(site))
    }

    /// Whether `value` is the rounded result of a Conv, so that its codes say nothing of the node that takes it.
    pub(super) fn is_rounded_conv(&self, value: &str) -> bool {
        formulas::rounded_conv().matches(self.graph, value).is_some()
    }

    /// `Conv(QDQ(x), DQ(W), bias)`.
    pub(super) fn conv(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let [a, b, bias @ ..] = node.input.as_slice() else { return Ok(None) };
        let (lhs, id) = match (self.uniform(a)?, self.dequantized(b)) {
            (None, None) => return Ok(None),
            (Some(_), None) if self.is_rounded_conv(a) => return Ok(None),
            (Some(lhs), Some(weight)) => (lhs, weight),
            _ => return Err(Error::unsupported(node.label(), "only one of its operands is quantized")),
        };
        no_head_scales(node, lhs.scaled)?;
        let dequantize = self.graph.node(id);
        let axis = dequantize.attr_int("axis").unwrap_or(1);
        let (weight, dims) = self.weight(&dequantize.label(), &dequantize.input, axis, 0)?;
        let windows = Windows::of(node, &dims).map_err(|why| Error::unsupported(node.label(), why))?;
        let bias = match bias {
            [name] if !name.is_empty() => {
                let found = self.floats(name).filter(|(dims, _)| dims[..] == [weight.n]);
                let why = || {
                    Error::unsupported(
                        node.label(),
                        format!("its bias `{name}` is no constant of FLOAT [{}]", weight.n),
                    )
                };
                Some(found.ok_or_else(why)?.1)
            }
            _ => None,
        };
        Ok(Some(Unnamed {
            op: "Conv",
            inputs: vec![lhs.value],
            nodes: lhs.nodes.into_iter().chain([id]).collect(),
            product: Product::Conv {
                a: lhs.quantizers[0],
                weight: transposed(weight),
                windows,
                bias,
                output: None,
            },
        }))
    }
}

/// From `[N, K]`, as a Conv has its kernel, to `[K, N]`.
fn transposed(weight: Weight) -> Weight {
    let Weight { k, n, ref codes, .. } = weight;
    let codes = (0..k * n).map(|i| codes[i % n * k + i / n]).collect();
    Weight { codes, ..weight }
}
