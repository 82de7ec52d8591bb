//! Opens regular files alone, and writes them so that they appear whole or not at all: under a temporary name first, then
//! renamed.

use std::fs::{File, FileType};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Opens the regular file at `path` for reading. Anything else, which might never end or never begin, is refused before
/// it is opened.
pub fn open(path: &Path) -> Result<File> {
    let refused = |e| Error::io(path, e);
    let ensure_regular = |kind: FileType| match kind.is_file() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("{}, not a regular file", name_of(kind)))),
    };
    std::fs::metadata(path).and_then(|found| ensure_regular(found.file_type())).map_err(refused)?;
    let file = File::open(path).map_err(refused)?;
    file.metadata().and_then(|opened| ensure_regular(opened.file_type())).map_err(refused)?;
    Ok(file)
}

/// The content of the regular file at `path`, which may be `most` bytes long.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > most {
        return Err(Error::data(path.display(), format!("longer than {most} bytes, which is too much")));
    }
    Ok(bytes)
}

/// SHA-256 of the regular file at `path`, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let (mut file, mut hash) = (open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// `bytes` in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn name_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "is a pipe";
        }
        if kind.is_socket() {
            return "is a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "is a device";
        }
    }
    if kind.is_dir() { "is a folder" } else { "is something else" }
}

/// Makes or replaces the file at `path` with what `fill` writes.
///
/// The file gets the permissions of a new one. On any error nothing is left that was not there before. A symbolic
/// link, a folder or a device at `path` is a usage error.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    prepare(path, fill)?.publish()
}

/// Does all that [`write`] does before the renaming, so that several files can appear together.
pub fn prepare(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<Pending> {
    ensure_replaceable(path)?;
    let write = || {
        let file = temporary(path)?;
        let mut out = BufWriter::new(file.as_file());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        Ok(file)
    };
    let file = write().map_err(|e| Error::io(path, e))?;
    Ok(Pending { file, path: path.to_owned() })
}

/// A file that is complete and on the disk under a temporary name. It vanishes unless it is published.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    file: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Renames the file to the path it was prepared for.
    pub fn publish(self) -> Result<()> {
        publish_all([self])
    }
}

/// Publishes files of one folder, in their order. Nobody else who does so with files of this folder comes in between: of
/// two runs with one output, all files are of the same.
///
/// An error leaves those before it published.
pub fn publish_all<const N: usize>(files: [Pending; N]) -> Result<()> {
    // Some systems open no folders, and some file systems know no locks: there, renaming has to be enough.
    let folder = files.first().and_then(|file| File::open(folder_of(&file.path)).ok());
    let locked = folder.as_ref().is_some_and(|folder| folder.lock().is_ok());
    // The folder may have changed since the files were prepared.
    files.iter().try_for_each(|file| ensure_replaceable(&file.path))?;
    for Pending { file, path } in files {
        file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
    }
    if let Some(folder) = folder {
        // The names are on the disk, too, where the file system can say so.
        let _ = folder.sync_all();
        if locked {
            let _ = folder.unlock();
        }
    }
    Ok(())
}

/// Fails if [`write`] to `path` would: callers find it out before a long computation, not after it.
pub fn ensure_writable(path: &Path) -> Result<()> {
    ensure_replaceable(path)?;
    if !folder_of(path).is_dir() {
        return Err(Error::io(path, std::io::Error::new(ErrorKind::NotFound, "its folder does not exist")));
    }
    temporary(path).map(drop).map_err(|e| Error::io(path, e))
}

/// A kind of file that is written, told by how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model: the first field is the version of the format.
    Onnx,
    /// A report.
    Html,
    /// An array.
    Npy,
}

/// As [`ensure_writable`]; a usage error, too, if there is a file of another kind, which was hardly meant to be replaced.
pub fn ensure_writable_as(path: &Path, kind: Kind) -> Result<()> {
    ensure_writable(path)?;
    if !path.exists() {
        return Ok(());
    }
    let mut head = Vec::new();
    open(path)?.take(16).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    let (is_kind, name) = match kind {
        Kind::Onnx => (head.starts_with(&[0x08]), "ONNX model"),
        Kind::Html => (head.to_ascii_lowercase().starts_with(b"<!doctype html"), "HTML page"),
        Kind::Npy => (head.starts_with(b"\x93NUMPY"), ".npy array"),
    };
    if is_kind || head.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("{}: exists and is no {name}; it is not overwritten", path.display())))
}

/// Makes the folder at `path` for files to be written to; a symbolic link there is a usage error.
pub fn make_folder(path: &Path) -> Result<()> {
    ensure_own_folder(path)?;
    std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))
}

/// Fails if [`make_folder`] would because of what is at `path`.
pub fn ensure_own_folder(path: &Path) -> Result<()> {
    let why = match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => "is a symbolic link: name the folder itself",
        Ok(found) if !found.is_dir() => "exists and is not a folder",
        _ => return Ok(()),
    };
    Err(Error::usage(format!("{}: {why}", path.display())))
}

/// The folder that `path` names a file in; `.` for a bare file name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn ensure_replaceable(path: &Path) -> Result<()> {
    let why = match path.symlink_metadata() {
        _ if path.file_name().is_none() => "expected the name of a file to write",
        Ok(found) if found.is_symlink() => "is a symbolic link: name the file itself",
        Ok(found) if !found.is_file() => {
            "exists and is not a regular file, expected the name of a file to write"
        }
        _ => return Ok(()),
    };
    Err(Error::usage(format!("{}: {why}", path.display())))
}

/// An empty file in the folder of `path`. The umask applies to it, unlike to most temporary files.
fn temporary(path: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-ptq4vit-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(path))
}
