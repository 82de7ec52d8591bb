//! Products with a constant weight: uniform linear layers, the post-GELU twin as plain nodes, the patch convolution.

use super::operand::Pair;
use super::{Reader, Unnamed, operands, orders};
use crate::integer::site::{Outliers, Product, Weight, widths};
use crate::onnx::{NodeId, NodeProto, tensor};
use crate::quant::{MAX_SHIFT, Quantizer, Scale, TwinScale};
use crate::{Error, Result};

impl Reader<'_> {
    /// `MatMul(QDQ(x), DQ(W))`, or of two activations with a scalar scale each.
    pub(super) fn matmul(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some([a, b]) = operands(node) else { return Ok(None) };
        let (lhs, rhs) = (self.uniform(a)?, self.uniform(b)?);
        let weight = self.made_by(b, "DequantizeLinear").filter(|_| rhs.is_none());
        match (lhs, rhs, weight) {
            (None, None, None) => Ok(None),
            (Some(lhs), None, Some((id, dequantize))) => {
                Self::no_head_scales(node, lhs.scaled)?;
                let weight = self.linear_weight(dequantize)?;
                Ok(Some(Unnamed {
                    op: "MatMul",
                    inputs: vec![lhs.value],
                    nodes: lhs.nodes.into_iter().chain([id]).collect(),
                    product: Product::Linear {
                        a: lhs.quantizers[0],
                        weight,
                        bias: None,
                        outliers: Outliers::default(),
                    },
                }))
            }
            (Some(lhs), Some(rhs), None) => {
                Self::no_head_scales(node, lhs.scaled || rhs.scaled)?;
                Ok(Some(Unnamed {
                    op: "MatMul",
                    inputs: vec![lhs.value, rhs.value],
                    nodes: lhs.nodes.into_iter().chain(rhs.nodes).collect(),
                    product: Product::Heads { a: lhs.quantizers, b: rhs.quantizers },
                }))
            }
            _ => Err(Error::unsupported(node.label(), "only one of its operands is quantized")),
        }
    }

    /// `Squeeze(MatMul(QDQ(x[M, K]), DQ(W)) + b[1, 1, N], axes 0)`: a classifier with its bias.
    pub(super) fn classifier(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let [sum, axes] = node.input.as_slice() else { return Ok(None) };
        let first_axis = self.graph.constant(axes).and_then(|axes| tensor::i64s(axes).ok());
        let Some((add, terms)) = self.binary(sum, "Add").filter(|_| first_axis == Some(vec![0])) else {
            return Ok(None);
        };
        for [product, bias] in orders(terms) {
            let (Some((id, matmul)), Some((dims, values))) =
                (self.made_by(product, "MatMul"), self.floats(bias))
            else {
                continue;
            };
            let Some(mut found) = self.matmul(matmul)? else { continue };
            if let Product::Linear { weight, bias, .. } = &mut found.product
                && dims[..] == [1, 1, weight.n]
            {
                *bias = Some(values);
                found.nodes.extend([id, add]);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn no_head_scales(node: &NodeProto, scaled: bool) -> Result<()> {
        let why =
            "an operand is divided by per-head scales, but the result is not multiplied by their product";
        if scaled { Err(Error::unsupported(node.label(), why)) } else { Ok(()) }
    }

    /// The weight `[K, N]` behind a `DequantizeLinear` of a `MatMul`.
    fn linear_weight(&self, node: &NodeProto) -> Result<Weight> {
        let (weight, dims) =
            self.weight(&node.label(), &node.input, node.attr_int("axis").unwrap_or(1), 1)?;
        if dims.len() != 2 {
            return Err(Error::unsupported(
                node.label(),
                format!("a weight of dims {dims:?}, expected [K, N]"),
            ));
        }
        Ok(weight)
    }

    /// `MatMul(QDQ(Clip(x, −q·fine, 0)), DQ(W)) + MatMul(QDQ(Clip(x, 0, q·coarse)), DQ(W))`.
    pub(super) fn twin_gelu(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(terms) = operands(node) else { return Ok(None) };
        let mut parts = Vec::new();
        for term in terms {
            let Some((id, [a, b])) = self.binary(term, "MatMul") else { return Ok(None) };
            let Some((weight_id, weight)) = self.made_by(b, "DequantizeLinear") else { return Ok(None) };
            let Some(pair) = self.pair(a)? else { return Ok(None) };
            parts.push(Part { ids: [id, weight_id], weight, pair });
        }
        // Two ranges of one twin share the codes of their weight; two layers that are added do not.
        if parts[0].weight.input.first() != parts[1].weight.input.first() {
            return Ok(None);
        }
        if parts[0].weight.input != parts[1].weight.input {
            return Err(Error::unsupported(
                node.label(),
                "the ranges of a twin have weights of different scales",
            ));
        }
        parts.sort_by_key(|part| part.pair.unsigned);
        let [negative, positive] = &parts[..] else { return Ok(None) };
        let wrong = |why: &str| Error::unsupported(node.label(), format!("a post-GELU twin, but {why}"));
        if negative.pair.unsigned || !positive.pair.unsigned {
            return Err(wrong("its ranges are not int8 below zero and uint8 above"));
        }
        let clips = self.clip(negative.pair.input).zip(self.clip(positive.pair.input));
        let ((low_id, x, fine_min, zero), (high_id, same_x, other_zero, coarse_max)) =
            clips.ok_or_else(|| wrong("a range has no Clip between constants"))?;
        if x != same_x || zero != 0.0 || other_zero != 0.0 {
            return Err(wrong("its ranges do not meet at zero of one value"));
        }
        let (fine, coarse) = (negative.pair.scale, positive.pair.scale);
        let a = Self::gelu_quantizer(fine, coarse, fine_min, coarse_max).map_err(|why| wrong(&why))?;
        let weight = self.linear_weight(negative.weight)?;
        self.linear_weight(positive.weight)?;
        let nodes = parts.iter().flat_map(|part| part.ids.into_iter().chain(part.pair.nodes));
        Ok(Some(Unnamed {
            op: "TwinGeluMatMul",
            inputs: vec![x.to_string()],
            nodes: nodes.chain([low_id, high_id]).collect(),
            product: Product::Linear { a, weight, bias: None, outliers: Outliers::default() },
        }))
    }

    /// The post-GELU twin of these steps whose ranges end at `−q·fine` and `q·coarse`, `q = 2^(k−1)−1`.
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
            format!("no k has ranges that end at {fine_min} and {coarse_max} with steps {fine} and {coarse}")
        })?;
        let fine = Scale::new(fine).map_err(|e| e.to_string())?;
        Ok(Quantizer::TwinGelu { scale: TwinScale { fine, shift }, bits })
    }

    /// `Conv(QDQ(x), DQ(W), bias)` without overlap, padding or groups.
    pub(super) fn conv(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let [a, b, bias @ ..] = node.input.as_slice() else { return Ok(None) };
        let (lhs, weight) = match (self.uniform(a)?, self.made_by(b, "DequantizeLinear")) {
            (None, None) => return Ok(None),
            (Some(lhs), Some(weight)) => (lhs, weight),
            _ => return Err(Error::unsupported(node.label(), "only one of its operands is quantized")),
        };
        Self::no_head_scales(node, lhs.scaled)?;
        let (id, dequantize) = weight;
        let axis = dequantize.attr_int("axis").unwrap_or(1);
        let (weight, dims) = self.weight(&dequantize.label(), &dequantize.input, axis, 0)?;
        let [m, _, height, width] = dims[..] else {
            return Err(Error::unsupported(
                node.label(),
                format!("a kernel of dims {dims:?}, expected [M, C, kh, kw]"),
            ));
        };
        check_patches(node, [height, width])?;
        let bias = match bias {
            [name] if !name.is_empty() => {
                let found = self.floats(name).filter(|(dims, _)| dims[..] == [m]);
                let why = || {
                    Error::unsupported(
                        node.label(),
                        format!("its bias `{name}` is no constant of FLOAT [{m}]"),
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
                kernel: [height, width],
                bias,
            },
        }))
    }
}

