//! The inputs beside the images: masks, text, sizes. In every run each of them has one value.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis};

use super::entry::{element_of, known, shape_of};
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::{DataType, Graph, TensorProto, ValueInfoProto, tensor};
use crate::{Error, Result};

/// An open dim that is none of the image input's, such as the length of a text.
const OPEN: usize = 16;

/// More elements than such an input has: 1 GiB of f64.
const MOST_ELEMENTS: usize = 1 << 27;

/// An input that is not the images.
#[derive(Clone, Debug)]
pub struct Extra {
    info: ValueInfoProto,
    value: InputValue,
    is_given: bool,
    is_used: bool,
}

/// The value of an input in every run.
#[derive(Clone, Debug, PartialEq)]
pub enum InputValue {
    /// Every element is this number.
    Fill(f64),
    /// 0, 1, 2, … along the last axis.
    Range,
    /// These elements: in the shape of the input, without its first axis, or with a 1 in the place of the batch.
    Array(ArrayD<f64>),
    /// One row for each image, which must all be the same; or an [`Array`](Self::Array).
    Rows(ArrayD<f64>),
}

impl Extra {
    /// The inputs of `graph` beside the first one, with what their names speak of: masks of what is present are 1, positions
    /// count, anything else is 0.
    pub(super) fn of(graph: &Graph) -> Vec<Self> {
        let extra = |info: &ValueInfoProto| {
            let name = info.name().to_lowercase();
            let value = match () {
                () if name.contains("position") => InputValue::Range,
                () if name.contains("mask") && !name.contains("masked") && !name.contains("masks") => {
                    InputValue::Fill(1.0)
                }
                () => InputValue::Fill(0.0),
            };
            let is_used = !graph.consumers(info.name()).is_empty() || graph.is_output(info.name());
            Self { info: info.clone(), value, is_given: false, is_used }
        };
        graph.inputs().skip(1).map(extra).collect()
    }

    /// The input's name.
    pub fn name(&self) -> &str {
        self.info.name()
    }

    /// The same input with a value of the user's.
    pub(super) fn with(mut self, value: InputValue) -> Self {
        (self.value, self.is_given) = (value, true);
        self
    }

    /// Whether the model computes with it.
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    /// The value that the user gave.
    pub(super) fn given(&self) -> Option<&InputValue> {
        self.is_given.then_some(&self.value)
    }

