//! Writes to stdout and stderr, and compares paths.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use onnx_ptq4vit::files::folder_of;
use onnx_ptq4vit::report::{Report, Test};
use onnx_ptq4vit::text;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

/// How the result of a command is printed.
#[derive(Clone, clap::Args)]
pub(super) struct OutputArgs {
    /// Print as JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How the result is printed: for people, as JSON, as Markdown, or as XML of `JUnit`, whose tests are the thresholds
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text", hide_short_help = true)]
    format: Format,
}

/// A form of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Markdown,
    Junit,
}

impl OutputArgs {
    /// Prints a report.
    pub(super) fn print(&self, report: &impl Report) -> Result<()> {
        match self.format {
            _ if self.json => print(report, true),
            Format::Text => print(report, false),
            Format::Json => print(report, true),
            Format::Markdown => print_text(&text::lines(&report.markdown())),
            Format::Junit => print_text(&text::lines(&junit(&report.tests())?)),
        }
    }
}

/// XML of `JUnit`.
fn junit(tests: &[Test]) -> Result<String> {
    let mut suite = TestSuite::new("onnx-ptq4vit");
    for Test { name, failure, output } in tests {
        let status = match failure {
            None => TestCaseStatus::success(),
            Some(why) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(text::shown(why));
                status
            }
        };
        let mut case = TestCase::new(text::shown(name).into_owned(), status);
        case.set_classname("onnx-ptq4vit").set_system_out(text::shown(output));
        suite.add_test_case(case);
    }
    let mut report = quick_junit::Report::new("onnx-ptq4vit");
    report.add_test_suite(suite);
    Ok(report.to_string()?)
}

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
