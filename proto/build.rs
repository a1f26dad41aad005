//! Compiles the protos with protox: a fresh machine has no protoc.
use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "palinurus/v1/retention.proto",
        "palinurus/v1/keys.proto",
        "palinurus/v1/failure.proto",
        "palinurus/v1/log.proto",
        "palinurus/v1/types.proto",
        "palinurus/v1/requests.proto",
        "palinurus/v1/coordinator.proto",
        "palinurus/v1/fleet.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("palinurus_descriptor.bin"), descriptors.encode_to_vec())?;
    // Operations hold plans, and are held by many futures.
    let boxed = ".palinurus.v1.RestorePlan.logs";
    tonic_prost_build::configure().bytes(".palinurus.v1").boxed(boxed).compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
