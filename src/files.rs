//! Writes files so that they appear whole or not at all: under a temporary name first, then renamed.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

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
        self.file.persist(&self.path).map(drop).map_err(|e| Error::io(&self.path, e.error))
    }
}

/// Fails if [`write`] to `path` would: callers find it out before a long computation, not after it.
pub fn ensure_writable(path: &Path) -> Result<()> {
    ensure_replaceable(path)?;
    temporary(path).map(drop).map_err(|e| Error::io(path, e))
}

/// The folder that `path` names a file in; `.` for a bare file name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn ensure_replaceable(path: &Path) -> Result<()> {
    let why = match path.symlink_metadata() {
        _ if path.file_name().is_none() => "expected the name of a file to write",
        Ok(found) if found.is_symlink() => "is a symbolic link: name the file itself",
        Ok(found) if !found.is_file() => "exists and is not a file, expected the name of a file to write",
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
