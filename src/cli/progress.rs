//! Progress on stderr: bars on a terminal; elsewhere a line for each stage, and for each tenth of a long one.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::text::shown;

use super::output::say;

/// Whether nothing is said but warnings.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether each step is said.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Says nothing but warnings from now on, if `quiet`; if `verbose`, each step and how long each stage takes.
pub(super) fn be(quiet: bool, verbose: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// What the user sees of the work.
pub(super) struct Stderr {
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
    /// Where there is no terminal.
    lines: Mutex<Option<Lines>>,
    warnings: Mutex<Vec<String>>,
    /// The present stage, and when it began.
    stage: Mutex<Option<(String, Instant)>>,
}

impl Stderr {
    pub(super) fn new() -> Self {
        Self {
            terminal: stderr().is_terminal() && !VERBOSE.load(Ordering::Relaxed),
            bar: Mutex::default(),
            lines: Mutex::default(),
            warnings: Mutex::default(),
            stage: Mutex::default(),
        }
    }

    /// The notes so far that were warnings, for the report at the end.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the last stage.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((name, start)) = stage.filter(|_| VERBOSE.load(Ordering::Relaxed)) {
            say(&format!("{name}: {:.1} s", start.elapsed().as_secs_f64()));
        }
    }
}

/// The lines about one stage: one for each tenth of it, if it takes long.
struct Lines {
    stage: String,
    start: Instant,
    total: u64,
    done: u64,
    said: u64,
}

impl Lines {
    /// A stage that is over sooner than a reader looks again needs no lines.
    const FIRST: Duration = Duration::from_secs(10);

    fn new(stage: &str, total: u64) -> Self {
        Self { stage: stage.into(), start: Instant::now(), total, done: 0, said: 0 }
    }

    /// The line that is due after some more work.
    fn after(&mut self, work: u64) -> Option<String> {
        self.done = self.done.saturating_add(work).min(self.total);
        let tenths = (10 * u128::from(self.done) / u128::from(self.total.max(1))) as u64;
        let elapsed = self.start.elapsed();
        if tenths <= self.said || tenths >= 10 || elapsed < Self::FIRST {
            return None;
        }
        self.said = tenths;
        let left = elapsed.mul_f64((self.total - self.done) as f64 / self.done as f64);
        Some(format!("{}: {} %, {} s left", self.stage, 10 * tenths, left.as_secs()))
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress for Stderr {
    fn stage(&self, name: &str, total: u64) {
        self.finish();
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.into(), Instant::now()));
        if QUIET.load(Ordering::Relaxed) {
            return;
        }
        if !self.terminal {
            say(name);
            *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = Some(Lines::new(name, total));
            return;
        }
        let style = ProgressStyle::with_template("{prefix} {bar:32} {percent:>3}% {eta:>4} left {wide_msg}");
        let bar = ProgressBar::new(total)
            .with_style(style.expect("the template is well formed"))
            .with_prefix(name.to_string());
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn step(&self, detail: &str, work: u64) {
        if VERBOSE.load(Ordering::Relaxed) && !detail.is_empty() {
            say(&format!("  {}", shown(detail)));
        }
        if let Some(line) = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .and_then(|lines| lines.after(work))
        {
            say(&line);
        }
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_message(shown(detail).into_owned());
            bar.inc(work);
        }
    }

    fn note(&self, text: &str) {
        if let Some(warning) = text.strip_prefix("warning: ") {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.to_string());
        } else if QUIET.load(Ordering::Relaxed) {
            return;
        }
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_stages_have_a_line_for_each_tenth() {
        let mut lines = Lines::new("search", 200);
        assert_eq!(lines.after(50), None, "it has only begun");
        lines.start = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        assert_eq!(lines.after(10), Some("search: 30 %, 70 s left".into()));
        assert_eq!(lines.after(5), None);
        assert!(lines.after(60).unwrap().starts_with("search: 60 %, "));
        assert_eq!(lines.after(1000), None, "the next stage says that this one is over");
    }
}
