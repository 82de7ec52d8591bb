//! What an array file claims to hold is compared with what is there, before memory is taken for it.

use std::fs::File;
use std::io::{BufReader, Read, Take};
use std::path::Path;

use zip::ZipArchive;
use zip::read::ZipFile;

use crate::{Error, Result, files};

/// The longest header of an array: its type and its shape.
const LONGEST_HEADER: u64 = 1 << 16;

/// What an array of an `.npz` may unpack to, in bytes…
const MOST_UNPACKED: u64 = 1 << 30;
/// …or how many times its packed size, if that is more. Pixels are packed to a tenth at the most, a bomb to a thousandth.
const MOST_TIMES: u64 = 100;

/// An array whose header says how many bytes follow.
pub(super) struct Claimed<R> {
    /// Its magic, its version, its type and its shape.
    pub(super) header: Vec<u8>,
    /// The elements.
    pub(super) data: Take<R>,
}

/// The array in the `.npy` file at `path`.
pub(super) fn open_npy(path: &Path) -> Result<Claimed<BufReader<File>>> {
    let file = files::open(path)?;
    let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
    checked(BufReader::new(file), len).map_err(|e| Error::data(path.display(), e))
}

/// The arrays of an `.npz` file.
pub(super) struct Npz<'p> {
    pub(super) path: &'p Path,
    zip: ZipArchive<BufReader<File>>,
}

impl<'p> Npz<'p> {
    pub(super) fn open(path: &'p Path) -> Result<Self> {
        let file = files::open(path)?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| Error::data(path.display(), e))?;
        Ok(Self { path, zip })
    }

    /// The names of its arrays, in the order of the file.
    pub(super) fn names(&self) -> Vec<String> {
        (0..self.zip.len())
            .filter_map(|i| self.zip.name_for_index(i))
            .map(|name| name.strip_suffix(".npy").unwrap_or(name).to_owned())
            .collect()
    }

    /// The array called `name`.
    pub(super) fn by_name(&mut self, name: &str) -> std::io::Result<Claimed<ZipFile<'_, BufReader<File>>>> {
        let file_name = format!("{name}.npy");
        let is_there = self.zip.index_for_name(&file_name).is_some();
        let entry = self.zip.by_name(if is_there { &file_name } else { name })?;
        let len = unpacked(&entry)?;
        checked(entry, len)
    }
}

/// How many bytes an entry unpacks to; an error if they are too many for what they are packed in.
fn unpacked<R: Read>(entry: &ZipFile<'_, R>) -> std::io::Result<u64> {
    let (packed, unpacked) = (entry.compressed_size(), entry.size());
    if unpacked > MOST_UNPACKED.max(packed.saturating_mul(MOST_TIMES)) {
        return Err(broken(format!("{packed} bytes unpack to {unpacked}: that is no array of images")));
    }
    Ok(unpacked)
}

/// The bytes of `file`, which has `len`, if they are an array whose header says so.
fn checked<R: Read>(mut file: R, len: u64) -> std::io::Result<Claimed<R>> {
    let mut header = Vec::new();
    let mut more = |header: &mut Vec<u8>, count: u64| {
        let wanted = header.len() as u64 + count;
        file.by_ref().take(count).read_to_end(header)?;
        if header.len() as u64 == wanted { Ok(()) } else { Err(broken("cut short in its header".into())) }
    };
    more(&mut header, 8)?;
    if !header.starts_with(b"\x93NUMPY") {
        return Err(broken("not a NumPy array".into()));
    }
    let width = if header[6] == 1 { 2 } else { 4 };
    more(&mut header, width)?;
    let text_len = header[8..].iter().rev().fold(0, |len: u64, &byte| len << 8 | u64::from(byte));
    if text_len > LONGEST_HEADER {
        return Err(broken(format!("its header has {text_len} bytes, at most {LONGEST_HEADER} are read")));
    }
    let start = header.len();
    more(&mut header, text_len)?;
    let rest = len.saturating_sub(header.len() as u64);
    let text = String::from_utf8_lossy(&header[start..]);
    if let Some(claimed) = size(&text).map_err(broken)?
        && claimed != rest
    {
        return Err(broken(format!("its header speaks of {claimed} bytes, {rest} are there")));
    }
    // One more would be read if there was one: that is an error, too.
    Ok(Claimed { header, data: file.take(rest.saturating_add(1)) })
}

/// The number of bytes that the array of this header has; `None` for elements of a type that no reader here takes.
fn size(header: &str) -> Result<Option<u64>, String> {
    // Brackets within brackets are of types with fields; a parser could be sent deep down with them.
    if header.matches(['(', '[', '{']).count() > 2 {
        return Err("an array of plain numbers is expected, not of records".into());
    }
    let value = |key: &str| header.split_once(key).map(|(_, rest)| rest);
    let elements = value("'descr'").and_then(|rest| rest.split('\'').nth(1));
    let shape = value("'shape'").and_then(|rest| rest.split_once('(')?.1.split_once(')'));
    let (Some(elements), Some((shape, _))) = (elements, shape) else {
        return Err("its header is not one that NumPy writes".into());
    };
    let kind = elements.trim_start_matches(['<', '>', '=', '|']);
    let Some(width) = kind.strip_prefix(['f', 'i', 'u', 'b']).and_then(|width| width.parse::<u64>().ok())
    else {
        return Ok(None);
    };
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let size = dims.map(|dim| dim.parse::<u64>().ok()).try_fold(width, |size, dim| size.checked_mul(dim?));
    size.map(Some).ok_or_else(|| format!("its shape ({shape}) is too large"))
}

fn broken(why: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(text: &str, data: usize) -> Vec<u8> {
        let length = (text.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn headers_that_claim_what_is_not_there_are_refused() {
        let of = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let check = |bytes: Vec<u8>| {
            let mut all = Vec::new();
            let len = bytes.len() as u64;
            checked(&bytes[..], len)
                .and_then(|mut array| Ok(array.header.len() + array.data.read_to_end(&mut all)?))
                .map_err(|e| e.to_string())
        };
        let whole = npy(&of("2, 3"), 24);
        assert_eq!(check(whole.clone()), Ok(whole.len()));
        assert!(check(npy(&of(""), 4)).is_ok() && check(npy(&of("1,"), 4)).is_ok());
        let deep = format!("{}'descr': '<f4', 'shape': (1,)", "[".repeat(60_000));
        for (bytes, part) in [
            (npy(&of("1000000, 1000000000"), 24), "speaks of 4000000000000000 bytes, 24 are there"),
            (npy(&of("4294967296, 4294967296, 4294967296"), 24), "too large"),
            (npy(&of("2, 3"), 23), "24 bytes, 23 are there"),
            (npy(&of("2, 3"), 25), "24 bytes, 25 are there"),
            (npy(&of("-2, 3"), 24), "too large"),
            (npy("{}", 24), "not one that NumPy writes"),
            (npy(&deep, 24), "not of records"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "4294967295 bytes"),
            (b"\x93NUMPY\x01\x00\x40\x00{".to_vec(), "cut short"),
            (b"PK\x03\x04 and more".to_vec(), "not a NumPy array"),
        ] {
            let why = check(bytes).expect_err(part);
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
