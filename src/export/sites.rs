//! The nodes of one site, by kind.

use super::twins::{Functions, TwinGelu, TwinSoftmax};
use super::writer::{Unnamed, Writer};
use super::{QuantizedWeight, TwinForm, folded_weight};
use crate::calibrate::SiteScales;
use crate::onnx::{AttributeProto, Edits, Graph, tensor};
use crate::plan::{BiasPlace, RhsOperand, Site, WeightLayout};
use crate::quant::{Bits, Quantizer, Scale};
use crate::{Error, Result};

/// Writes sites into one batch of edits.
pub(super) struct Emitter<'e> {
    pub(super) graph: &'e Graph,
    pub(super) edits: &'e mut Edits,
    pub(super) functions: &'e mut Functions,
    pub(super) form: TwinForm,
}

impl Emitter<'_> {
    pub(super) fn emit(&mut self, site: &Site, scales: &SiteScales, quantized: bool) -> Result<()> {
        match &site.b {
            _ if !quantized && scales.fold.is_none() && scales.columns.is_none() => Ok(()),
            RhsOperand::Activation { .. } if !quantized => Ok(()),
            RhsOperand::Weight { .. } if !quantized => self.float_linear(site, scales),
            RhsOperand::Weight { layout: WeightLayout::Conv(_), .. } => self.conv(site, scales),
            RhsOperand::Weight { .. } => self.linear(site, scales),
            RhsOperand::Activation { value, .. } => self.attention(site, value, scales),
        }
    }

    /// `Q/DQ → Conv(·, DQ(W), b)`, the float bias where it was, and `Q/DQ` of the result: only a Conv between two of them
    /// becomes integer in ONNX Runtime, and only if one node takes the result. Where several do, that is a Clip, which
    /// changes nothing.
    fn conv(&mut self, site: &Site, scales: &SiteScales) -> Result<()> {
        let weight = QuantizedWeight::of(self.graph, site, scales)?;
        let (a_scale, bounds) = uniform(site, one(site, &scales.a)?)?;
        let mut w = Writer::new(self.edits, site);
        let x = clipped(&mut w, &site.a, "a", bounds);
        let x = w.qdq(&x, "a", a_scale, false);
        let [codes, scale, zeros] = weight_constants(&mut w, &weight, 0);
        let b = dequantized_weight(&mut w, &codes, &scale, &zeros, &weight, 0, "w_dq");
        let mut conv = self.graph.node(site.node).clone();
        conv.input[0] = x;
        conv.input[1] = b;
        let Some(output) = scales.output else {
            w.nodes.push(conv);
            let nodes = std::mem::take(&mut w.nodes);
            self.edits.replace_node(site.node, nodes);
            return Ok(());
        };
        if let Some(bias) = conv.operand(2).and_then(|bias| self.graph.constant(bias)) {
            let scale =
                |channel: usize| a_scale * weight.scales[if weight.scales.len() == 1 { 0 } else { channel }];
            let bias = tensor::f32s(bias)?.into_iter().enumerate();
            let bias: Vec<f32> = bias.map(|(channel, x)| in_steps_of(scale(channel), x)).collect();
            conv.input[2] = w.constant("bias", |name| tensor::from_f32(name, &[bias.len()], &bias));
        }
        let result = w.name("conv");
        conv.output[0].clone_from(&result);
        w.nodes.push(conv);
        let mut last = w.last_qdq(&result, "o", output.get());
        if self.graph.consumers(&site.output).len() > 1 {
            let codes = w.part(last, "o_dq");
            let [low, high] = [-128.0, 127.0].map(|code| code * output.get());
            let [low, high] = [w.scalar("o_min", low), w.scalar("o_max", high)];
            last = Unnamed::new("Clip", &[&codes, &low, &high]);
        }
        let name = w.name("o");
        let nodes = w.finish(last, &name, &site.output);
        self.edits.replace_node(site.node, nodes);
        Ok(())
    }

    /// The product, with outlier channels in float, and the bias: a separate, float Add of the activation's rank, since
    /// ONNX Runtime fuses anything else to a float Gemm.
    fn linear(&mut self, site: &Site, scales: &SiteScales) -> Result<()> {
        let weight = QuantizedWeight::of(self.graph, site, scales)?;
        let quantizer = one(site, &scales.a)?;
        if let Quantizer::TwinGelu { .. } = quantizer {
            self.functions.gelu |= self.form == TwinForm::Function;
        }
        let mut w = Writer::new(self.edits, site);
        let mut last = product(&mut w, site, quantizer, &weight, self.form)?;
        if !scales.outliers.is_empty() {
            let inliers = w.part(last, "inliers");
            last = with_outliers(&mut w, &site.a, &inliers, &scales.outliers, &weight);
        }
        finish_linear(self.graph, w, last, site, scales)
    }

    /// The float product with the weight in its new ranges, and its bias, which has nothing to make up for.
    fn float_linear(&mut self, site: &Site, scales: &SiteScales) -> Result<()> {
        let mut scales = scales.clone();
        for (bias, correction) in scales.bias.iter_mut().zip(&scales.correction) {
            bias.iter_mut().zip(correction).for_each(|(bias, part)| *bias -= part);
        }
        let scales = &scales;
        let (weight, _) = folded_weight(self.graph, site, scales)?;
        let mut w = Writer::new(self.edits, site);
        let values: Vec<f32> = weight.iter().copied().collect();
        let weight = w.constant("w", |name| tensor::from_f32(name, weight.shape(), &values));
        let last = Unnamed::new("MatMul", &[&site.a, &weight]);
        finish_linear(self.graph, w, last, site, scales)
    }

    /// Per-head scales without per-axis ones, which no runtime takes for activations: divide by `[H, 1, 1]`,
    /// quantize by 1, multiply back after the product.
    fn attention(&mut self, site: &Site, b: &str, scales: &SiteScales) -> Result<()> {
        let heads = scales.a.len();
        if heads == 0 || scales.b.len() != heads {
            let why = format!("the calibration has {heads} and {} scales for its heads", scales.b.len());
            return Err(Error::data(format!("site `{}`", site.name), why));
        }
        let mut w = Writer::new(self.edits, site);
        let last;
        if let Quantizer::TwinSoftmax { .. } = scales.a[0] {
            let twin = TwinSoftmax::new(&scales.a, &scales.b, scales.b_bits);
            last = twin.write(&mut w, self.form, &site.a, b);
            self.functions.softmax |= self.form == TwinForm::Function;
            self.functions.bounded_v |= scales.b_bits.get() < 8;
        } else if scales.a_rank < 3 {
            // `[1, 1, 1]` would add an axis to the result.
            let (a_scale, bounds) = uniform(site, one(site, &scales.a)?)?;
            let a = clipped(&mut w, &site.a, "a", bounds);
            let a = w.qdq(&a, "a", a_scale, false);
            let of_b = Quantizer::Uniform { scale: scales.b[0], bits: scales.b_bits };
            let (b_scale, bounds) = uniform(site, of_b)?;
            let b = clipped(&mut w, b, "b", bounds);
            let b = w.qdq(&b, "b", b_scale, false);
            last = Unnamed::new("MatMul", &[&a, &b]);
        } else {
            let a_scales: Vec<Scale> = scales
                .a
                .iter()
                .map(|a| Ok(Scale::new(uniform(site, *a)?.0).expect("it was one")))
                .collect::<Result<_>>()?;
            let a = per_head_qdq(&mut w, &site.a, "a", &a_scales, scales.a[0].bits());
            let b = per_head_qdq(&mut w, b, "b", &scales.b, scales.b_bits);
            let product = w.node("MatMul", &[&a, &b], "mm");
            let both: Vec<f32> = a_scales.iter().zip(&scales.b).map(|(a, b)| a.get() * b.get()).collect();
            let back = w.per_head("head_scale", &both);
            last = Unnamed::new("Mul", &[&product, &back]);
        }
        let nodes = w.finish(last, &site.name, &site.output);
        self.edits.replace_node(site.node, nodes);
        Ok(())
    }
}

