//! Products of two activations: per-head uniform, and the post-softmax twin as plain nodes.

use super::linear::shift_between;
use super::operand::Operand;
use super::{Reader, Unnamed, operands, orders};
use crate::integer::site::{Product, widths};
use crate::onnx::{NodeId, NodeProto};
use crate::quant::{Quantizer, Scale, TwinScale};
use crate::{Error, Result};

/// `u > ALPHA` is `u ≥ 1`: the float just below 1.
const ALPHA: f32 = 1.0 - f32::EPSILON / 2.0;

impl Reader<'_> {
    /// `MatMul(QDQ(A/Δ_A), QDQ(B/Δ_B)) · Δ_A·Δ_B`, the scales `[H, 1, 1]`.
    pub(super) fn heads(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(factors) = operands(node) else { return Ok(None) };
        let product =
            |[product, scales]: [&'_ str; 2]| Some((self.binary(product, "MatMul")?, self.per_head(scales)?));
        let Some(((id, [a, b]), product)) = orders(factors).into_iter().find_map(product) else {
            return Ok(None);
        };
        let (lhs, rhs) = match (self.uniform(a)?, self.uniform(b)?) {
            (Some(lhs), Some(rhs)) if lhs.scaled && rhs.scaled => (lhs, rhs),
            (Some(lhs), Some(rhs)) if lhs.scaled || rhs.scaled => {
                return Err(Error::unsupported(
                    node.label(),
                    "only one operand is divided by per-head scales",
                ));
            }
            _ => return Ok(None),
        };
        let expected = lhs.quantizers.iter().zip(&rhs.quantizers).map(|(a, b)| a.scale() * b.scale());
        if lhs.quantizers.len() != rhs.quantizers.len() || !expected.eq(product.iter().copied()) {
            let why = "it does not multiply by the product of the scales that divide the operands";
            return Err(Error::unsupported(node.label(), why));
        }
        Ok(Some(Unnamed {
            op: "MatMul",
            inputs: vec![lhs.value, rhs.value],
            nodes: lhs.nodes.into_iter().chain(rhs.nodes).chain([id]).collect(),
            product: Product::Heads { a: lhs.quantizers, b: rhs.quantizers },
        }))
    }

    /// `(MatMul(QDQ(lo), QDQ(V/Δ_V))·r1 + MatMul(QDQ(hi), QDQ(V/Δ_V)))·Δ_V`, where `r1` is the end of R1 and `lo`, in
    /// units of it, and `hi` are the parts of P below and above.
    pub(super) fn twin_softmax(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(factors) = operands(node) else { return Ok(None) };
        let Some(skeleton) = orders(factors).into_iter().find_map(|factors| self.softmax_skeleton(factors))
        else {
            return Ok(None);
        };
        let Skeleton { mut nodes, lo, hi, v: [v, same_v], r1_end, v_scale } = skeleton;
        let wrong = |why: &str| Error::unsupported(node.label(), format!("a post-softmax twin, but {why}"));
        let (Some(lo), Some(hi)) = (self.pair(lo)?, self.pair(hi)?) else { return Ok(None) };
        let (Some(v), Some(same_v)) = (self.uniform(v)?, self.uniform(same_v)?) else { return Ok(None) };
        if !lo.unsigned || !hi.unsigned || lo.scale != hi.scale {
            return Err(wrong("its ranges are not uint8 of one scale"));
        }
        Self::check_v(&v, &same_v, &v_scale).map_err(wrong)?;
        let (p, range_nodes, coarse_max) =
            self.softmax_ranges(lo.input, hi.input, &r1_end).ok_or_else(|| {
                wrong(
                    "its ranges are not parted by Div, ThresholdedRelu, Sub, Mul and Min with the end of R1",
                )
            })?;
        let a = Self::softmax_quantizers(lo.scale, coarse_max, &r1_end).map_err(|why| wrong(&why))?;
        if a.len() != v.quantizers.len() {
            return Err(wrong("it has not as many scales for P as for V"));
        }
        nodes.extend(range_nodes);
        nodes.extend(lo.nodes.into_iter().chain(hi.nodes).chain(v.nodes).chain(same_v.nodes));
        Ok(Some(Unnamed {
            op: "TwinSoftmaxMatMul",
            inputs: vec![p, v.value],
            nodes,
            product: Product::Heads { a, b: v.quantizers },
        }))
    }

    /// Both products have one V, and the result is multiplied by its scales.
    fn check_v(v: &Operand, same_v: &Operand, v_scale: &[f32]) -> Result<(), &'static str> {
        if v.value != same_v.value || v.quantizers != same_v.quantizers || !v.scaled {
            return Err("its ranges are not multiplied by the same V");
        }
        if !v.quantizers.iter().map(|q| q.scale()).eq(v_scale.iter().copied()) {
            return Err("it does not multiply by the scales that divide V");
        }
        Ok(())
    }

    /// The products and sums of [`twin_softmax`](Self::twin_softmax), whatever their operands.
    fn softmax_skeleton<'a>(&'a self, [sum, v_scale]: [&str; 2]) -> Option<Skeleton<'a>> {
        let v_scale = self.per_head(v_scale)?;
        let (sum_id, terms) = self.binary(sum, "Add")?;
        orders(terms).into_iter().find_map(|[scaled, hi]| {
            let (mul_id, factors) = self.binary(scaled, "Mul")?;
            let (lo, r1_end) =
                orders(factors).into_iter().find_map(|[lo, r1]| Some((lo, self.per_head(r1)?)))?;
            let (lo_id, [lo, v]) = self.binary(lo, "MatMul")?;
            let (hi_id, [hi, same_v]) = self.binary(hi, "MatMul")?;
            let nodes = vec![sum_id, mul_id, lo_id, hi_id];
            Some(Skeleton { nodes, lo, hi, v: [v, same_v], r1_end, v_scale: v_scale.clone() })
        })
    }

    /// `lo = Min(u − hi_u, max)` and `hi = Min(hi_u·r1, max)`, with `u = P/r1` and `hi_u = u where u ≥ 1, else 0`:
    /// P, the nodes and `max`.
    fn softmax_ranges(&self, lo: &str, hi: &str, r1_end: &[f32]) -> Option<(String, Vec<NodeId>, f32)> {
        let is_r1 = |value: &str| self.per_head(value).as_deref() == Some(r1_end);
        let (lo_min, [lo, lo_max]) = self.binary(lo, "Min")?;
        let (hi_min, [hi, hi_max]) = self.binary(hi, "Min")?;
        let (sub, [u, hi_u]) = self.binary(lo, "Sub")?;
        let (mul, factors) = self.binary(hi, "Mul")?;
        let (relu, threshold) = self.made_by(hi_u, "ThresholdedRelu")?;
        let (div, [p, r1]) = self.binary(u, "Div")?;
        let max = self.scalar(lo_max).filter(|&max| self.scalar(hi_max) == Some(max))?;
        let sound = orders(factors).into_iter().any(|[x, r1]| x == hi_u && is_r1(r1))
            && threshold.input.first().is_some_and(|x| x == u)
            && threshold.attr_float("alpha") == Some(ALPHA)
            && is_r1(r1);
        sound.then(|| (p.to_string(), vec![lo_min, hi_min, sub, mul, relu, div], max))
    }

    /// The post-softmax twins whose coarse step is `coarse = 2^−(k−1)`, whose magnitudes end at `coarse_max`, and
    /// whose R1 ends at `r1_end[h] = 2^(k−1)·fine[h]`.
    pub(super) fn softmax_quantizers(
        coarse: f32,
        coarse_max: f32,
        r1_end: &[f32],
    ) -> Result<Vec<Quantizer>, String> {
        let bits = widths()
            .find(|bits| {
                coarse * bits.half() as f32 == 1.0 && (bits.half() - 1) as f32 * coarse == coarse_max
            })
            .ok_or_else(|| format!("no k has the coarse step {coarse} and the range end {coarse_max}"))?;
        let quantizer = |&end: &f32| {
            let fine = end / bits.half() as f32;
            let scale = TwinScale {
                fine: Scale::new(fine).map_err(|e| e.to_string())?,
                shift: shift_between(fine, coarse)?,
            };
            Ok(Quantizer::TwinSoftmax { scale, bits })
        };
        r1_end.iter().map(quantizer).collect()
    }
}

struct Skeleton<'a> {
    nodes: Vec<NodeId>,
    lo: &'a str,
    hi: &'a str,
    v: [&'a str; 2],
    r1_end: Vec<f32>,
    v_scale: Vec<f32>,
}
