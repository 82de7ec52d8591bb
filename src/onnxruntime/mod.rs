//! A model file in stock ONNX Runtime, as its users run it.

mod library;
mod values;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::Array4;
use ort::ErrorCode;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::TensorElementType;
use prost::Message as _;

pub use library::Library;

use crate::engine::{Arithmetic, Engine, Tapped};
use crate::prepare::{Layout, Prepared};
use crate::{Error, Result};
use values::Fixed;

/// What the weights of all sessions together may take, in bytes: each session has its own.
const MOST_WEIGHTS: usize = 4 << 30;

/// A model file in ONNX Runtime, with the optimizations that it makes by default.
///
/// It is the file that runs, not what [`Prepared`] made of it: its inputs get the types and the layout that the file states,
/// and its output is brought into the form that the other engines give.
pub struct OnnxRuntime {
    library: Library,
    path: PathBuf,
    arithmetic: Arithmetic,
    shape: [usize; 4],
    input: (String, TensorElementType, Layout),
    others: Vec<Fixed>,
    output: String,
    outputs: Vec<String>,
    /// Threads of each session.
    threads: usize,
    /// Made when they are first needed. The crate `ort` lets a session run once at a time.
    sessions: Vec<Mutex<Option<Session>>>,
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<OnnxRuntime>();
};

impl OnnxRuntime {
    /// For images of `[C, H, W]`, with a session of one thread for each thread of rayon's: batches run side by side, and no
    /// result depends on how many do. If so many would take too much memory, there are fewer, of more threads.
    pub fn new(library: &Library, model: &Prepared, image: [usize; 3]) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let weights = model.model().proto.encoded_len().max(1);
        let sessions = (MOST_WEIGHTS / weights).clamp(1, threads);
        Self::with_sessions(library, model, model.input()?.shape_for(image)?, sessions, threads / sessions)
    }

    /// One run at a time, on all threads, of `batch` images where the file leaves that open.
    pub fn alone(library: &Library, model: &Prepared, image: [usize; 3], batch: usize) -> Result<Self> {
        let input = model.input()?;
        let mut shape = input.shape_for(image)?;
        if input.dims[0].is_none() && input.written_out.is_none() {
            shape[0] = batch;
        }
        Self::with_sessions(library, model, shape, 1, rayon::current_num_threads())
    }

    fn with_sessions(
        library: &Library,
        model: &Prepared,
        shape: [usize; 4],
        sessions: usize,
        threads: usize,
    ) -> Result<Self> {
        let path = model.path().ok_or_else(|| Error::usage("ONNX Runtime runs files: this model is none"))?;
        let arithmetic = if model.is_quantized() { Arithmetic::Integer } else { Arithmetic::Float };
        let session = open(library, path, threads)?;
        let input = model.input()?;
        let (mut images, mut others) = (None, Vec::new());
        let fixed = model.extra_values(shape)?;
        for outlet in session.inputs() {
            let place = || format!("input `{}`", outlet.name());
            let element = values::element_of(outlet.dtype()).ok_or_else(|| {
                Error::unsupported(place(), "it is not a tensor, and has no value without one")
            })?;
            if outlet.name() == input.name {
                images = Some((input.name.clone(), element, input.layout));
                continue;
            }
            let tensor = fixed.iter().find(|tensor| tensor.name() == outlet.name()).ok_or_else(|| {
                Error::unsupported(place(), "ONNX Runtime wants a value for it, and there is none")
            })?;
            others.push(Fixed::new(element, tensor)?);
        }
        let input = images.ok_or_else(|| {
            Error::unsupported(format!("input `{}`", input.name), "ONNX Runtime knows no such input")
        })?;
        let (output, _) = model.outputs()?.compared;
        let outputs: Vec<String> = session.outputs().iter().map(|outlet| outlet.name().to_string()).collect();
        if !outputs.contains(&output) {
            let why = "it is no output of the file, and ONNX Runtime gives nothing else";
            return Err(Error::unsupported(format!("value `{output}`"), why));
        }
        let mut sessions: Vec<_> = (1..sessions).map(|_| Mutex::default()).collect();
        sessions.push(Mutex::new(Some(session)));
        Ok(Self {
            library: library.clone(),
            path: path.to_path_buf(),
            arithmetic,
            shape,
            input,
            others,
            output,
            outputs,
            threads,
            sessions,
        })
    }

    /// The session of this thread of rayon's, which others may share.
    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        let at = rayon::current_thread_index().unwrap_or(0) % self.sessions.len();
        self.sessions[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for OnnxRuntime {
    fn input_shape(&self) -> [usize; 4] {
        self.shape
    }

    fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    fn name(&self) -> String {
        format!("ONNX Runtime {}", self.library.version())
    }

    /// The taps are outputs of the file.
    fn pass(&self, batch: Array4<f32>, taps: &[&str]) -> Result<Tapped> {
        if let Some(tap) = taps.iter().find(|tap| !self.outputs.iter().any(|output| output == *tap)) {
            let why =
                "ONNX Runtime gives the outputs of a file alone; values inside it need the built-in engine";
            return Err(Error::unsupported(format!("value `{tap}`"), why));
        }
        let (name, element, layout) = &self.input;
        let mut inputs: Vec<(&str, SessionInputValue)> =
            vec![(name, values::images(name, *element, *layout, batch)?.into())];
        for other in &self.others {
            inputs.push((&other.name, other.value()?.into()));
        }
        let failed = |error| failure(&self.library, &self.path, &error);
        let more = taps.iter().filter(|tap| **tap != self.output);
        let wanted = more.fold(OutputSelector::no_default().with(&*self.output), |all, tap| all.with(*tap));
        let options = RunOptions::new().map_err(failed)?.with_outputs(wanted);
        let mut slot = self.session();
        let session = match &mut *slot {
            Some(session) => session,
            empty => empty.insert(open(&self.library, &self.path, self.threads)?),
        };
        let outputs = session.run_with_options(inputs, &options).map_err(failed)?;
        let value = |name: &str| values::floats(name, &outputs[name]);
        Ok(Tapped {
            output: value(&self.output)?,
            values: taps.iter().map(|tap| value(tap)).collect::<Result<_>>()?,
        })
    }
}

impl std::fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxRuntime")
            .field("path", &self.path)
            .field("input", &self.shape)
            .field("sessions", &self.sessions.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// A session of `threads` on the file at `path`.
///
/// Its threads wait for work without spinning once a run has ended: another engine may have its turn then.
fn open(library: &Library, path: &Path, threads: usize) -> Result<Session> {
    let session = || -> ort::Result<Session> {
        let builder = Session::builder(&library.environment)?.with_intra_threads(threads)?;
        builder.with_config_entry("session.force_spinning_stop", "1")?.commit_from_file(path)
    };
    session().map_err(|error| failure(library, path, &error))
}

fn failure(library: &Library, path: &Path, error: &ort::Error) -> Error {
    let why = format!("ONNX Runtime {}: {error}", library.version());
    match error.code() {
        ErrorCode::NotImplemented => Error::unsupported(path.display(), why),
        _ => Error::model(path.display(), why),
    }
}
