//! A whole cluster on a network of its own: killed, paused, cut apart and slowed while backups and restores run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

mod loss;
mod paused;
mod rounds;
mod sound;
mod takeover;
