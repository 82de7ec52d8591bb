//! Dense storage of k-bit codes: a little-endian bit stream, code after code.

use super::{Bits, TwinCode};

/// Packs k-bit `codes` (each `< 2^k`) into `⌈k·len/8⌉` bytes, least significant bits first.
pub fn pack(codes: &[TwinCode], bits: Bits) -> Vec<u8> {
    let k = usize::from(bits.get());
    let mut bytes = vec![0u8; (codes.len() * k).div_ceil(8)];
    for (i, &code) in codes.iter().enumerate() {
        let (byte, offset) = (i * k / 8, i * k % 8);
        let window = u16::from(code) << offset;
        bytes[byte] |= window as u8;
        if offset + k > 8 {
            bytes[byte + 1] |= (window >> 8) as u8;
        }
    }
    bytes
}

/// The `len` k-bit codes that [`pack`] stored in `bytes`.
///
/// # Panics
/// If `bytes` is shorter than `⌈k·len/8⌉`.
pub fn unpack(bytes: &[u8], len: usize, bits: Bits) -> Vec<TwinCode> {
    let k = usize::from(bits.get());
    let mask = ((1u16 << k) - 1) as u8;
    (0..len)
        .map(|i| {
            let (byte, offset) = (i * k / 8, i * k % 8);
            let high = if offset + k > 8 { bytes[byte + 1] } else { 0 };
            (u16::from_le_bytes([bytes[byte], high]) >> offset) as u8 & mask
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpack_undoes_pack(k in 2u8..=8, codes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bits = Bits::new(k).unwrap();
            let codes: Vec<u8> = codes.iter().map(|c| c & (((1u16 << k) - 1) as u8)).collect();
            let packed = pack(&codes, bits);
            prop_assert_eq!(packed.len(), (codes.len() * usize::from(k)).div_ceil(8));
            prop_assert_eq!(unpack(&packed, codes.len(), bits), codes);
        }
    }
}
