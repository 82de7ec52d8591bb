//! Signals: they end the program at once, but never amid the writing of a file.

use std::process::exit;
use std::sync::{Mutex, PoisonError};

use super::output::say;

/// Held by whoever writes a file.
static WRITING: Mutex<()> = Mutex::new(());

/// Makes an interrupt, and a polite request to end, wait for [`whole`]; and a limit on the size of files an error of the
/// writing, which cleans up.
#[cfg(unix)]
pub(super) fn install() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    // Where signals cannot be caught, they do what they always do.
    let never_read = std::sync::Arc::default();
    let _ = signal_hook::flag::register(SIGXFSZ, never_read);
    let ignored = ignored();
    let heard = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    if let Ok(mut signals) = signal_hook::iterator::Signals::new(heard) {
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // What the shell expects of a program that a signal ends.
                end(128 + signal);
            }
        });
    }
}

/// The signals that whoever started this wants ignored (`nohup`), as bits from that of signal 1 on; 0 where the system does
/// not say.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Makes Ctrl-C wait for [`whole`].
#[cfg(not(unix))]
pub(super) fn install() {
    let _ = ctrlc::set_handler(|| end(130));
}

fn end(code: i32) {
    let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    say("interrupted");
    exit(code);
}

/// Runs `write` to its end: no temporary file is left behind.
pub(super) fn whole<T>(write: impl FnOnce() -> T) -> T {
    let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
