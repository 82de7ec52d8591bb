//! Compiles `proto/onnx.proto` to Rust. Pure Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let schema = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // `Bytes` lets a weight stay a slice of the memory-mapped file.
    prost_build::Config::new().bytes([".onnx.TensorProto.raw_data"]).compile_fds(schema)?;
    Ok(())
}
