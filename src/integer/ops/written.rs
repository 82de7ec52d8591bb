//! Results in uninitialized memory: no time goes into zeros that are overwritten.
//!
//! The types prove that all of it is written: a function that fills [`Unwritten`] memory returns it as `&mut [f32]`,
//! which safe code can only get from the functions here and in `std` that write every element.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rayon::prelude::*;
use tract_core::internal::*;

use crate::kernel::{self, PANEL, Scaling, Sums};

/// Memory of floats that are not written yet.
pub(in crate::integer) type Unwritten = [MaybeUninit<f32>];

/// The tensor of `shape` that `write` fills; `write` is not called if the tensor is empty.
pub(super) fn tensor(
    shape: &[usize],
    write: impl for<'o> FnOnce(&'o mut Unwritten) -> TractResult<&'o mut [f32]>,
) -> TractResult<Tensor> {
    // SAFETY: the tensor is returned only after `filled` has made sure that all floats are written.
    let mut tensor = unsafe { Tensor::uninitialized::<f32>(shape)? };
    if tensor.len() > 0 {
        // SAFETY: the tensor owns `len` aligned f32 at this address, and nobody uses it while they are borrowed.
        let out = unsafe {
            let start = tensor.as_ptr_mut_unchecked::<f32>().cast::<MaybeUninit<f32>>();
            std::slice::from_raw_parts_mut(start, tensor.len())
        };
        filled(out, write)?;
    }
    Ok(tensor)
}

/// Fills `out` on all threads: `write` gets the number of a task and its `size` elements; the last may have fewer.
pub(super) fn by_task<'o>(
    out: &'o mut Unwritten,
    size: usize,
    write: impl for<'t> Fn(usize, &'t mut Unwritten) -> TractResult<&'t mut [f32]> + Sync,
) -> TractResult<&'o mut [f32]> {
    let tasks = out.par_chunks_mut(size).enumerate();
    tasks.try_for_each(|(task, out)| filled(out, |out| write(task, out)))?;
    // SAFETY: `filled` returned for every chunk, and the chunks cover `out`.
    Ok(unsafe { out.assume_init_mut() })
}

/// Fills rows of `width`: `row(i)` returns the function that gives the elements of row i by column.
#[inline(always)]
#[allow(clippy::inline_always)] // must be inlined into what is compiled once per vector unit
pub(in crate::integer) fn by_row<F: Fn(usize) -> f32>(
    out: &mut Unwritten,
    width: usize,
    row: impl Fn(usize) -> F,
) -> &mut [f32] {
    assert!(out.len().is_multiple_of(width), "rows of {width}");
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let element = row(i);
        for (column, out) in out.iter_mut().enumerate() {
            out.write(element(column));
        }
    }
    // SAFETY: the rows cover `out`, and every element of each is written.
    unsafe { out.assume_init_mut() }
}

/// Calls `write`, and makes sure that it returns all of `out`: then `out` is written.
fn filled<'o>(
    out: &'o mut Unwritten,
    write: impl FnOnce(&'o mut Unwritten) -> TractResult<&'o mut [f32]>,
) -> TractResult<()> {
    let expected = (out.as_ptr().cast::<f32>(), out.len());
    let written = write(out)?;
    assert_eq!((written.as_ptr(), written.len()), expected, "all of the memory is returned");
    Ok(())
}

/// A row-major matrix that is filled group by group of columns, from left to right; each group from top to bottom, some
/// rows at a time; and these panel by panel.
pub(super) struct Columns<'o> {
    out: &'o mut Unwritten,
    width: usize,
    /// The columns before this one are written.
    next: usize,
    /// Of the group: how many columns it has, in how many rows it is written, and how many columns of the next rows.
    group: usize,
    rows: usize,
    filled: usize,
    /// How many these next rows are.
    height: usize,
}

impl<'o> Columns<'o> {
    /// The matrix in `out` whose rows are `width` long.
    pub(super) fn new(out: &'o mut Unwritten, width: usize) -> Self {
        assert!(out.len().is_multiple_of(width), "rows of {width}");
        Self { out, width, next: 0, group: 0, rows: 0, filled: 0, height: 0 }
    }

    /// Writes the next `count` columns of some rows, the first that `values` has for each, in a group of `group` columns.
    /// The same elements of `addends`, which has the size of the result, are added to them.
    pub(super) fn push(
        &mut self,
        count: usize,
        group: usize,
        values: &[[f32; PANEL]],
        addends: Option<&[f32]>,
    ) {
        let (to, addends) = self.place(count, group, values.len(), addends);
        to.write(values, addends);
    }

    /// As [`push`](Self::push), of scaled sums, plus the same elements of `addends`, which has the size of the result.
    pub(super) fn push_sums(
        &mut self,
        count: usize,
        group: usize,
        sums: Sums,
        scaling: Scaling,
        addends: Option<&[f32]>,
    ) {
        let (to, addends) = self.place(count, group, sums.fine.len(), addends);
        kernel::best().scale(sums, scaling, addends, to);
    }

    /// Where the next `count` columns of `height` rows go, which are then taken as written, and these rows of `addends`.
    fn place<'a>(
        &mut self,
        count: usize,
        group: usize,
        height: usize,
        addends: Option<&'a [f32]>,
    ) -> (kernel::Columns<'_>, Option<&'a [f32]>) {
        if self.filled == 0 {
            self.height = height;
            if self.rows == 0 {
                self.group = group;
            }
        }
        assert_eq!((self.group, self.height), (group, height), "a group, and some of its rows");
        assert!(self.filled + count <= group, "no more columns than the group has");
        let first = self.next + self.filled;
        let elements = self.rows * self.width..(self.rows + height) * self.width;
        self.filled += count;
        if self.filled == group {
            (self.filled, self.rows) = (0, self.rows + self.height);
        }
        if self.rows * self.width == self.out.len() {
            (self.next, self.rows) = (self.next + group, 0);
        }
        let addends = addends.map(|addends| &addends[elements.clone()]);
        (kernel::Columns::new(&mut self.out[elements], self.width, first..first + count), addends)
    }

    /// The whole matrix; panics if columns are missing.
    pub(super) fn finish(self) -> &'o mut [f32] {
        assert_eq!((self.next, self.rows, self.filled), (self.width, 0, 0), "every column is written");
        // SAFETY: `push` and `push_sums` wrote `next` columns of every row, and that is all of them.
        unsafe { self.out.assume_init_mut() }
    }
}

/// Scaled sums, in the first rows of `values`.
pub(super) fn scaled<'v>(
    sums: Sums,
    scaling: Scaling,
    values: &'v mut [[f32; PANEL]],
) -> &'v mut [[f32; PANEL]] {
    let values = &mut values[..sums.fine.len()];
    let floats = values.as_flattened_mut();
    // SAFETY: the kernels write floats and nothing else, so that all of it stays initialized.
    let to = unsafe { &mut *(std::ptr::from_mut(floats) as *mut Unwritten) };
    kernel::best().scale(sums, scaling, None, kernel::Columns::new(to, PANEL, 0..PANEL));
    values
}
