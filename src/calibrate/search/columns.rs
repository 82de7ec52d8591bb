//! The column blocks of a problem: the columns that are packed and evaluated together.

use std::ops::Range;

use crate::kernel::PANEL;

/// Neighbouring column groups.
pub(super) struct ColumnBlock {
    /// Its columns of `B`.
    pub(super) columns: Range<usize>,
    /// Indices of its groups.
    pub(super) groups: Range<usize>,
    /// The columns of each of its groups, counted from the first of the block.
    pub(super) spans: Vec<Range<usize>>,
}

/// A wide group is a block of its own; narrow ones share a block until they fill a kernel's panel.
pub(super) fn column_blocks(groups: &[Range<usize>]) -> Vec<ColumnBlock> {
    let mut blocks: Vec<ColumnBlock> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        match blocks.last_mut() {
            Some(block) if group.end - block.columns.start <= PANEL => {
                block.spans.push(group.start - block.columns.start..group.end - block.columns.start);
                block.columns.end = group.end;
                block.groups.end = i + 1;
            }
            _ => blocks.push(ColumnBlock {
                columns: group.clone(),
                groups: i..i + 1,
                spans: std::iter::once(0..group.len()).collect(),
            }),
        }
    }
    blocks
}
