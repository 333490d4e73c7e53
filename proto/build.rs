//! Generates the APIs' code with a compiler of protocol buffers written in Rust: no `protoc` on the machine is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const AGENT: &[&str] = &[
    "goliath/agent/v1/condition.proto",
    "goliath/agent/v1/guest.proto",
    "goliath/agent/v1/host.proto",
    "goliath/agent/v1/image.proto",
    "goliath/agent/v1/inspect.proto",
    "goliath/agent/v1/network.proto",
];
const OPERATOR: &[&str] =
    &["goliath/operator/v1/event.proto", "goliath/operator/v1/fleet.proto", "goliath/operator/v1/object.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by gRPC reflection: each program tells of its own services alone.
    for (name, files) in [("agent", AGENT), ("operator", OPERATOR)] {
        fs::write(out.join(format!("{name}_descriptor.bin")), protox::compile(files, ["."])?.encode_to_vec())?;
    }
    tonic_prost_build::configure().compile_fds(protox::compile(AGENT.iter().chain(OPERATOR), ["."])?)?;
    println!("cargo::rerun-if-changed=goliath");
    Ok(())
}
