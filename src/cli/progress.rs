//! Progress on stderr: bars on a terminal, a line a stage elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::text::shown;

use super::output::say;

/// What the user sees of the work.
pub(super) struct Stderr {
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
    warnings: Mutex<Vec<String>>,
}

impl Stderr {
    pub(super) fn new() -> Self {
        Self { terminal: stderr().is_terminal(), bar: Mutex::default(), warnings: Mutex::default() }
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
        if !self.terminal {
            say(name);
            return;
        }
        let style = ProgressStyle::with_template("{prefix} {bar:32} {percent:>3}% {eta:>4} left {wide_msg}");
        let bar = ProgressBar::new(total)
            .with_style(style.expect("the template is well formed"))
            .with_prefix(name.to_string());
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn step(&self, detail: &str, work: u64) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_message(shown(detail).into_owned());
            bar.inc(work);
        }
    }

    fn note(&self, text: &str) {
        if let Some(warning) = text.strip_prefix("warning: ") {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.to_string());
        }
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}
