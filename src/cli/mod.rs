//! The command line: results go to stdout, progress and messages to stderr.

mod analyze;
mod bench;
mod calibration;
mod check;
mod config;
mod diff;
mod engine;
mod images;
pub(crate) mod inspect;
mod interrupt;
mod manual;
mod memory;
mod model;
mod output;
mod page;
mod progress;
mod quantize;
mod run;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{LazyLock, OnceLock};

use anyhow::Result;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use onnx_ptq4vit::{Error, ErrorKind, kernel};

use output::say;

/// Quantize ONNX vision transformers to 8 bits and fewer, after training (PTQ4ViT).
///
/// The float model goes in, a folder of images shows what its activations look like, and out comes an ONNX file
/// that stock ONNX Runtime runs with integer arithmetic.
#[derive(Parser)]
#[command(name = "onnx-ptq4vit", version = VERSION.as_str(), after_help = EXAMPLES, disable_help_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Worker threads; all cores by default. The result does not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Also say what is done at each step, and how long it takes
    #[arg(short, long, global = true, hide_short_help = true)]
    verbose: bool,
    /// Take options from this TOML or JSON file, too; those on the command line override it
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    config: Option<PathBuf>,
    /// Print all options as such a file, and do nothing else
    #[arg(long, global = true, hide_short_help = true)]
    print_config: bool,
    /// Print help with the options that most need; --help-all has all of them
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    /// Print help with all options
    #[arg(long, global = true, action = ArgAction::HelpLong, hide_short_help = true)]
    help_all: Option<bool>,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit quantize vit.onnx --calib images/ -o vit.int8.onnx
  onnx-ptq4vit check vit.onnx vit.int8.onnx --data val/ --labels val.csv --max-drop 1
  onnx-ptq4vit run vit.int8.onnx --input cat.jpg
  onnx-ptq4vit bench vit.int8.onnx --against vit.onnx

Exit codes: 0 done, 1 a threshold of `check` is missed, 2 usage, 3 bad model or data, 4 unsupported model.";

#[derive(Subcommand)]
enum Command {
    Quantize(quantize::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Analyze(analyze::Args),
    Diff(diff::Args),
    Run(run::Args),
    Bench(bench::Args),
    Manual(manual::Args),
    /// Write a model of timm or Hugging Face as ONNX, with its preprocessing beside it (Python package alone)
    Export {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        arguments: Vec<OsString>,
    },
}

/// The version, the commit if the build knew it, and what of this CPU decides how fast the integer runner is.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("ONNX_PTQ4VIT_COMMIT").map_or(String::new(), |commit| format!(" ({commit})"));
    let (kernel, cpu) = (kernel::best().name(), kernel::cpu_features());
    format!("{}{commit}\nkernel: {kernel}\nCPU: {cpu}", env!("CARGO_PKG_VERSION"))
});

/// The arguments, of which the first is the name of the program.
static ARGUMENTS: OnceLock<Vec<OsString>> = OnceLock::new();

/// Parses the arguments, runs the command and says what went wrong. The first call alone counts.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = ARGUMENTS.get_or_init(|| arguments);
    let failed = |error: anyhow::Error| {
        say(&format!("error: {}{}", describe(&error), hint(&error)));
        ExitCode::from(exit_code(&error))
    };
    let command = Cli::command();
    let matches = match config::with_file(&command, arguments.clone()) {
        Ok(arguments) => command.clone().get_matches_from(arguments),
        Err(error) => return failed(error.into()),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    interrupt::install();
    hush_guarded_panics();
    let done = match cli.print_config {
        true => output::print_text(&config::printed(&command, &matches)).map(|()| ExitCode::SUCCESS),
        false => execute(cli),
    };
    done.unwrap_or_else(failed)
}

/// Panics that become errors are said once, as errors.
pub(crate) fn hush_guarded_panics() {
    let speak = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !onnx_ptq4vit::error::is_guarded() {
            speak(panic);
        }
    }));
}

/// An error if the environment names a kernel that this CPU cannot run.
fn ensure_kernel() -> Result<()> {
    let Some(asked) = std::env::var_os(kernel::VARIABLE).filter(|asked| *asked != kernel::best().name())
    else {
        return Ok(());
    };
    let names: Vec<&str> = kernel::all().iter().map(|kernel| kernel.name()).collect();
    let place = format!("{}={}", kernel::VARIABLE, asked.display());
    Err(Error::usage(format!("{place}: the kernels that this CPU can run are {}", names.join(", "))).into())
}

fn execute(cli: Cli) -> Result<ExitCode> {
    ensure_kernel()?;
    if let Some(threads) = cli.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    progress::be(cli.quiet, cli.verbose);
    match cli.command {
        Command::Quantize(args) => quantize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Manual(args) => manual::run(&args, Cli::command()),
        Command::Export { .. } => {
            let why =
                "`export` is in the Python package, which has PyTorch: pip install 'onnx-ptq4vit[export]'";
            Err(Error::usage(why).into())
        }
    }
}

/// The error and its causes in one line. The library's errors already say what they are caused by.
fn describe(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    parts.join(": ")
}

fn exit_code(error: &anyhow::Error) -> u8 {
    of_library(error).map_or(3, Error::exit_code)
}

/// The option that helps.
fn hint(error: &anyhow::Error) -> &'static str {
    match of_library(error).map(Error::kind) {
        Some(ErrorKind::Limit) => "; --max-tensor raises it",
        Some(ErrorKind::Pixels) => "; --max-pixels allows more",
        _ => "",
    }
}

fn of_library(error: &anyhow::Error) -> Option<&Error> {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_said_once() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::from(Error::io("a.npy".as_ref(), missing)).context("--input");
        assert_eq!(describe(&error), "--input: a.npy: entity not found");
        assert_eq!(exit_code(&error), 3);
        assert_eq!(exit_code(&Error::usage("no").into()), 2);
    }
}
