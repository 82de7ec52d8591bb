//! Work in a thread of its own, while the thread that Python called from listens for signals.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use onnx_ptq4vit::{Error, Progress, Result};
use pyo3::prelude::*;

use crate::failure;

/// How long a signal may wait.
const LISTEN: Duration = Duration::from_millis(50);

/// What is told of the work.
enum Event {
    Stage(String, u64),
    Step(u64),
    Note(String),
}

/// The progress of some work, which ends where it next tells of it after it was cancelled.
pub(crate) struct Reporter {
    events: Sender<Event>,
    cancelled: Arc<AtomicBool>,
    warnings: Mutex<Vec<String>>,
}

/// What unwinds the thread of work that nobody waits for any more.
struct Cancelled;

impl Reporter {
    fn tell(&self, event: Event) {
        if self.cancelled.load(Ordering::Relaxed) {
            // Not a panic: no hook speaks of it.
            resume_unwind(Box::new(Cancelled));
        }
        // Whoever listened may be gone.
        let _ = self.events.send(event);
    }

    /// The notes so far that were warnings.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Reporter {
    fn stage(&self, name: &str, total: u64) {
        self.tell(Event::Stage(name.into(), total));
    }

    fn step(&self, _: &str, work: u64) {
        self.tell(Event::Step(work));
    }

    fn note(&self, text: &str) {
        if let Some(warning) = text.strip_prefix("warning: ") {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.into());
        }
        self.tell(Event::Note(text.into()));
    }
}

/// Does `task` without holding Python's lock, and calls `listener(kind, text, done, total)` as it moves. A signal, or an
/// exception of the listener, ends the waiting at once; the task then ends at its next step, and its result is dropped.
pub(crate) fn run<T: Send + 'static>(
    py: Python,
    listener: Option<&Bound<PyAny>>,
    task: impl FnOnce(&Reporter) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    ensure_not_forked(py)?;
    let (events, mut receiver) = channel();
    let cancelled = Arc::new(AtomicBool::new(false));
    let reporter = Reporter { events, cancelled: cancelled.clone(), warnings: Mutex::default() };
    let spawned = std::thread::Builder::new().name("onnx-ptq4vit".into()).spawn(move || {
        // The reporter goes with the result: when its channel closes, the work is done.
        catch_unwind(AssertUnwindSafe(move || task(&reporter)))
    });
    let thread = spawned.map_err(|error| failure::raise(py, &Error::unsupported("a thread", error)))?;
    if let Err(error) = listen(py, listener, &mut receiver) {
        cancelled.store(true, Ordering::Relaxed);
        return Err(error);
    }
    let outcome = py.detach(|| thread.join()).and_then(|caught| caught);
    match outcome {
        Ok(result) => result.map_err(|error| failure::raise(py, &error)),
        Err(panic) => Err(failure::internal(py, &said(&*panic))),
    }
}

/// Forwards what is told until the work is done; an error if a signal's handler or the listener raises one.
fn listen(py: Python, listener: Option<&Bound<PyAny>>, receiver: &mut Receiver<Event>) -> PyResult<()> {
    let (mut stage, mut done, mut total) = (String::new(), 0_u64, 0_u64);
    let tell = |kind: &str, text: &str, done: u64, total: u64| match listener {
        Some(listener) => listener.call1((kind, text, done.min(total), total)).map(drop),
        None => Ok(()),
    };
    loop {
        let (events, open) = py.detach(|| waiting(receiver));
        // Steps that came together are told together.
        let mut told = done;
        for event in events {
            match event {
                Event::Step(work) => done = done.saturating_add(work),
                Event::Stage(name, of) => {
                    if done > told {
                        tell("step", &stage, done, total)?;
                    }
                    (stage, done, told, total) = (name, 0, 0, of);
                    tell("stage", &stage, 0, total)?;
                }
                Event::Note(text) => tell("note", &text, done, total)?,
            }
        }
        if done > told {
            tell("step", &stage, done, total)?;
        }
        py.check_signals()?;
        if !open {
            return Ok(());
        }
    }
}

/// All that was told since, or nothing after a while; and whether more may come.
fn waiting(receiver: &mut Receiver<Event>) -> (Vec<Event>, bool) {
    match receiver.recv_timeout(LISTEN) {
        Ok(first) => {
            let mut events = vec![first];
            events.extend(receiver.try_iter());
            (events, true)
        }
        Err(RecvTimeoutError::Timeout) => (Vec::new(), true),
        Err(RecvTimeoutError::Disconnected) => (Vec::new(), false),
    }
}

/// An error in a process that was forked from one that had worked: it lacks the worker threads, and would wait for ever.
fn ensure_not_forked(py: Python) -> PyResult<()> {
    static WORKED_IN: OnceLock<u32> = OnceLock::new();
    let own = std::process::id();
    match *WORKED_IN.get_or_init(|| own) == own {
        true => Ok(()),
        false => Err(failure::raise(
            py,
            &Error::usage(
                "this process was forked from one that has used onnx_ptq4vit, and lacks its threads: start it with \
                 multiprocessing.get_context(\"spawn\")",
            ),
        )),
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}
