//! The part of the Python package that is written in Rust. Users see `onnx_ptq4vit/__init__.py`.
//!
//! No function holds Python's lock while it works, and each listens for signals; see [`work`].

mod check;
// The command line is that of the binary, and held to the lints of the crate at the root.
#[allow(clippy::pedantic)]
#[path = "../../src/cli/mod.rs"]
mod cli;
mod data;
mod failure;
mod model;
mod quantize;
mod work;

use std::ffi::OsString;
use std::process::ExitCode;

use pyo3::prelude::*;

/// Runs the command line with these arguments, of which the first is the name of the program, and gives its exit code. Help
/// and errors in the arguments end the process.
#[pyfunction]
fn main(py: Python, arguments: Vec<OsString>) -> u8 {
    let code = py.detach(|| cli::main(arguments));
    (0..=u8::MAX).find(|byte| ExitCode::from(*byte) == code).unwrap_or(u8::MAX)
}

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::check::{Comparison, check};
    #[pymodule_export]
    use super::main;
    #[pymodule_export]
    use super::model::{Model, Runner};
    #[pymodule_export]
    use super::quantize::{Quantized, quantize};

    /// Panics that become exceptions are said once, by these.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::cli::hush_guarded_panics();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
