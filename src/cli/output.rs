//! Writes to stdout and stderr, and compares paths.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use onnx_ptq4vit::files::folder_of;
use onnx_ptq4vit::text;
use serde::Serialize;

/// Prints a result to stdout, as text or as JSON, with nothing that a terminal obeys. It is no error if the reader has
/// closed the pipe.
pub(super) fn print(result: &(impl Display + Serialize), json: bool) -> Result<()> {
    let text = if json { format!("{}\n", serde_json::to_string_pretty(result)?) } else { result.to_string() };
    match json {
        true => print_text(&text::json(&text)),
        false => print_text(&text::lines(&text)),
    }
}

/// Prints a text that holds nothing that a terminal obeys.
pub(super) fn print_text(safe: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(safe.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("stdout"),
    }
}

/// Prints a line to stderr, with nothing that a terminal obeys. A failure is ignored: there is nowhere to report it.
pub(super) fn say(line: &str) {
    let _ = writeln!(stderr(), "{}", text::lines(line).replace('\n', "\\n"));
}

/// Whether both paths lead to one file, there already or not.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let place = |path: &Path| Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?));
    a == b || place(a).is_some_and(|place_of_a| Some(place_of_a) == place(b))
}
