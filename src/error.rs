//! The one error type of the library, divided by who must act.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What went wrong, and so who must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that makes no sense: change the request.
    #[error("{0}")]
    Usage(String),
    /// The model file is broken, hostile or not what the request needs: change the model.
    #[error("{0}")]
    Model(String),
    /// The images, arrays or labels are broken or do not fit the model: change the data.
    #[error("{0}")]
    Data(String),
    /// A sound model that this version cannot handle.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The operating system refused to read or write `place`.
    #[error("{place}: {source}")]
    Io {
        /// The file or folder.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A request that makes no sense.
    pub fn usage(why: impl Display) -> Self {
        Self::Usage(why.to_string())
    }

    /// A fault of the model file at `place` (a node, a tensor, a path).
    pub fn model(place: impl Display, why: impl Display) -> Self {
        Self::Model(format!("{place}: {why}"))
    }

    /// A fault of the data at `place` (a path, an image).
    pub fn data(place: impl Display, why: impl Display) -> Self {
        Self::Data(format!("{place}: {why}"))
    }

    /// A limit of this version, met at `place`.
    pub fn unsupported(place: impl Display, why: impl Display) -> Self {
        Self::Unsupported(format!("{place}: {why}"))
    }

    /// The operating system's refusal concerning `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { place: path.display().to_string(), source }
    }

    /// The process exit code: 2 usage, 3 bad model or data, 4 unsupported (1 is the verdict of `check`).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Model(_) | Self::Data(_) | Self::Io { .. } => 3,
            Self::Unsupported(_) => 4,
        }
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs code of others whose panics become errors: a panic hook need not speak of them.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// What `run` gives, or what its panic said.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
    })
}
