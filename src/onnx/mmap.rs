//! Maps a file into memory.
#![allow(unsafe_code)]

use std::fs::File;

use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of `file`, which the system reads when they are first accessed.
///
/// Whoever writes into the file while the bytes are alive changes them; whoever truncates it ends the process.
/// This crate replaces files by renaming, which leaves the mapped one as it was.
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is read-only and private to `Bytes`, which owns it for as long as any slice of it lives. That
    // nobody changes the file meanwhile is the caller's promise, stated above: no check can establish it.
    let mapped = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}