/// One range of a twin: its `MatMul` and its weight's `DequantizeLinear`, and its own pair.
struct Part<'m> {
    ids: [NodeId; 2],
    weight: &'m NodeProto,
    pair: Pair<'m>,
}

/// The m for which `coarse = fine·2^m`.
pub(super) fn shift_between(fine: f32, coarse: f32) -> Result<u8, String> {
    let scaled = |m: u8| fine * Scale::power_of_two(m.into()).get();
    (0..=MAX_SHIFT)
        .find(|&m| scaled(m) == coarse)
        .ok_or_else(|| format!("{coarse} is not {fine} times 2^m for an m from 0 to {MAX_SHIFT}"))
}

/// A Conv whose patches tile its input.
fn check_patches(node: &NodeProto, kernel: [usize; 2]) -> Result<()> {
    let kernel = kernel.map(|k| k as i64);
    let ints = |name: &str| node.attr_ints(name).filter(|ints| !ints.is_empty());
    let tiles = ints("strides").unwrap_or(&[1, 1]) == kernel
        && ints("kernel_shape").is_none_or(|shape| shape == kernel)
        && ints("pads").is_none_or(|pads| pads.iter().all(|&p| p == 0))
        && ints("dilations").is_none_or(|dilations| dilations.iter().all(|&d| d == 1))
        && node.attr_int("group").unwrap_or(1) == 1
        && matches!(node.attr_str("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID");
    let why =
        "a quantized Conv must cut its input into patches: stride = kernel, no padding, dilation or groups";
    if tiles { Ok(()) } else { Err(Error::unsupported(node.label(), why)) }
}

/// From `[N, K]`, as a Conv has its kernel, to `[K, N]`.
fn transposed(weight: Weight) -> Weight {
    let Weight { k, n, ref codes, .. } = weight;
    let codes = (0..k * n).map(|i| codes[i % n * k + i / n]).collect();
    Weight { codes, ..weight }
}
