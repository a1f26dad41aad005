//! End to end: the real binary, real processes, real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

mod access;
mod changing;
mod classes;
mod crash;
mod damage;
mod demo;
mod failover;
mod flood;
mod freeze;
mod full_disk;
mod keys;
mod logs;
mod metrics;
mod odd_tree;
mod offline;
mod partial;
mod postgresql;
mod quarantine;
mod refusals;
mod replicas;
mod retention;
mod scrub;
mod up;
