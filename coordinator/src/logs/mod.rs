//! Logs: who may write which lineage, how far it is, and to which moments a service can be restored
//! (docs/decisions/013-log-streams.md). Bytes never pass through here; [`decide`] is pure, [`desk`] carries it out.
mod decide;
mod desk;
mod holds;
mod locate;
pub(crate) mod stream;

pub(crate) use desk::Desk;
pub(crate) use holds::{held, holds, parent, pins};
pub(crate) use locate::{alone, locate};
