//! Turns `proto/*.proto` into Rust.
//!
//! protox parses the files, so no `protoc` has to be installed; tonic-prost-build writes the
//! messages and, for the bench suite and the tests, gRPC clients behind the feature `client`.
//! The server speaks HTTP/2 itself and needs no generated services.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const PROTO_DIR: &str = "proto";
const PROTO_FILES: [&str; 6] = [
    "mvccpb.proto",
    "authpb.proto",
    "etcdserverpb.proto",
    "v3lockpb.proto",
    "v3electionpb.proto",
    "health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PROTO_DIR}");

    let mut compiler = protox::Compiler::new([PROTO_DIR])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(PROTO_FILES)?;

    // The field-number test reads the schema back from this file.
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        // `Bytes` fields are slices of the request frame: decoding copies no key and no value.
        .bytes(".")
        // Iteration order of a decoded map must not depend on a random seed.
        .btree_map(".")
        .build_client(true)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .build_server(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
