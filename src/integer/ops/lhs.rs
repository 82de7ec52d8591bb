//! The lhs of a product: how it is multiplied, and its codes in the bytes that kernels take.

use std::ops::Range;

use super::product::ROWS_OF_A_BLOCK;
use crate::kernel::{self, ByteLayout, Bytes, PANEL, PackedB, fits_i32};
use crate::quant::{Quantizer, TwinScale};

/// The quantizer of A, and how its codes are multiplied with a given B. Where it exists, every sum is exact.
#[derive(Clone, Copy)]
pub(super) struct Lhs {
    pub(super) quantizer: Quantizer,
    pub(super) product: Product,
    /// Of the codes, or of those of each range; `None` for words.
    pub(super) layout: Option<ByteLayout>,
}

#[derive(Clone, Copy)]
pub(super) enum Product {
    /// One product, a twin as `a + (b << m)`.
    Fused,
    /// One product per range of a twin, joined as `sum_a + (sum_b << m)`.
    Split { shift: u8 },
}

impl Lhs {
    /// `None` if a sum over the rows of `b` might overflow.
    pub(super) fn new(quantizer: Quantizer, b: &PackedB) -> Option<Self> {
        let (max_abs_code, kernel) = (quantizer.max_abs_code(), kernel::best());
        let (product, layout) = match quantizer.twin() {
            None => (
                fits(max_abs_code, b).then_some(Product::Fused)?,
                kernel.byte_layout_for(quantizer.bits().half(), b),
            ),
            // Two products of bytes are as fast as one of words where all are multiplied in bytes, but not elsewhere.
            Some(_)
                if kernel.byte_layout().is_none()
                    && max_abs_code <= i16::MAX.into()
                    && fits(max_abs_code, b) =>
            {
                (Product::Fused, None)
            }
            Some(TwinScale { shift, .. }) => {
                let product = fits(quantizer.bits().half() - 1, b).then_some(Product::Split { shift })?;
                (product, kernel.byte_layout())
            }
        };
        Some(Self { quantizer, product, layout })
    }

    pub(super) fn takes_bytes(self) -> bool {
        self.layout.is_some()
    }

    /// What is added to codes in bytes.
    fn offset(self) -> i8 {
        self.layout.map_or(0, |layout| layout.offset)
    }
}

/// As [`fits_i32`], which has to read all of `b`, only where the sizes alone do not prove it.
fn fits(max_abs_a: i32, b: &PackedB) -> bool {
    let max_abs_b = i64::from(i8::MIN.unsigned_abs());
    i64::from(max_abs_a) * max_abs_b * b.k() as i64 <= i64::from(i32::MAX) || fits_i32(max_abs_a, b)
}

/// Whether no sum of codes of `quantizer`, a uniform one, over the rows of `b` can overflow.
pub(super) fn fits_codes(quantizer: Quantizer, b: &PackedB) -> bool {
    quantizer.twin().is_none() && fits(quantizer.max_abs_code(), b)
}

/// The codes of an lhs `[M, K]` in bytes; of a twin, those of each range. The memory is kept from one lhs to the next.
#[derive(Default)]
pub(super) struct ByteCodes {
    /// The codes, or those of R1; those of R2, which mean something if there is a shift.
    ranges: [Option<Bytes>; 2],
    /// m of a twin.
    shift: Option<u8>,
}

impl ByteCodes {
    /// Makes room for `m` rows of `k` codes.
    ///
    /// # Panics
    /// If `lhs` takes words.
    pub(super) fn clear(&mut self, lhs: Lhs, [m, k]: [usize; 2]) {
        let layout = lhs.layout.expect("an lhs in bytes");
        self.shift = match lhs.product {
            Product::Fused => None,
            Product::Split { shift } => Some(shift),
        };
        self.used().iter_mut().for_each(|range| cleared(range, layout).resize(m, k));
    }

    /// One range, or both of a twin.
    fn used(&mut self) -> &mut [Option<Bytes>] {
        let count = 1 + usize::from(self.shift.is_some());
        &mut self.ranges[..count]
    }

    /// The codes of `x: [M, K]`.
    ///
    /// # Panics
    /// If `lhs` takes words.
    pub(super) fn set(&mut self, lhs: Lhs, x: &[f32], k: usize) {
        let rows = x.chunks_exact(k.max(1));
        self.clear(lhs, [rows.len(), k]);
        let (shift, offset) = (self.shift, lhs.offset());
        let [fine, coarse] =
            self.ranges.each_mut().map(|range| range.iter_mut().flat_map(|r| r.rows_from_mut(0)));
        match shift {
            None => rows.zip(fine).for_each(|(x, codes)| lhs.quantizer.uniform_bytes(x, offset, codes)),
            Some(_) => rows
                .zip(fine.zip(coarse))
                .for_each(|(x, (fine, coarse))| lhs.quantizer.split_bytes(x, offset, fine, coarse)),
        }
    }

    /// The codes `[M, K]` of a uniform quantizer, as they are.
    pub(super) fn set_codes(&mut self, layout: ByteLayout, codes: &[i16], k: usize) {
        self.shift = None;
        cleared(&mut self.ranges[0], layout).set(codes, k);
    }

    /// After [`clear`](Self::clear): the codes of `values` in these columns, in the rows from `row` on.
    pub(super) fn put(&mut self, lhs: Lhs, row: usize, columns: &Range<usize>, values: &[[f32; PANEL]]) {
        let mut codes = [[[0i8; PANEL]; ROWS_OF_A_BLOCK]; 2];
        let [fine, coarse] = codes.each_mut().map(|codes| &mut codes[..values.len()]);
        let (x, a, b) = (values.as_flattened(), fine.as_flattened_mut(), coarse.as_flattened_mut());
        match self.shift {
            None => lhs.quantizer.uniform_bytes(x, lhs.offset(), a),
            Some(_) => lhs.quantizer.split_bytes(x, lhs.offset(), a, b),
        }
        for (bytes, codes) in self.used().iter_mut().flatten().zip([fine, coarse]) {
            for (to, codes) in bytes.rows_from_mut(row).zip(codes) {
                let to = &mut to[columns.clone()];
                // A whole panel is copied without a loop.
                match <&mut [i8; PANEL]>::try_from(&mut *to) {
                    Ok(to) => *to = *codes,
                    Err(_) => to.copy_from_slice(&codes[..columns.len()]),
                }
            }
        }
    }

    /// The codes, or those of R1.
    ///
    /// # Panics
    /// If there were never any.
    pub(super) fn fine(&self) -> &Bytes {
        self.ranges[0].as_ref().expect("there are codes")
    }

    /// Those of R2 of a twin, which count `2^shift` times, and this shift.
    pub(super) fn coarse(&self) -> Option<(&Bytes, u8)> {
        self.ranges[1].as_ref().zip(self.shift)
    }
}

/// No rows yet, in the memory of those before.
fn cleared(bytes: &mut Option<Bytes>, layout: ByteLayout) -> &mut Bytes {
    let bytes = bytes.get_or_insert_with(|| Bytes::new(layout));
    bytes.clear(layout);
    bytes
}
