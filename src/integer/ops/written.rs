//! Results whose memory is written once.
#![allow(unsafe_code)]

use tract_core::internal::*;

/// The tensor of `shape` that `write` fills: it is given what happens to be in memory, and must write every element.
pub(super) fn written(
    shape: &[usize],
    write: impl FnOnce(&mut [f32]) -> TractResult<()>,
) -> TractResult<Tensor> {
    // SAFETY: every pattern of bits is an f32, and the ops write all elements before the tensor leaves.
    let mut tensor = unsafe { Tensor::uninitialized::<f32>(shape)? };
    write(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    Ok(tensor)
}
