//! The messages of `proto/onnx.proto` as Rust types. A field that the file leaves out is `None`; the method of the
//! same name gives its default then.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