/// Writes the product `last` and its bias, which is the one of `scales` if that has one.
fn finish_linear(
    graph: &Graph,
    mut w: Writer,
    mut last: Unnamed,
    site: &Site,
    scales: &SiteScales,
) -> Result<()> {
    // A bias of more axes than the product stays as it is.
    let own = |place: &BiasPlace| !matches!(place, BiasPlace::Add { rank, .. } if *rank > scales.a_rank);
    let bias = site.bias.as_ref().filter(|bias| own(&bias.place));
    let fits = |values: &Vec<f32>| bias.is_some_and(|bias| bias.values.len() == values.len());
    if scales.bias.as_ref().is_some_and(|values| !fits(values)) {
        let why = "the calibration has a bias for it that it cannot have";
        return Err(Error::data(format!("site `{}`", site.name), why));
    }
    match bias.map(|bias| (scales.bias.as_ref().unwrap_or(&bias.values), &bias.place)) {
        // A bias of two axes would be fused to a float Gemm: it is added in three.
        Some((values, BiasPlace::Gemm)) => {
            let (name, output) = (w.name("matmul"), w.name("mm"));
            w.nodes.push(last.named(&name, &output));
            last = flat_bias(&mut w, &output, values);
        }
        Some((values, &BiasPlace::Add { node: add, .. })) if scales.a_rank == 2 => {
            let name = w.name("matmul");
            let nodes = w.finish(last, &name, &site.output);
            w.edits.replace_node(site.node, nodes);
            last = flat_bias(&mut w, &site.output, values);
            let sum = w.finish(last, &site.name, &graph.node(add).output[0]);
            w.edits.replace_node(add, sum);
            return Ok(());
        }
        Some((values, &BiasPlace::Add { node: add, input, .. })) => {
            let dims = [vec![1; scales.a_rank - 1], vec![values.len()]].concat();
            let bias = w.constant("bias", |name| tensor::from_f32(name, &dims, values));
            w.edits.set_input(add, input, bias);
        }
        None => {}
    }
    let nodes = w.finish(last, &site.name, &site.output);
    w.edits.replace_node(site.node, nodes);
    Ok(())
}

