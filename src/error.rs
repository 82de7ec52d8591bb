//! The one error type of the library, divided by who must act.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::text::shown;

/// What went wrong: of which [kind](Self::kind), and [where](Self::place). Its text says it in one line.
#[derive(Debug, thiserror::Error)]
#[error("{}{}{}", prefix(*.kind), located(.place.as_ref()), shown(.why))]
pub struct Error {
    kind: ErrorKind,
    place: Option<String>,
    why: String,
    source: Option<std::io::Error>,
}

/// Who must act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that makes no sense: change the request.
    Usage,
    /// The model file is broken, hostile or not what the request needs: change the model.
    Model,
    /// The model would take more of the machine than its [`Limits`](crate::onnx::Limits) allow: raise them, if you trust it.
    Limit,
    /// An image has more pixels than are allowed: allow more, if you trust it.
    Pixels,
    /// The images, arrays or labels are broken or do not fit the model: change the data.
    Data,
    /// A sound model that this version cannot handle.
    Unsupported,
    /// The operating system refused to read or write a file.
    Io,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn prefix(kind: ErrorKind) -> &'static str {
    if kind == ErrorKind::Unsupported { "unsupported: " } else { "" }
}

fn located(place: Option<&String>) -> String {
    place.map_or(String::new(), |place| format!("{}: ", shown(place)))
}

impl Error {
    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the error is about: a node, value or site by its name, or a file by its path.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    fn new(kind: ErrorKind, place: Option<String>, why: String) -> Self {
        Self { kind, place, why, source: None }
    }

    /// A request that makes no sense.
    #[doc(hidden)]
    pub fn usage(why: impl Display) -> Self {
        Self::new(ErrorKind::Usage, None, why.to_string())
    }

    /// A fault of the model file at `place` (a node, a tensor, a path).
    #[doc(hidden)]
    pub fn model(place: impl Display, why: impl Display) -> Self {
        Self::new(ErrorKind::Model, Some(place.to_string()), why.to_string())
    }

    /// A fault of the model as a whole.
    pub(crate) fn whole_model(why: impl Display) -> Self {
        Self::new(ErrorKind::Model, None, why.to_string())
    }

    /// The model asks for more than it may have, at `place`.
    pub(crate) fn limit(place: impl Display, why: impl Display) -> Self {
        Self::new(ErrorKind::Limit, Some(place.to_string()), why.to_string())
    }

    /// A fault of the data at `place` (a path, an image).
    #[doc(hidden)]
    pub fn data(place: impl Display, why: impl Display) -> Self {
        Self::new(ErrorKind::Data, Some(place.to_string()), why.to_string())
    }

    /// The image at `path` has more pixels than are allowed.
    pub(crate) fn too_many_pixels(path: &Path, why: impl Display) -> Self {
        Self::new(ErrorKind::Pixels, Some(path.display().to_string()), why.to_string())
    }

    /// A limit of this version, met at `place`.
    #[doc(hidden)]
    pub fn unsupported(place: impl Display, why: impl Display) -> Self {
        Self::new(ErrorKind::Unsupported, Some(place.to_string()), why.to_string())
    }

    /// The operating system's refusal concerning `path`.
    #[doc(hidden)]
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        let (place, why) = (Some(path.display().to_string()), source.to_string());
        Self { kind: ErrorKind::Io, place, why, source: Some(source) }
    }

    /// The same error in the file at `path`, if it is about what the file holds.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self.kind {
            ErrorKind::Model | ErrorKind::Limit | ErrorKind::Unsupported => {
                let why = format!("{}{}", located(self.place.as_ref()), self.why);
                Self { place: Some(path.display().to_string()), why, ..self }
            }
            _ => self,
        }
    }

    /// The process exit code: 2 usage, 3 bad model or data, 4 unsupported (1 is the verdict of `check`).
    #[doc(hidden)]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Usage => 2,
            ErrorKind::Model | ErrorKind::Limit | ErrorKind::Pixels | ErrorKind::Data | ErrorKind::Io => 3,
            ErrorKind::Unsupported => 4,
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
