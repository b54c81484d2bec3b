//! Makes the client from the project's own .proto files.

use std::error::Error;

const PROTOS: &str = "../../src/tei_manager/grpc/proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let descriptors = protox::compile(["multiplexer/v1/tei_multiplexer.proto"], [PROTOS])?;
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("protos.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
