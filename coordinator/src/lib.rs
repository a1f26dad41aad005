//! Plans backups and restores, assigns the work to agents, and keeps the record. No user data passes through it, and
//! it knows no database: it knows phases, nodes, chunks and policies. `docs/protocol.md` is the specification.
//!
//! Read `operation/backup.rs` first: it says what a backup does.
mod access;
mod actor;
mod api;
pub mod audit;
mod board;
mod bound;
mod claim;
mod config;
#[cfg(test)]
mod counted;
mod door;
mod drill;
mod election;
mod failover;
#[cfg(test)]
mod fixture;
mod fleet;
mod gate;
mod index;
mod leadership;
mod listen;
mod logs;
mod metrics;
mod notify;
mod operation;
mod plan;
pub mod plans;
mod power;
mod retention;
pub mod schedule;
mod scrub;
mod segment;
mod server;
mod settings;
mod shared;
mod slew;
mod standby;
pub mod state;
mod vault;

pub use config::{Config, EmailConfig, EtcdConfig, MailTls, NotifyConfig, WebhookConfig};
pub use listen::{Duplex, Incoming, Listen, Peer, Wire};
pub use server::Server;
pub use shared::World;
