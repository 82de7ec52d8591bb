//! Numbers into the tensors that a file takes, and out of those that it gives.

use half::{bf16, f16};
use ndarray::{Array4, ArrayD, Axis, IxDyn};
use ort::value::{DynValue, Tensor, TensorElementType as Element, ValueType};

use crate::onnx::{DataType, TensorProto, tensor};
use crate::prepare::Layout;
use crate::{Error, Result};

/// An input of the file that has one value in every run.
pub(super) struct Fixed {
    pub(super) name: String,
    pub(super) element: Element,
    dims: Vec<usize>,
    values: Vec<f64>,
}

impl Fixed {
    /// The input of `element` whose value is `tensor`, but for its type.
    pub(super) fn new(element: Element, tensor: &TensorProto) -> Result<Self> {
        let values = match DataType::try_from(tensor.data_type()) {
            Ok(DataType::Bool) => {
                tensor::bools(tensor).unwrap_or_default().into_iter().map(f64::from).collect()
            }
            Ok(DataType::Float) => tensor::f32s(tensor)?.into_iter().map(f64::from).collect(),
            _ => tensor::i64s(tensor)?.into_iter().map(|x| x as f64).collect(),
        };
        Ok(Self { name: tensor.name().into(), element, dims: tensor::shape(tensor), values })
    }

    pub(super) fn value(&self) -> Result<DynValue> {
        value(&self.name, self.element, &self.dims, self.values.iter().copied())
    }
}

/// The element type of a tensor; `None` of what is no tensor.
pub(super) fn element_of(value: &ValueType) -> Option<Element> {
    match value {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}

/// Images `[N, C, H, W]` as the file takes them, in its layout and of its type.
pub(super) fn images(name: &str, element: Element, layout: Layout, batch: Array4<f32>) -> Result<DynValue> {
    let batch = laid_out(layout, batch);
    let dims = batch.shape().to_vec();
    value(name, element, &dims, batch.into_iter().map(f64::from))
}

/// The opposite of what `prepare` puts between its images and those of the file.
fn laid_out(layout: Layout, batch: Array4<f32>) -> ArrayD<f32> {
    let batch = batch.into_dyn();
    match layout {
        Layout::ChannelsFirst => batch,
        Layout::ChannelsLast => batch.permuted_axes(IxDyn(&[0, 2, 3, 1])),
        Layout::Tokens => batch.remove_axis(Axis(1)),
        Layout::Vector => batch.remove_axis(Axis(1)).remove_axis(Axis(1)),
        Layout::Frames([f, c, h, w]) => {
            let frames = IxDyn(&[batch.shape()[0], f, c, h, w]);
            let batch = batch.as_standard_layout().into_owned();
            batch.into_shape_with_order(frames).expect("the frames are the channels, divided")
        }
    }
}

/// A tensor of `element`, whose values are cast as ONNX casts them.
fn value(
    name: &str,
    element: Element,
    dims: &[usize],
    values: impl Iterator<Item = f64>,
) -> Result<DynValue> {
    macro_rules! tensor {
        ($cast:expr) => {
            Tensor::from_array((dims, values.map($cast).collect::<Vec<_>>())).map(Tensor::into_dyn)
        };
    }
    let made = match element {
        Element::Float32 => tensor!(|x| x as f32),
        Element::Float64 => tensor!(|x| x),
        Element::Float16 => tensor!(f16::from_f64),
        Element::Bfloat16 => tensor!(bf16::from_f64),
        Element::Uint8 => tensor!(|x| x as u8),
        Element::Int8 => tensor!(|x| x as i8),
        Element::Uint16 => tensor!(|x| x as u16),
        Element::Int16 => tensor!(|x| x as i16),
        Element::Uint32 => tensor!(|x| x as u32),
        Element::Int32 => tensor!(|x| x as i32),
        Element::Uint64 => tensor!(|x| x as u64),
        Element::Int64 => tensor!(|x| x as i64),
        Element::Bool => tensor!(|x| x != 0.0),
        other => {
            let why = format!("values of {other} cannot be given to ONNX Runtime from here");
            return Err(Error::unsupported(format!("input `{name}`"), why));
        }
    };
    made.map_err(|e| Error::model(format!("input `{name}`"), e))
}

/// What an output holds, as FLOAT.
pub(super) fn floats(name: &str, output: &DynValue) -> Result<ArrayD<f32>> {
    let place = || format!("output `{name}`");
    macro_rules! elements {
        ($of:ty, $cast:expr) => {
            output.try_extract_tensor::<$of>().map(|(dims, values)| {
                (dims.iter().map(|&dim| dim as usize).collect::<Vec<_>>(), values.iter().map($cast).collect())
            })
        };
    }
    let extracted = match element_of(output.dtype()) {
        Some(Element::Float32) => elements!(f32, |&x| x),
        Some(Element::Float16) => elements!(f16, |x| x.to_f32()),
        Some(Element::Bfloat16) => elements!(bf16, |x| x.to_f32()),
        Some(Element::Float64) => elements!(f64, |&x| x as f32),
        _ => {
            let why = format!("expected a tensor of floats, ONNX Runtime gives {}", output.dtype());
            return Err(Error::unsupported(place(), why));
        }
    };
    let (dims, values): (_, Vec<f32>) = extracted.map_err(|e| Error::model(place(), e))?;
    ArrayD::from_shape_vec(dims, values).map_err(|e| Error::model(place(), e))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn images_get_the_layout_of_the_file() {
        let batch =
            Array4::from_shape_fn((2, 4, 2, 3), |(n, c, h, w)| (n * 1000 + c * 100 + h * 10 + w) as f32);
        let same = |layout| laid_out(layout, batch.clone());
        assert_eq!(same(Layout::ChannelsFirst), batch.clone().into_dyn());
        let last = same(Layout::ChannelsLast);
        assert_eq!((last.shape(), last[[1, 0, 2, 3]]), (&[2, 2, 3, 4][..], 1302.0));
        let frames = same(Layout::Frames([2, 2, 2, 3]));
        assert_eq!((frames.shape(), frames[[1, 1, 0, 1, 2]]), (&[2, 2, 2, 2, 3][..], 1212.0));
        let tokens = array![[[[1.0, 2.0], [3.0, 4.0]]]];
        assert_eq!(laid_out(Layout::Tokens, tokens), array![[[1.0, 2.0], [3.0, 4.0]]].into_dyn());
        assert_eq!(laid_out(Layout::Vector, array![[[[1.0, 2.0]]]]), array![[1.0, 2.0]].into_dyn());
    }
}
