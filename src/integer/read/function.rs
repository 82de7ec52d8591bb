//! Twins as nodes of our own domain: what their attributes say, and whether they contradict each other.

use super::attention::softmax_quantizers;
use super::linear::{gelu_quantizer, linear, two_axes};
use super::operand::uniform_width;
use super::{Reader, Unnamed};
use crate::integer::site::Product;
use crate::onnx::{DOMAIN, NodeProto};
use crate::quant::{Bits, Quantizer};
use crate::{Error, Result};

impl Reader<'_> {
    /// The twin that `node` is. Its function's body is not read, but must be there.
    pub(super) fn function(&self, node: &NodeProto) -> Result<Unnamed> {
        if !self.graph.has_function(DOMAIN, node.op_type()) {
            return Err(Error::model(
                node.label(),
                format!("the file defines no function {DOMAIN}::{}", node.op_type()),
            ));
        }
        match node.op_type() {
            "TwinGeluMatMul" => self.gelu_function(node),
            "TwinSoftmaxMatMul" => Self::softmax_function(node),
            _ => Err(Error::unsupported(
                node.label(),
                format!("is no operator of {DOMAIN} that this version knows"),
            )),
        }
    }

    fn gelu_function(&self, node: &NodeProto) -> Result<Unnamed> {
        let [x, weight @ ..] = node.input.as_slice() else {
            return Err(Error::model(node.label(), "has no inputs"));
        };
        if weight.len() != 3 {
            return Err(Error::model(node.label(), "expected the inputs X, W, w_scale, w_zero_point"));
        }
        let a = gelu_quantizer(
            float(node, "fine")?,
            float(node, "coarse")?,
            float(node, "fine_min")?,
            float(node, "coarse_max")?,
        )
        .map_err(|why| Error::model(node.label(), why))?;
        let Quantizer::TwinGelu { scale, .. } = a else { unreachable!("made as a post-GELU twin") };
        agree(node, "bits", int(node, "bits")? == i64::from(a.bits().get()))?;
        agree(node, "shift", int(node, "shift")? == i64::from(scale.shift))?;
        let (weight, dims) = self.weight(&node.label(), weight, 1, 1)?;
        two_axes(node, &dims)?;
        Ok(Unnamed {
            op: "TwinGeluMatMul",
            inputs: vec![x.clone()],
            nodes: vec![],
            product: linear(a, weight),
        })
    }

    fn softmax_function(node: &NodeProto) -> Result<Unnamed> {
        let [p, v] = node.input.as_slice() else {
            return Err(Error::model(node.label(), "expected the inputs P and V"));
        };
        let a =
            softmax_quantizers(float(node, "coarse")?, float(node, "coarse_max")?, floats(node, "r1_end")?)
                .map_err(|why| Error::model(node.label(), why))?;
        agree(node, "bits", int(node, "bits")? == i64::from(a[0].bits().get()))?;
        agree(node, "fine", a.iter().map(|q| q.scale()).eq(floats(node, "fine")?.iter().copied()))?;
        let shifts = a.iter().filter_map(|q| match q {
            Quantizer::TwinSoftmax { scale, .. } => Some(i64::from(scale.shift)),
            _ => None,
        });
        agree(node, "shift", shifts.eq(node.attr_ints("shift").unwrap_or(&[]).iter().copied()))?;
        let v_scales = floats(node, "v_scale")?;
        let bits = uniform_width(v_scales, floats(node, "v_min")?, floats(node, "v_max")?);
        let bits: Bits = bits.ok_or_else(|| contradiction(node, "v_min or v_max"))?;
        agree(node, "v_bits", int(node, "v_bits")? == i64::from(bits.get()))?;
        agree(node, "v_scale", v_scales.len() == a.len())?;
        let quantizer = |&s: &f32| Ok(Quantizer::Uniform { scale: Self::scale(&node.label(), s)?, bits });
        Ok(Unnamed {
            op: "TwinSoftmaxMatMul",
            inputs: vec![p.clone(), v.clone()],
            nodes: vec![],
            product: Product::Heads { a, b: v_scales.iter().map(quantizer).collect::<Result<_>>()? },
        })
    }
}

fn agree(node: &NodeProto, name: &str, agrees: bool) -> Result<()> {
    if agrees { Ok(()) } else { Err(contradiction(node, name)) }
}

fn contradiction(node: &NodeProto, name: &str) -> Error {
    Error::model(node.label(), format!("its attribute {name} contradicts the others"))
}

fn missing(node: &NodeProto, name: &str) -> Error {
    Error::model(node.label(), format!("has no attribute {name} of the right type"))
}

fn float(node: &NodeProto, name: &str) -> Result<f32> {
    node.attr_float(name).ok_or_else(|| missing(node, name))
}

fn int(node: &NodeProto, name: &str) -> Result<i64> {
    node.attr_int(name).ok_or_else(|| missing(node, name))
}

fn floats<'n>(node: &'n NodeProto, name: &str) -> Result<&'n [f32]> {
    node.attr_floats(name).filter(|values| !values.is_empty()).ok_or_else(|| missing(node, name))
}
