//! Tensors: their elements as numbers, and tensors made of numbers.

use bytes::Bytes;
use half::{bf16, f16};

use super::proto::TensorProto;
pub use super::proto::tensor_proto::DataType;
use crate::error::{Error, Result};

/// The dims. A validated tensor has no negative one; here it would count as 0.
pub fn shape(tensor: &TensorProto) -> Vec<usize> {
    tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
}

/// The number of elements of a validated tensor.
pub fn len(tensor: &TensorProto) -> usize {
    shape(tensor).iter().product()
}

/// The elements of a FLOAT, FLOAT16, BFLOAT16 or DOUBLE tensor (the last rounded to the nearest f32).
pub fn f32s(tensor: &TensorProto) -> Result<Vec<f32>> {
    let raw = raw(tensor);
    Ok(match (tensor.data_type(), raw) {
        (FLOAT, Some(raw)) => read(raw, f32::from_le_bytes),
        (FLOAT, None) => tensor.float_data.clone(),
        (DOUBLE, Some(raw)) => read(raw, |b| f64::from_le_bytes(b) as f32),
        (DOUBLE, None) => tensor.double_data.iter().map(|&x| x as f32).collect(),
        (FLOAT16, Some(raw)) => read(raw, |b| f16::from_le_bytes(b).to_f32()),
        (FLOAT16, None) => from_ints(tensor, |bits| f16::from_bits(bits as u16).to_f32()),
        (BFLOAT16, Some(raw)) => read(raw, |b| bf16::from_le_bytes(b).to_f32()),
        (BFLOAT16, None) => from_ints(tensor, |bits| bf16::from_bits(bits as u16).to_f32()),
        _ => return Err(wrong_type(tensor, "a float tensor")),
    })
}

/// The elements of an integer tensor of at least 8 bits each (UINT64 excepted).
pub fn i64s(tensor: &TensorProto) -> Result<Vec<i64>> {
    let raw = raw(tensor);
    Ok(match (tensor.data_type(), raw) {
        (INT64, Some(raw)) => read(raw, i64::from_le_bytes),
        (INT64, None) => tensor.int64_data.clone(),
        (INT32, Some(raw)) => read(raw, |b| i32::from_le_bytes(b).into()),
        (INT16, Some(raw)) => read(raw, |b| i16::from_le_bytes(b).into()),
        (INT8, Some(raw)) => read(raw, |b| i8::from_le_bytes(b).into()),
        (UINT32, Some(raw)) => read(raw, |b| u32::from_le_bytes(b).into()),
        (UINT16, Some(raw)) => read(raw, |b| u16::from_le_bytes(b).into()),
        (UINT8, Some(raw)) => read(raw, |b| u8::from_le_bytes(b).into()),
        (UINT32, None) => tensor.uint64_data.iter().map(|&x| x as i64).collect(),
        (INT32 | INT16 | INT8 | UINT16 | UINT8, None) => from_ints(tensor, i64::from),
        _ => return Err(wrong_type(tensor, "an integer tensor")),
    })
}

/// The elements of an INT8 tensor, a byte each, without a copy where the tensor has them so.
pub fn i8_bytes(tensor: &TensorProto) -> Result<Bytes> {
    match (tensor.data_type(), &tensor.raw_data) {
        (INT8, Some(bytes)) if raw(tensor).is_some() => Ok(bytes.clone()),
        (INT8, _) => Ok(from_ints(tensor, |x| x as u8).into()),
        _ => Err(wrong_type(tensor, "an INT8 tensor")),
    }
}

/// The elements of a BOOL tensor; `None` for other types.
pub fn bools(tensor: &TensorProto) -> Option<Vec<bool>> {
    let is_bool = tensor.data_type() == DataType::Bool as i32;
    is_bool.then(|| match raw(tensor) {
        Some(raw) => raw.iter().map(|&x| x != 0).collect(),
        None => from_ints(tensor, |x| x != 0),
    })
}

/// The position of the first NaN or infinity that [`f32s`] would give; `None` for other data types.
pub fn first_non_finite(tensor: &TensorProto) -> Option<usize> {
    f32s(tensor).ok()?.iter().position(|x| !x.is_finite())
}

