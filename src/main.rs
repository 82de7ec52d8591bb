//! The command line of onnx-ptq4vit.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