/// `MatMul(Q/DQ, DQ(W))`, or the post-GELU twin.
fn product(
    w: &mut Writer,
    site: &Site,
    quantizer: Quantizer,
    weight: &QuantizedWeight,
    form: TwinForm,
) -> Result<Unnamed> {
    let [codes, scales, zeros] = &weight_constants(w, weight, 1);
    if let Quantizer::TwinGelu { .. } = quantizer {
        let axis = (weight.scales.len() > 1).then_some(1);
        return Ok(TwinGelu::new(quantizer).write(w, form, &site.a, [codes, scales, zeros], axis));
    }
    let (scale, bounds) = uniform(site, quantizer)?;
    let x = clipped(w, &site.a, "a", bounds);
    let x = w.qdq(&x, "a", scale, false);
    let b = dequantized_weight(w, codes, scales, zeros, weight, 1, "w_dq");
    Ok(Unnamed::new("MatMul", &[&x, &b]))
}

/// `[M, N] + [1, 1, N] → [1, M, N] → [M, N]`.
fn flat_bias(w: &mut Writer, product: &str, values: &[f32]) -> Unnamed {
    let bias = w.constant("bias", |name| tensor::from_f32(name, &[1, 1, values.len()], values));
    let sum = w.node("Add", &[product, &bias], "3d");
    let axes = w.constant("axes", |name| tensor::from_i64(name, &[1], &[0]));
    Unnamed::new("Squeeze", &[&sum, &axes])
}

/// `inliers + x[…, channels] · W[channels]`, the second product in float.
fn with_outliers(
    w: &mut Writer,
    x: &str,
    inliers: &str,
    channels: &[usize],
    weight: &QuantizedWeight,
) -> Unnamed {
    let indices: Vec<i64> = channels.iter().map(|&channel| channel as i64).collect();
    let indices = w.constant("outliers", |name| tensor::from_i64(name, &[channels.len()], &indices));
    let dims = [channels.len(), weight.dims[1]];
    let rows = w.constant("outlier_w", |name| tensor::from_f32(name, &dims, &weight.outliers));
    let gathered = w.node("Gather", &[x, &indices], "outlier_x");
    w.nodes.last_mut().expect("one was just added").attribute.push(AttributeProto::int("axis", -1));
    let product = w.node("MatMul", &[&gathered, &rows], "outlier_mm");
    Unnamed::new("Add", &[inliers, &product])
}

