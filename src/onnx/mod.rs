//! The ONNX file: read it without trusting it, index it, edit it, write it whole or not at all.
//!
//! A [`Model`] has passed validation and holds every tensor inline, so that what follows never meets a path, an
//! unsorted graph or a tensor whose bytes disagree with its shape. [`Graph`] is the read-only index over it;
//! [`Edits`] change it in one batch.
//!
//! Fields that `proto/onnx.proto` does not know are dropped on reading; it knows all of IR version 14.

mod edits;
mod external;
mod foreign;
mod graph;
mod mmap;
mod model;
pub mod node;
pub(crate) mod packing;
pub mod proto;
pub mod tensor;
#[cfg(test)]
pub(crate) mod testing;
mod validate;
mod write;

pub use edits::Edits;
pub(crate) use external::each_tensor;
pub use graph::{Graph, NodeId, Use};
pub use model::{Limits, Model};
pub use node::DOMAIN;
pub use proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
pub use tensor::DataType;
pub(crate) use validate::captures;
pub use write::Storage;