/// A FLOAT tensor.
///
/// # Panics
/// Like all constructors here: if the number of values is not the product of `dims`.
pub fn from_f32(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    from_raw(name, DataType::Float, dims, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// An INT8 tensor.
pub fn from_i8(name: &str, dims: &[usize], values: &[i8]) -> TensorProto {
    from_raw(name, DataType::Int8, dims, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// An INT64 tensor.
pub fn from_i64(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    from_raw(name, DataType::Int64, dims, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A BOOL tensor.
pub fn from_bools(name: &str, dims: &[usize], values: &[bool]) -> TensorProto {
    from_raw(name, DataType::Bool, dims, values.iter().map(|&x| x.into()).collect())
}

/// A tensor of any type from its `raw_data`.
pub(crate) fn from_raw(name: &str, data_type: DataType, dims: &[usize], raw: Vec<u8>) -> TensorProto {
    let tensor = TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type.into()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        raw_data: Some(raw.into()),
        ..Default::default()
    };
    assert_eq!(check(&tensor), Ok(()), "values for `{name}` of shape {dims:?}");
    tensor
}

/// Whether the dims are sane and agree with the elements present, which are in one place only.
pub(super) fn check(tensor: &TensorProto) -> Result<(), String> {
    let bytes = byte_len(tensor)?;
    let (_, field, (entries, elements)) = layout(tensor)?;
    let fields = [
        (Field::Float, tensor.float_data.len()),
        (Field::Int32, tensor.int32_data.len()),
        (Field::String, tensor.string_data.len()),
        (Field::Int64, tensor.int64_data.len()),
        (Field::Double, tensor.double_data.len()),
        (Field::Uint64, tensor.uint64_data.len()),
    ];
    if let Some((stray, _)) = fields.iter().find(|(f, len)| *f != field && *len > 0) {
        return Err(format!("has elements in the {stray:?} field, where its data type has none"));
    }
    let typed = fields.iter().map(|(_, len)| len).sum::<usize>();
    let shape = &tensor.dims;
    match tensor.raw_data.as_ref() {
        Some(_) if field == Field::String => Err("is a string tensor with raw_data".into()),
        Some(raw) if typed > 0 && !raw.is_empty() => Err("has its elements in two places".into()),
        Some(raw) if typed == 0 && raw.len() != bytes => {
            Err(format!("its shape {shape:?} needs {bytes} bytes, but raw_data has {}", raw.len()))
        }
        Some(_) if typed == 0 => Ok(()),
        _ => {
            let expected = (count(tensor)? * entries).div_ceil(elements);
            if typed == expected {
                return Ok(());
            }
            Err(format!(
                "its shape {shape:?} needs {expected} entries of the {field:?} field, which has {typed}"
            ))
        }
    }
}

/// The number of bytes that `raw_data` of this data type and these dims has; 0 for strings.
pub(super) fn byte_len(tensor: &TensorProto) -> Result<usize, String> {
    let (bits, ..) = layout(tensor)?;
    Ok((count(tensor)? * bits).div_ceil(8))
}

/// The number of elements; small enough that no size computed from it overflows.
fn count(tensor: &TensorProto) -> Result<usize, String> {
    let overflow = || format!("the product of its dims {:?} overflows", tensor.dims);
    element_count(&tensor.dims)?.checked_mul(128).map(|bits| bits / 128).ok_or_else(overflow)
}

/// The product of `dims`.
pub(super) fn element_count(dims: &[i64]) -> Result<usize, String> {
    dims.iter().try_fold(1_usize, |product, &dim| {
        let dim = usize::try_from(dim).map_err(|_| format!("its dims {dims:?} have a negative one"))?;
        product.checked_mul(dim).ok_or_else(|| format!("the product of its dims {dims:?} overflows"))
    })
}

/// The typed field that holds a data type when `raw_data` does not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Field {
    Float,
    Int32,
    String,
    Int64,
    Double,
    Uint64,
}

/// Bits of an element in `raw_data`, the typed field, and how many (entries of it, elements) go together.
fn layout(tensor: &TensorProto) -> Result<(usize, Field, (usize, usize)), String> {
    use DataType as T;
    let unknown = |_| format!("its data type {} is unknown to ONNX IR version 14", tensor.data_type());
    Ok(match T::try_from(tensor.data_type()).map_err(unknown)? {
        T::Undefined => return Err("has no data type".into()),
        T::Float => (32, Field::Float, (1, 1)),
        T::Complex64 => (64, Field::Float, (2, 1)),
        T::Double => (64, Field::Double, (1, 1)),
        T::Complex128 => (128, Field::Double, (2, 1)),
        T::Int64 => (64, Field::Int64, (1, 1)),
        T::Uint64 => (64, Field::Uint64, (1, 1)),
        T::Uint32 => (32, Field::Uint64, (1, 1)),
        T::String => (0, Field::String, (1, 1)),
        T::Int32 => (32, Field::Int32, (1, 1)),
        T::Uint16 | T::Int16 | T::Float16 | T::Bfloat16 => (16, Field::Int32, (1, 1)),
        T::Uint8 | T::Int8 | T::Bool => (8, Field::Int32, (1, 1)),
        T::Float8e4m3fn | T::Float8e4m3fnuz | T::Float8e5m2 | T::Float8e5m2fnuz | T::Float8e8m0 => {
            (8, Field::Int32, (1, 1))
        }
        T::Float6e2m3 | T::Float6e3m2 => (6, Field::Int32, (1, 1)),
        T::Uint4 | T::Int4 | T::Float4e2m1 => (4, Field::Int32, (1, 2)),
        T::Uint2 | T::Int2 => (2, Field::Int32, (1, 4)),
    })
}

const FLOAT: i32 = DataType::Float as i32;
const DOUBLE: i32 = DataType::Double as i32;
const FLOAT16: i32 = DataType::Float16 as i32;
const BFLOAT16: i32 = DataType::Bfloat16 as i32;
const INT64: i32 = DataType::Int64 as i32;
const INT32: i32 = DataType::Int32 as i32;
const INT16: i32 = DataType::Int16 as i32;
const INT8: i32 = DataType::Int8 as i32;
const UINT32: i32 = DataType::Uint32 as i32;
const UINT16: i32 = DataType::Uint16 as i32;
const UINT8: i32 = DataType::Uint8 as i32;

/// `raw_data`, unless the elements are in a typed field (some writers set an empty `raw_data` beside it).
fn raw(tensor: &TensorProto) -> Option<&[u8]> {
    let typed = tensor.float_data.len()
        + tensor.int32_data.len()
        + tensor.int64_data.len()
        + tensor.double_data.len()
        + tensor.uint64_data.len();
    tensor.raw_data.as_deref().filter(|_| typed == 0)
}

fn read<const N: usize, T>(raw: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks().0.iter().map(|&bytes| element(bytes)).collect()
}

fn from_ints<T>(tensor: &TensorProto, element: impl Fn(i32) -> T) -> Vec<T> {
    tensor.int32_data.iter().map(|&x| element(x)).collect()
}

fn wrong_type(tensor: &TensorProto, expected: &str) -> Error {
    let found = DataType::try_from(tensor.data_type()).map_or("UNKNOWN", |t| t.as_str_name());
    Error::model(format!("tensor `{}`", tensor.name()), format!("is {found}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use std::iter::zip;

    use super::*;

    fn raw_tensor(data_type: DataType, dims: &[i64], raw: &[u8]) -> TensorProto {
        TensorProto {
            data_type: Some(data_type.into()),
            dims: dims.to_vec(),
            raw_data: Some(raw.to_vec().into()),
            ..Default::default()
        }
    }

    fn int32_tensor(data_type: DataType, dims: &[i64], ints: &[i32]) -> TensorProto {
        TensorProto {
            data_type: Some(data_type.into()),
            dims: dims.to_vec(),
            int32_data: ints.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn floats_of_every_width() {
        let check = |tensor: TensorProto, expected: &[f32]| assert_eq!(f32s(&tensor).unwrap(), expected);
        check(from_f32("", &[2], &[1.5, -0.25]), &[1.5, -0.25]);
        check(TensorProto { float_data: vec![2.0], data_type: Some(1), ..Default::default() }, &[2.0]);
        check(raw_tensor(DataType::Float16, &[2], &[0x00, 0x3c, 0x01, 0x00]), &[1.0, 2.0_f32.powi(-24)]);
        check(int32_tensor(DataType::Float16, &[1], &[0xc000]), &[-2.0]);
        check(raw_tensor(DataType::Bfloat16, &[1], &[0x80, 0x3f]), &[1.0]);
        check(int32_tensor(DataType::Bfloat16, &[1], &[0x4000]), &[2.0]);
        check(raw_tensor(DataType::Double, &[1], &0.1_f64.to_le_bytes()), &[0.1]);
        assert!(f32s(&from_i8("w", &[1], &[1])).unwrap_err().to_string().contains("tensor `w`: is INT8"));
    }

    #[test]
    fn integers_of_every_width() {
        let check = |tensor: TensorProto, expected: &[i64]| assert_eq!(i64s(&tensor).unwrap(), expected);
        check(from_i64("", &[2], &[i64::MIN, 7]), &[i64::MIN, 7]);
        check(from_i8("", &[3], &[-128, 0, 127]), &[-128, 0, 127]);
        check(raw_tensor(DataType::Uint8, &[1], &[255]), &[255]);
        check(raw_tensor(DataType::Int32, &[1], &(-5_i32).to_le_bytes()), &[-5]);
        check(raw_tensor(DataType::Uint16, &[1], &[0xff, 0xff]), &[65535]);
        check(int32_tensor(DataType::Int32, &[2], &[-1, 2]), &[-1, 2]);
        check(TensorProto { data_type: Some(7), int64_data: vec![3], ..Default::default() }, &[3]);
        assert!(i64s(&from_f32("", &[1], &[1.0])).is_err());
    }

    #[test]
    fn first_non_finite_is_a_position() {
        let check = |values: &[f32], expected| {
            assert_eq!(first_non_finite(&from_f32("", &[values.len()], values)), expected);
        };
        check(&[], None);
        check(&[0.0, f32::MAX], None);
        check(&[0.0, f32::NEG_INFINITY, f32::NAN], Some(1));
        assert_eq!(first_non_finite(&from_i64("", &[1], &[1])), None);
    }

    #[test]
    fn dims_agree_with_raw_data_for_every_type() {
        let bits =
            [32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2, 6, 6];
        for (code, bits) in zip(1.., bits) {
            let data_type = DataType::try_from(code).unwrap();
            if data_type == DataType::String {
                continue;
            }
            let bytes = usize::div_ceil(5 * bits, 8);
            for (len, fits) in [(bytes, true), (bytes + 1, false), (bytes - 1, false)] {
                let tensor = raw_tensor(data_type, &[5, 1], &vec![0; len]);
                assert_eq!(
                    check(&tensor).is_ok(),
                    fits,
                    "{data_type:?} in {len} bytes: {:?}",
                    check(&tensor)
                );
            }
        }
    }

    #[test]
    fn dims_agree_with_typed_fields() {
        #[track_caller]
        fn refused(tensor: &TensorProto, part: &str) {
            let why = check(tensor).expect_err(part);
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(check(&int32_tensor(DataType::Int8, &[2, 2], &[0; 4])), Ok(()));
        assert_eq!(check(&int32_tensor(DataType::Int4, &[5], &[0; 3])), Ok(()));
        assert_eq!(check(&int32_tensor(DataType::Uint2, &[5], &[0; 2])), Ok(()));
        assert_eq!(check(&int32_tensor(DataType::Int8, &[0], &[])), Ok(()));
        refused(&int32_tensor(DataType::Int8, &[2, 2], &[0; 3]), "needs 4 entries");
        refused(&int32_tensor(DataType::Int8, &[], &[]), "needs 1 entries");
        refused(&int32_tensor(DataType::Float, &[1], &[0]), "Int32 field");
        refused(&TensorProto { int32_data: vec![0], ..raw_tensor(DataType::Int8, &[1], &[0]) }, "two places");
        refused(&raw_tensor(DataType::String, &[1], &[0]), "string tensor");
        refused(&raw_tensor(DataType::Undefined, &[1], &[0]), "no data type");
        refused(&TensorProto { data_type: Some(99), ..Default::default() }, "99 is unknown");
        refused(&raw_tensor(DataType::Float, &[-1], &[]), "negative");
        refused(&raw_tensor(DataType::Float, &[1 << 32, 1 << 32], &[]), "overflow");
        refused(&raw_tensor(DataType::Float, &[1 << 61], &[]), "overflow");
        refused(&raw_tensor(DataType::Float, &[i64::MAX, i64::MAX, 0], &[]), "overflow");
    }
}
