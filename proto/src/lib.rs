//! The wire: generated messages and services, and the one place that maps the repository's nouns to them.
#![allow(missing_debug_implementations, unreachable_pub, clippy::doc_markdown, clippy::large_enum_variant)]

pub mod v1 {
    tonic::include_proto!("palinurus.v1");
}

mod choice;
mod damage;
mod key_epochs;
pub mod logs;
pub mod metrics;
mod names;
mod requests;
mod status;
pub use choice::{Choice, Names};
pub use damage::{damage, logs as checked_logs};
pub use key_epochs::{sealed, to_wire};
pub use status::{LEADER, failure, from_failure, from_status, is_answer, to_status};

/// For reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/palinurus_descriptor.bin"));

/// The version of the messages between coordinator and agent. Raised when one of them must know what the other means;
/// an agent from before versions were said speaks 0.
pub const PROTOCOL: u32 = 3;
