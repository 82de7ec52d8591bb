//! Ways to stdout, stderr and files.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use onnx_ptq4vit::Error;
use serde::Serialize;

/// A result, as text or as JSON. A reader that has gone away is no error.
pub(super) fn print(result: &(impl Display + Serialize), json: bool) -> Result<()> {
    let text = if json { format!("{}\n", serde_json::to_string_pretty(result)?) } else { result.to_string() };
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("stdout"),
    }
}

/// One line of talk. There is nowhere to complain if it fails.
pub(super) fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// An error unless a file can be made at `path`: found out before the long work, not after it.
pub(super) fn ensure_writable(path: &Path) -> Result<()> {
    if path.file_name().is_none() || path.is_dir() {
        return Err(Error::usage(format!("{}: expected the name of a file to write", path.display())).into());
    }
    tempfile::tempfile_in(folder(path)).map_err(|e| Error::io(path, e))?;
    Ok(())
}

/// Whether both paths lead to one file, there already or not.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let place = |path: &Path| Some(folder(path).canonicalize().ok()?.join(path.file_name()?));
    a == b || place(a).is_some_and(|place_of_a| Some(place_of_a) == place(b))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
