//! The command line of onnx-ptq4vit.

use std::process::ExitCode;

mod cli;

/// Calibration makes and drops thousands of arrays, which it gives back to the system less eagerly than libc does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect())
}
