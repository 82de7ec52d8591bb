//! A file as bytes, without reading it.
#![allow(unsafe_code)]

use std::fs::File;

use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of `file`, paged in when they are looked at.
///
/// Caveat: whoever writes into the file, or truncates it, while the bytes are alive changes them or ends the process.
/// Files written by this crate are replaced by renaming, which leaves the mapped one as it was.
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is read-only and private to `Bytes`, which owns it for as long as any slice of it lives. That
    // nobody changes the file meanwhile is the caller's promise, stated above: no check can establish it.
    let mapped = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(mapped))
}
