//! Generates the messages, servers and clients of the etcd API from `proto/`.
//!
//! `protox` parses the files in this process, so that building needs no `protoc` on the machine.

use std::error::Error;

use protox::prost::Message;

/// One file for each protobuf package; what they import is found among them.
const PROTOS: [&str; 6] =
    ["authpb.proto", "etcdserverpb.proto", "health.proto", "mvccpb.proto", "v3electionpb.proto", "v3lockpb.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    // The git revision that `--version` prints, where a release build sets it.
    println!("cargo::rerun-if-env-changed=KV_GIT_SHA");
    let files = protox::compile(PROTOS, ["proto"])?;
    // The JSON gateway reads the messages' shapes from here.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("api.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        // Keys and values are cut out of the received message rather than copied.
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
