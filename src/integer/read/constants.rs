//! The numbers behind constants, held to the types and shapes that quantization allows.

use super::Reader;
use crate::integer::site::Weight;
use crate::onnx::{DataType, TensorProto, tensor};
use crate::quant::Scale;
use crate::{Error, Result};

impl Reader<'_> {
    /// A FLOAT constant: its dims and its elements.
    pub(super) fn floats(&self, value: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let tensor = self.graph.constant(value).filter(|t| is(t, DataType::Float))?;
        Some((tensor::shape(tensor), tensor::f32s(tensor).ok()?))
    }

    /// A constant scale of `QuantizeLinear` or `DequantizeLinear`: of no axis, or of one.
    pub(super) fn scales(&self, label: &str, value: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (dims, scales) = self
            .floats(value)
            .filter(|(dims, scales)| dims.len() <= 1 && !scales.is_empty())
            .ok_or_else(|| {
                Error::unsupported(
                    label,
                    format!("its scale `{value}` is no constant scalar or vector of FLOAT"),
                )
            })?;
        for &scale in &scales {
            Self::scale(label, scale)?;
        }
        Ok((dims, scales))
    }

    /// Δ, if it is one.
    pub(super) fn scale(label: &str, delta: f32) -> Result<Scale> {
        Scale::new(delta).map_err(|e| Error::model(label, e))
    }

    /// Whether the codes beside the zero point `value`, of `dims` and all zeros, are unsigned.
    pub(super) fn zero_point(&self, label: &str, value: Option<&String>, dims: &[usize]) -> Result<bool> {
        let value = value.filter(|name| !name.is_empty());
        let value = value
            .ok_or_else(|| Error::unsupported(label, "has no zero point; expected int8 or uint8 zeros"))?;
        let wrong = |why: &str| Err(Error::unsupported(label, format!("its zero point `{value}` {why}")));
        let Some(tensor) = self.graph.constant(value) else { return wrong("is no constant") };
        let unsigned = is(tensor, DataType::Uint8);
        if !unsigned && !is(tensor, DataType::Int8) {
            return wrong("is neither INT8 nor UINT8");
        }
        if tensor::shape(tensor) != dims {
            return wrong(&format!("has dims {:?}, its scale {dims:?}", tensor.dims));
        }
        if tensor::i64s(tensor)?.iter().any(|&zero| zero != 0) {
            return wrong("is not 0");
        }
        Ok(unsigned)
    }

    /// The weight of a `DequantizeLinear` with these inputs, in the order of the file, and its dims. Its scale is one
    /// number, or one for each index of axis `channels`; `axis` is the attribute, negative from the end.
    pub(super) fn weight(
        &self,
        label: &str,
        inputs: &[String],
        axis: i64,
        channels: usize,
    ) -> Result<(Weight, Vec<usize>)> {
        let [codes, scale, ..] = inputs else {
            return Err(Error::model(label, "has fewer than two inputs"));
        };
        let tensor = self
            .graph
            .constant(codes)
            .filter(|t| is(t, DataType::Int8))
            .ok_or_else(|| Error::unsupported(label, format!("`{codes}` is no constant of INT8")))?;
        let dims = tensor::shape(tensor);
        if dims.len() <= channels || dims.contains(&0) {
            return Err(Error::unsupported(label, format!("its codes have dims {dims:?}")));
        }
        let (scale_dims, scales) = self.scales(label, scale)?;
        let per_channel = !scale_dims.is_empty();
        let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
        if per_channel && (scales.len() != dims[channels] || axis != channels as i64) {
            let why = format!(
                "{} scales along axis {axis} for codes {dims:?}: expected axis {channels}",
                scales.len()
            );
            return Err(Error::unsupported(label, why));
        }
        if self.zero_point(label, inputs.get(2), &scale_dims)? {
            return Err(Error::unsupported(label, "the codes of a weight are INT8, its zero point is UINT8"));
        }
        let codes = tensor::i8_bytes(tensor)?;
        let n = dims[channels];
        let k = dims.iter().product::<usize>() / n;
        Ok((Weight { codes, k, n, scales }, dims))
    }
}

fn is(tensor: &TensorProto, data_type: DataType) -> bool {
    tensor.data_type() == i32::from(data_type)
}
