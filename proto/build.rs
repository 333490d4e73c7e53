//! Generates the API's code with a compiler of protocol buffers written in Rust: no `protoc` on the machine is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 6] = [
    "goliath/agent/v1/condition.proto",
    "goliath/agent/v1/guest.proto",
    "goliath/agent/v1/host.proto",
    "goliath/agent/v1/image.proto",
    "goliath/agent/v1/inspect.proto",
    "goliath/agent/v1/network.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by gRPC reflection.
    fs::write(out.join("goliath_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo::rerun-if-changed=goliath");
    Ok(())
}
