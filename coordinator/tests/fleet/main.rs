//! The coordinator as a whole, spoken to as operators and agents speak to it: real gRPC over loopback, a repository
//! in a folder, and peers that do an agent's part with data of their own making.
#![allow(missing_debug_implementations, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
mod cluster;
mod drill;
#[allow(dead_code)]
#[path = "../../src/state/etcd/server.rs"]
mod etcd;
mod failover;
mod garbage;
mod logs;
mod over_etcd;
mod partial;
mod peer;
mod power;
mod recovery;
mod restore;
mod retention;
mod schedule;
mod scrub;
mod session;
mod standby;
mod takeover;
mod world;
