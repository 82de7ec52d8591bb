//! Products of two activations: per-head uniform, and the post-softmax twin as plain nodes.

use super::linear::shift_between;
use super::operand::Operand;
use super::{Reader, Unnamed, formulas};
use crate::integer::site::{Product, widths};
use crate::onnx::NodeProto;
use crate::quant::{Quantizer, Scale, TwinScale};
use crate::{Error, Result};

/// `u > ALPHA` is `u ≥ 1`: the float just below 1.
const ALPHA: f32 = 1.0 - f32::EPSILON / 2.0;

impl Reader<'_> {
    /// Two activations with a scale per head.
    pub(super) fn heads(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let Some(found) = formulas::heads().matches(self.graph, &*node.output[0]) else { return Ok(None) };
        let (lhs, rhs) = match (self.uniform(found.value("a"))?, self.uniform(found.value("b"))?) {
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
        if lhs.quantizers.len() != rhs.quantizers.len()
            || !expected.eq(found.floats("scales").iter().copied())
        {
            let why = "it does not multiply by the product of the scales that divide the operands";
            return Err(Error::unsupported(node.label(), why));
        }
        Ok(Some(Unnamed {
            op: "MatMul",
            inputs: vec![lhs.value, rhs.value],
            nodes: [found.nodes, lhs.nodes, rhs.nodes].concat(),
            product: Product::Heads { a: lhs.quantizers, b: rhs.quantizers },
        }))
    }

    /// The post-softmax twin as plain nodes.
    pub(super) fn twin_softmax(&self, node: &NodeProto) -> Result<Option<Unnamed>> {
        let wrong = |why: &str| Error::unsupported(node.label(), format!("a post-softmax twin, but {why}"));
        let found = formulas::twin_softmax().find(self.graph, &*node.output[0]);
        let Some(found) = found.map_err(|near| wrong(near.0))? else { return Ok(None) };
        let lo = self.codes(found.node("lo_q"), found.node("lo_dq"))?;
        let hi = self.codes(found.node("hi_q"), found.node("hi_dq"))?;
        let v = (self.uniform(found.value("v"))?, self.uniform(found.value("same_v"))?);
        let (Some(v), Some(same_v)) = v else { return Ok(None) };
        if lo != hi {
            return Err(wrong("its ranges have not the same type and scale"));
        }
        // Codes of INT8 are not negative either: P has a bound before it is parted.
        let (mut p, mut floor) = (found.value("p").clone(), Vec::new());
        if !lo.unsigned {
            let found = formulas::floored().matches(self.graph, &*p);
            let found = found.filter(|found| found.scalar("zero") == 0.0);
            let found = found.ok_or_else(|| wrong("its codes are int8, and P has no lower bound of 0"))?;
            (p, floor) = (found.value("x").clone(), found.nodes);
        }
        check_v(&v, &same_v, found.floats("v_scale")).map_err(wrong)?;
        if self.graph.node(found.node("threshold")).attr_float("alpha") != Some(ALPHA) {
            return Err(wrong("its ThresholdedRelu does not part the ranges at 1"));
        }
        let r1_end = found.floats("r1_end");
        let a = softmax_quantizers(lo.scale, found.scalar("max"), r1_end).map_err(|why| wrong(&why))?;
        if a.len() != v.quantizers.len() {
            return Err(wrong("it has not as many scales for P as for V"));
        }
        Ok(Some(Unnamed {
            op: "TwinSoftmaxMatMul",
            inputs: vec![p, v.value],
            nodes: [found.nodes, floor, v.nodes, same_v.nodes].concat(),
            product: Product::Heads { a, b: v.quantizers },
        }))
    }
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

/// The post-softmax twins whose coarse scale is `coarse = 2^−(k−1)`, whose magnitudes end at `coarse_max`, and
/// whose R1 ends at `r1_end[h] = 2^(k−1)·fine[h]`.
pub(super) fn softmax_quantizers(
    coarse: f32,
    coarse_max: f32,
    r1_end: &[f32],
) -> Result<Vec<Quantizer>, String> {
    let bits = widths()
        .find(|bits| coarse * bits.half() as f32 == 1.0 && (bits.half() - 1) as f32 * coarse == coarse_max)
        .ok_or_else(|| format!("no k has the coarse scale {coarse} and the range end {coarse_max}"))?;
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
