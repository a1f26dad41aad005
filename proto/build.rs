//! Compiles the protos with protox: a fresh machine has no protoc.
use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "palinurus/v1/retention.proto",
        "palinurus/v1/keys.proto",
        "palinurus/v1/failure.proto",
        "palinurus/v1/choice.proto",
        "palinurus/v1/fork.proto",
        "palinurus/v1/log.proto",
        "palinurus/v1/drill.proto",
        "palinurus/v1/types.proto",
        "palinurus/v1/requests.proto",
        "palinurus/v1/schedule.proto",
        "palinurus/v1/power.proto",
        "palinurus/v1/coordinator.proto",
        "palinurus/v1/fleet.proto",
        "palinurus/v1/limits.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("palinurus_descriptor.bin"), descriptors.encode_to_vec())?;
    // Operations hold plans, and are held by many futures.
    let boxed = [".palinurus.v1.RestorePlan.logs", ".palinurus.v1.Operation.drill"];
    let build = boxed
        .iter()
        .fold(tonic_prost_build::configure().bytes(".palinurus.v1"), |build, path| build.boxed(path));
    build.compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
