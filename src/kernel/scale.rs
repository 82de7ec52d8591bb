//! From the sums of a product to floats, in the rows of its result.

use std::mem::MaybeUninit;
use std::ops::Range;

use multiversion::multiversion;

use super::PANEL;

/// The sums of some rows of one panel: `fine`, plus `coarse · 2^shift`.
#[derive(Clone, Copy)]
pub struct Sums<'s> {
    /// The sums, or those of range R1 of a twin.
    pub fine: &'s [[i32; PANEL]],
    /// Those of range R2, which count `2^shift` times, and this shift.
    pub coarse: Option<(&'s [[i32; PANEL]], u8)>,
}

impl Sums<'_> {
    /// How many rows they are.
    ///
    /// # Panics
    /// If the ranges have not as many.
    pub(super) fn len(self) -> usize {
        assert!(
            self.coarse.is_none_or(|(coarse, _)| coarse.len() == self.fine.len()),
            "both ranges have them"
        );
        self.fine.len()
    }
}

/// What the sums of each column are multiplied by, and what is then added.
#[derive(Clone, Copy)]
pub struct Scaling<'s> {
    /// The factors.
    pub scales: &'s [f32; PANEL],
    /// Nothing is added without it.
    pub bias: Option<&'s [f32; PANEL]>,
}

impl<'s> Scaling<'s> {
    /// The bias, or what changes no float: `x + (−0)` is x, whatever its sign.
    pub(super) fn bias(self) -> &'s [f32; PANEL] {
        self.bias.unwrap_or(&[-0.0; PANEL])
    }
}

/// At most [`PANEL`] columns of some rows of a row-major matrix, and all of these rows.
pub struct Columns<'o> {
    rows: &'o mut [MaybeUninit<f32>],
    width: usize,
    range: Range<usize>,
}

impl<'o> Columns<'o> {
    /// These columns of the rows, `width` long.
    ///
    /// # Panics
    /// If it is not a whole number of rows, or they have not these columns, or these are more than [`PANEL`].
    pub fn new(rows: &'o mut [MaybeUninit<f32>], width: usize, columns: Range<usize>) -> Self {
        assert!(width > 0 && rows.len().is_multiple_of(width), "rows of {width}");
        assert!(
            columns.start <= columns.end && columns.end <= width && columns.len() <= PANEL,
            "columns {columns:?} of {width}"
        );
        Self { rows, width, range: columns }
    }

    /// How many columns they are.
    pub(super) fn count(&self) -> usize {
        self.range.len()
    }

    /// Overwrites the columns with the first of the `values` of each row, plus those columns of `addends`, a matrix of the same
    /// sizes as that which they are in.
    ///
    /// # Panics
    /// If the sizes disagree.
    pub fn write(self, values: &[[f32; PANEL]], addends: Option<&[f32]>) {
        write_values(self, values, addends);
    }

    /// The columns of each of `count` rows, and of the same row of `addends`.
    ///
    /// # Panics
    /// If there is another number of rows, or `addends` has another size.
    #[inline(always)]
    #[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
    pub(super) fn rows<'a>(
        self,
        count: usize,
        addends: Option<&'a [f32]>,
    ) -> impl Iterator<Item = (&'o mut [MaybeUninit<f32>], Option<&'a [f32]>)> {
        let Self { rows, width, range: columns } = self;
        assert_eq!(rows.len() / width, count, "as many rows of the result as of the product");
        assert!(addends.is_none_or(|addends| addends.len() == rows.len()), "as many addends as results");
        rows.chunks_exact_mut(width).enumerate().map(move |(row, to)| {
            let addends = addends.map(|addends| &addends[row * width..][columns.clone()]);
            (&mut to[columns.clone()], addends)
        })
    }
}

/// [`Kernel::scale`](super::Kernel::scale) in plain Rust.
///
/// It is compiled for AVX2 at most: for AVX-512, LLVM takes the rows instead of the columns of a panel into a vector, and
/// gathers and scatters them (six times as slow).
pub(super) fn plain(sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
    match sums.coarse {
        None => of_one_range(sums, scaling, addends, to),
        Some((coarse, shift)) => of_two_ranges(sums, coarse, shift, scaling, addends, to),
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn of_one_range(sums: Sums, scaling: Scaling, addends: Option<&[f32]>, to: Columns) {
    let (scales, bias) = (scaling.scales, scaling.bias());
    for ((to, addends), fine) in to.rows(sums.len(), addends).zip(sums.fine) {
        write(to, std::array::from_fn(|i| fine[i] as f32 * scales[i] + bias[i]), addends);
    }
}

/// The ranges are joined in f64, which is exact.
#[multiversion(targets("x86_64+avx2"))]
fn of_two_ranges(
    sums: Sums,
    coarse: &[[i32; PANEL]],
    shift: u8,
    scaling: Scaling,
    addends: Option<&[f32]>,
    to: Columns,
) {
    let factor = f64::from(1u32 << shift);
    let (scales, bias) = (scaling.scales, scaling.bias());
    for (((to, addends), fine), coarse) in to.rows(sums.len(), addends).zip(sums.fine).zip(coarse) {
        let sum = |i: usize| (f64::from(fine[i]) + f64::from(coarse[i]) * factor) as f32;
        write(to, std::array::from_fn(|i| sum(i) * scales[i] + bias[i]), addends);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn write_values(to: Columns, values: &[[f32; PANEL]], addends: Option<&[f32]>) {
    for ((to, addends), values) in to.rows(values.len(), addends).zip(values) {
        write(to, *values, addends);
    }
}

/// The first values of a panel, as many as there is room for, plus the addends.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
fn write(to: &mut [MaybeUninit<f32>], mut values: [f32; PANEL], addends: Option<&[f32]>) {
    // A whole panel is written without a loop.
    if let Ok(to) = <&mut [MaybeUninit<f32>; PANEL]>::try_from(&mut *to) {
        if let Some(addends) = addends.and_then(|addends| addends.first_chunk::<PANEL>()) {
            values.iter_mut().zip(addends).for_each(|(value, addend)| *value += addend);
        }
        *to = values.map(MaybeUninit::new);
        return;
    }
    let addends = addends.unwrap_or_default();
    values.iter_mut().zip(addends).for_each(|(value, addend)| *value += addend);
    to.iter_mut().zip(values).for_each(|(to, value)| *to = MaybeUninit::new(value));
}
