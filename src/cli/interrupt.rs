//! Ctrl-C: at once, but never amid the writing of a file.

use std::process::exit;
use std::sync::{Mutex, PoisonError};

use super::output::say;

/// Held by whoever writes a file.
static WRITING: Mutex<()> = Mutex::new(());

/// What the shell expects of a program that SIGINT ends: 128 + 2.
const EXIT_CODE: i32 = 130;

/// Makes Ctrl-C wait for [`whole`].
pub(super) fn install() {
    // Where there are no signals to catch, Ctrl-C does what it always does.
    let _ = ctrlc::set_handler(|| {
        let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        say("interrupted");
        exit(EXIT_CODE);
    });
}

/// Runs `write` to its end: no temporary file is left behind.
pub(super) fn whole<T>(write: impl FnOnce() -> T) -> T {
    let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