/// The only quantizer of a lhs that has no heads.
fn one(site: &Site, quantizers: &[Quantizer]) -> Result<Quantizer> {
    match quantizers {
        [quantizer] => Ok(*quantizer),
        _ => Err(Error::data(
            format!("site `{}`", site.name),
            "the calibration has scales by head for a linear layer",
        )),
    }
}

/// Δ, and below 8 bits the bounds `[−2^(k−1)·Δ, (2^(k−1)−1)·Δ]`.
fn uniform(site: &Site, quantizer: Quantizer) -> Result<(f32, Option<[f32; 2]>)> {
    let Quantizer::Uniform { scale, bits } = quantizer else {
        return Err(Error::data(
            format!("site `{}`", site.name),
            "the calibration has a twin of the wrong kind for it",
        ));
    };
    let half = bits.half() as f32;
    let bounds = [-half * scale.get(), (half - 1.0) * scale.get()];
    Ok((scale.get(), (bits.get() < 8).then_some(bounds)))
}

/// k < 8 lives in int8 by clipping the float before. (A clip to the whole range of int8 breaks ONNX Runtime 1.20.)
fn clipped(w: &mut Writer, x: &str, part: &str, bounds: Option<[f32; 2]>) -> String {
    let Some([low, high]) = bounds else { return x.to_string() };
    let low = w.scalar(&format!("{part}_min"), low);
    let high = w.scalar(&format!("{part}_max"), high);
    w.node("Clip", &[x, &low, &high], &format!("{part}_clip"))
}

/// Bounds (below 8 bits), `x/Δ_h`, Q and DQ by 1. The bounds come before the division: `OpenVINO` 2026.4 computes a clamp
/// between a division by `[H, 1, 1]` and `QuantizeLinear` wrong when the batch is dynamic.
fn per_head_qdq(w: &mut Writer, x: &str, part: &str, scales: &[Scale], bits: Bits) -> String {
    let mut x = x.to_string();
    if bits.get() < 8 {
        let times = |code: i32| scales.iter().map(|s| code as f32 * s.get()).collect::<Vec<f32>>();
        let low = w.per_head(&format!("{part}_head_min"), &times(-bits.half()));
        let high = w.per_head(&format!("{part}_head_max"), &times(bits.half() - 1));
        let floor = w.node("Max", &[&x, &low], &format!("{part}_floor"));
        x = w.node("Min", &[&floor, &high], &format!("{part}_clip"));
    }
    let values: Vec<f32> = scales.iter().map(|s| s.get()).collect();
    let scale = w.per_head(&format!("{part}_head_scale"), &values);
    let units = w.node("Div", &[&x, &scale], &format!("{part}_u"));
    w.qdq(&units, part, 1.0, false)
}

/// A bias as the whole number of steps that a runtime with integer biases makes of it: so all compute the same.
fn in_steps_of(step: f32, bias: f32) -> f32 {
    const MOST: f32 = 16_777_216.0; // where f32 stops to hold every integer
    let steps = (bias / step).round_ties_even();
    if steps.abs() < MOST { steps * step } else { bias }
}

/// Codes, scales and zero points of a weight as initializers.
fn weight_constants(w: &mut Writer, weight: &QuantizedWeight, channel_axis: usize) -> [String; 3] {
    debug_assert!(weight.scales.len() == 1 || weight.scales.len() == weight.dims[channel_axis]);
    let codes = w.constant("w_q", |name| tensor::from_i8(name, &weight.dims, &weight.codes));
    let count = (weight.scales.len() > 1).then_some(weight.scales.len());
    let dims: Vec<usize> = count.into_iter().collect();
    let scales = w.constant("w_scale", |name| tensor::from_f32(name, &dims, &weight.scales));
    let zeros = w.zero_point("w", count, false);
    [codes, scales, zeros]
}

fn dequantized_weight(
    w: &mut Writer,
    codes: &str,
    scales: &str,
    zeros: &str,
    weight: &QuantizedWeight,
    channel_axis: i64,
    part: &str,
) -> String {
    let output = w.node("DequantizeLinear", &[codes, scales, zeros], part);
    if weight.scales.len() > 1 {
        let last = w.nodes.last_mut().expect("one was just added");
        last.attribute.push(AttributeProto::int("axis", channel_axis));
    }
    output
}