    /// Its value if the user gave none.
    pub fn default_value(&self) -> Option<&'static str> {
        match &self.value {
            _ if self.is_given => None,
            InputValue::Range => Some("0, 1, 2, …"),
            InputValue::Fill(x) => Some(if *x == 0.0 { "all 0" } else { "all 1" }),
            InputValue::Array(_) | InputValue::Rows(_) => None,
        }
    }

    /// The value for images of `shape` (`[N, C, H, W]`), which the image input `images` takes: a dim of the same name is
    /// the same number.
    pub(super) fn tensor(&self, images: &ValueInfoProto, shape: [usize; 4]) -> Result<TensorProto> {
        let place = || format!("input `{}`", self.name());
        let element = element_of(&self.info)
            .ok_or_else(|| Error::unsupported(place(), "it is not a tensor, and has no value without one"))?;
        let dims = self.dims(images, shape);
        let len = dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim));
        if len.is_none_or(|len| len > MOST_ELEMENTS) {
            let why = format!("its shape {dims:?} has more than {MOST_ELEMENTS} elements");
            return Err(Error::unsupported(place(), why));
        }
        let values = match &self.value {
            InputValue::Fill(x) => vec![*x; dims.iter().product()],
            InputValue::Range => {
                let last = dims.last().copied().unwrap_or(1);
                (0..dims.iter().product()).map(|at: usize| (at % last.max(1)) as f64).collect()
            }
            InputValue::Rows(array)
                if array.ndim() == dims.len() && array.ndim() > 0 && !self.has_own_rows(images) =>
            {
                let mut rows = array.outer_iter();
                let Some(first) = rows.next() else {
                    return Err(Error::data(
                        place(),
                        format!("a value of shape {:?} has no elements", array.shape()),
                    ));
                };
                if array.len_of(Axis(0)) != dims[0] && rows.any(|row| row != first) {
                    let why = "its rows differ, and an input beside the images has one value in every run";
                    return Err(Error::unsupported(place(), why));
                }
                let one = first.to_owned().insert_axis(Axis(0));
                let array = if array.len_of(Axis(0)) == dims[0] { array.clone() } else { one };
                return self.broadcast(&array, element, &dims, false);
            }
            InputValue::Array(array) | InputValue::Rows(array) => {
                return self.broadcast(array, element, &dims, self.has_own_rows(images));
            }
        };
        tensor_of(self.name(), element, &dims, &values).ok_or_else(|| {
            Error::unsupported(place(), format!("values of {} cannot be given", element.as_str_name()))
        })
    }

    /// Whether the first axis is not that of the images, such as that of the texts to compare them with: the file leaves both
    /// open under other names.
    fn has_own_rows(&self, images: &ValueInfoProto) -> bool {
        let first = |info| shape_of(info).and_then(|shape| symbol(shape.dim.first()?));
        let (own, of_images) = (first(&self.info), first(images));
        own.is_some() && of_images.is_some() && own != of_images
    }

    /// The dims for images of `shape`; of a given array the dims that it has where the file leaves them open.
    fn dims(&self, images: &ValueInfoProto, shape: [usize; 4]) -> Vec<usize> {
        let own = shape_of(images).map_or(&[][..], |shape| &shape.dim);
        let known_symbols: HashMap<String, usize> =
            own.iter().zip(shape).filter_map(|(dim, size)| Some((symbol(dim)?, size))).collect();
        let dims = shape_of(&self.info).map_or(&[][..], |shape| &shape.dim).iter().enumerate();
        dims.map(|(axis, dim)| {
            let named = symbol(dim).and_then(|name| known_symbols.get(&name).copied());
            known(dim).or(named).unwrap_or(if axis == 0 { shape[0] } else { OPEN })
        })
        .collect()
    }

    fn broadcast(
        &self,
        array: &ArrayD<f64>,
        element: DataType,
        dims: &[usize],
        own_rows: bool,
    ) -> Result<TensorProto> {
        let open = shape_of(&self.info).map_or(vec![], |shape| shape.dim.iter().map(known).collect());
        let mut target = dims.to_vec();
        // What the file leaves open is as long as the array, but the batch.
        for (back, &len) in array.shape().iter().rev().enumerate() {
            if let Some(axis) = target.len().checked_sub(back + 1)
                && (axis > 0 || own_rows)
                && open.get(axis).is_some_and(Option::is_none)
            {
                target[axis] = len;
            }
        }
        let place = || format!("input `{}`", self.name());
        let wide = array.broadcast(&target[..]).ok_or_else(|| {
            let why = format!("a value of shape {:?} does not fit the model's {target:?}", array.shape());
            Error::data(place(), why)
        })?;
        let values: Vec<f64> = wide.iter().copied().collect();
        tensor_of(self.name(), element, &target, &values).ok_or_else(|| {
            Error::unsupported(place(), format!("values of {} cannot be given", element.as_str_name()))
        })
    }
}

/// The name under which the file leaves a dim open.
fn symbol(dim: &Dimension) -> Option<String> {
    match &dim.value {
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Some(name.clone()),
        _ => None,
    }
}

/// `None` for a type that numbers do not convert to.
fn tensor_of(name: &str, element: DataType, dims: &[usize], values: &[f64]) -> Option<TensorProto> {
    let raw: Vec<u8> = match element {
        DataType::Float => values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
        DataType::Int64 => values.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect(),
        DataType::Int32 => values.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect(),
        DataType::Uint8 => values.iter().map(|&x| x as u8).collect(),
        DataType::Int8 => values.iter().map(|&x| x as i8 as u8).collect(),
        DataType::Bool => values.iter().map(|&x| u8::from(x != 0.0)).collect(),
        _ => return None,
    };
    Some(tensor::from_raw(name, element, dims, raw))
}
