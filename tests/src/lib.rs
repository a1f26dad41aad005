//! What the end-to-end tests stand on: a world of real processes, fleets on a network of their own, odd trees, and
//! independent comparisons.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on says where and why by panicking"
)]

pub mod archive;
pub mod certs;
pub mod clickhouse;
pub mod commits;
pub mod compare;
pub mod faults;
pub mod fleet;
pub mod load;
pub mod netns;
pub mod oddities;
pub mod operator;
pub mod postgres;
pub mod process;
pub mod seeded;
pub mod store;
pub mod tmpfs;
pub mod tree;
pub mod watchdog;
pub mod world;

pub use world::World;
