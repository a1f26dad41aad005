//! The WAL as a stream of logs: which history this server writes, and the slot by which it keeps what is not stored.
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::{Error, Result};

use super::blocking;
use super::client::{Client, Mode};
use super::config::Access;
use super::identity::Identity;
use super::lsn::{Lsn, Segment};
use super::recovery;
use super::server::{Ready, look, ready, text};
use super::stream::WalStream;
use super::timelines;
use crate::engine::{History, LogStream, Logs, Plan, Wanted};

#[derive(Debug)]
pub(super) struct Wal {
    pub(super) access: Access,
    pub(super) identity: Arc<Identity>,
    pub(super) slot: String,
}

/// Of a service and a node: a slot's name has at most 63 of a few letters, and two nodes never share one.
pub(super) fn slot_name(service: &str, node: &str) -> String {
    let plain = |name: &str| -> String {
        let lower = name.chars().map(|c| c.to_ascii_lowercase());
        lower.map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(18).collect()
    };
    let hash = blake3::hash(format!("{service}\0{node}").as_bytes());
    format!("palinurus_{}_{}_{}", plain(service), plain(node), &hash.to_hex()[..8])
}

/// What sets two histories of WAL apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalIdentity {
    pub(super) system_identifier: u64,
    pub(super) timeline: u32,
}

impl WalIdentity {
    pub(super) fn encode(self) -> Vec<u8> {
        [&self.system_identifier.to_be_bytes()[..], &self.timeline.to_be_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let parts = bytes.split_first_chunk::<8>().and_then(|(system, timeline)| {
            Some((u64::from_be_bytes(*system), u32::from_be_bytes(timeline.try_into().ok()?)))
        });
        let (system_identifier, timeline) =
            parts.ok_or_else(|| Error::corrupt("this identity of a history is none of PostgreSQL's"))?;
        Ok(Self { system_identifier, timeline })
    }
}

#[async_trait]
impl Logs for Wal {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    fn is_stored(&self) -> bool {
        self.access.config.archive
    }

    fn interval(&self) -> Duration {
        self.access.config.archive_interval
    }

    async fn look(&self) -> Result<Option<History>> {
        let root = self.access.config.root.clone();
        if !self.access.config.archive || blocking(move || super::is_empty(&root)).await? {
            return Ok(None);
        }
        let (server, sql) = look(&self.access).await?;
        sql.end().await;
        if server.in_recovery {
            return Ok(None);
        }
        let Ready { server, system_identifier, timeline, mut sql, mut replication } =
            ready(&self.access).await?;
        if server.synchronous {
            return Err(Error::conflict("synchronous_standby_names would make commits wait for the archive")
                .with_hint("name the standbys in it one by one, without \"*\" and without \"palinurus\""));
        }
        self.identity.check(system_identifier)?;
        let position = self.reserve(&mut sql, &mut replication).await?;
        let row = sql.one("select pg_current_wal_flush_lsn()").await?;
        let end: Lsn = text(&row, 0)?.parse()?;
        let account = match timeline {
            1 => Vec::new(),
            _ => {
                let row = replication.one(&format!("TIMELINE_HISTORY {timeline}")).await?;
                text(&row, 1)?.as_bytes().to_vec()
            }
        };
        sql.end().await;
        replication.end().await;
        self.identity.keep(system_identifier)?;
        Ok(Some(History {
            identity: WalIdentity { system_identifier, timeline }.encode(),
            parents: timelines::parents(system_identifier, &account)?,
            account,
            segment: server.segment_size,
            position: Segment::of(timeline, position, server.segment_size).start().0,
            end: end.0,
        }))
    }

    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>> {
        let WalIdentity { system_identifier, timeline } = WalIdentity::decode(identity)?;
        let (server, sql) = look(&self.access).await?;
        sql.end().await;
        let mut replication = Client::connect(&self.access, Mode::Replication).await?;
        let first = Segment::of(timeline, Lsn(position), server.segment_size);
        let (slot, at) = (&self.slot, first.start());
        let command = format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {at} TIMELINE {timeline}");
        let more = replication.start_copy(&command).await?;
        Ok(Box::new(WalStream::new(replication, first, system_identifier, more)))
    }

    fn wanted(&self, name: &str, plan: &Plan) -> Wanted {
        recovery::wanted(name, plan)
    }

    fn following(&self, name: &str, plan: &Plan) -> Vec<String> {
        recovery::following(name, plan)
    }

    async fn prepare(&self, plan: &Plan, command: &[String]) -> Result<()> {
        let (root, plan, command) = (self.access.config.root.clone(), plan.clone(), command.to_vec());
        blocking(move || recovery::prepare(&root, &plan, &command)).await
    }

    fn user(&self) -> Option<(u32, u32)> {
        let found = self.access.config.root.metadata().ok()?;
        Some((found.uid(), found.gid()))
    }
}

impl Wal {
    /// From where the server keeps its WAL for us. A slot that it had to give up is made anew.
    async fn reserve(&self, sql: &mut Client, replication: &mut Client) -> Result<Lsn> {
        let slot = &self.slot;
        let known =
            format!("select restart_lsn, wal_status from pg_replication_slots where slot_name = '{slot}'");
        for _ in 0..2 {
            if let Some(row) = sql.query(&known).await?.pop() {
                let lost = row.get(1).and_then(Option::as_deref) == Some("lost");
                match row.first().and_then(Option::as_deref) {
                    Some(at) if !lost => return at.parse(),
                    _ => {
                        tracing::warn!(slot, "the server gave up the WAL that was kept for the archive");
                        replication.query(&format!("DROP_REPLICATION_SLOT \"{slot}\"")).await?;
                    }
                }
            }
            let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL RESERVE_WAL");
            replication.query(&command).await.map_err(|error| {
                error
                    .with_hint("the archive needs a replication slot of its own: raise max_replication_slots")
            })?;
        }
        Err(Error::conflict(format!("the server does not keep its WAL in slot {slot:?}"))
            .with_hint("see pg_replication_slots, and what drops slots there"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_as_the_server_allows() {
        let long = "x".repeat(100);
        let names = [slot_name("db", "n-1"), slot_name("db", "N.1"), slot_name(&long, &long)];
        for name in &names {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.len() < 64 && name.chars().all(fits), "{name}");
        }
        assert_ne!(names[0], names[1]);
        let identity = WalIdentity { system_identifier: 7, timeline: 2 };
        assert_eq!(WalIdentity::decode(&identity.encode()).unwrap(), identity);
        assert!(WalIdentity::decode(&[0; 11]).is_err());
    }
}
