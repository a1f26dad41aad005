//! Object stores: every backend against a real server, and one that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

mod bench;
mod conform;
mod copy;
mod faults;
mod fleet;
mod large;
mod lock;
mod mistakes;
mod refusals;
mod tls;
