//! Errors as exceptions, whose classes are in `onnx_ptq4vit/_errors.py`.

use std::error::Error as _;

use onnx_ptq4vit::{Error, ErrorKind};
use pyo3::prelude::*;

/// The exception that says what `error` says.
pub(crate) fn raise(py: Python, error: &Error) -> PyErr {
    let errno = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()?.raw_os_error());
    let (kind, hint) = match error.kind() {
        ErrorKind::Usage => ("usage", ""),
        ErrorKind::Model => ("model", ""),
        ErrorKind::Limit => ("limit", "; max_tensor= raises it"),
        ErrorKind::Pixels => ("pixels", ""),
        ErrorKind::Data => ("data", ""),
        ErrorKind::Unsupported => ("unsupported", ""),
        ErrorKind::Io => ("io", ""),
        _ => ("internal", ""),
    };
    exception(py, kind, &format!("{error}{hint}"), error.place(), errno)
}

/// The exception for a fault of this library.
pub(crate) fn internal(py: Python, why: &str) -> PyErr {
    let text = format!("{why}; this is a fault of onnx-ptq4vit, please report it");
    exception(py, "internal", &text, None, None)
}

fn exception(py: Python, kind: &str, text: &str, place: Option<&str>, errno: Option<i32>) -> PyErr {
    let made = py
        .import("onnx_ptq4vit._errors")
        .and_then(|module| module.getattr("exception"))
        .and_then(|make| make.call1((kind, text, place, errno)));
    made.map_or_else(|error| error, PyErr::from_value)
}
