//! The WAL as a stream of logs: which history this server writes, and the slot by which it keeps what is not stored.
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::{Error, ErrorKind, Result};

use super::blocking;
use super::client::{Client, Mode};
use super::config::{Access, Archive};
use super::identity::Identity;
use super::lsn::{Lsn, Segment};
use super::pushed::{self, Looked, Pushes};
use super::records::Scanner;
use super::recovery;
use super::server::{look, ready, text};
use super::stream::WalStream;
use super::timelines;
use super::{standby, start};
use crate::engine::{History, LogFile, LogStream, Logs, Plan, Pushed, Target, Wanted};

#[derive(Debug)]
pub(super) struct Wal {
    pub(super) access: Access,
    pub(super) identity: Arc<Identity>,
    pub(super) slot: String,
    pub(super) pushes: Arc<Pushes>,
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
        self.access.config.archive != Archive::Off
    }

    fn interval(&self) -> Duration {
        self.access.config.archive_interval
    }

    async fn look(&self) -> Result<Option<History>> {
        let root = self.access.config.root.clone();
        self.pushes.look(None);
        if !self.is_stored() || blocking(move || super::is_empty(&root)).await? {
            return Ok(None);
        }
        let root = self.access.config.root.clone();
        // Before all else: of a server that is started anew meanwhile nothing is known.
        let run = blocking(move || pushed::run(&root)).await?.unwrap_or_default();
        let (server, mut sql) = look(&self.access).await?;
        let streams = self.access.config.archive == Archive::Stream;
        if server.in_recovery || !streams {
            self.let_go(&mut sql).await?;
        }
        sql.end().await;
        if server.in_recovery {
            return Ok(None);
        }
        let mut ready = ready(&self.access).await?;
        if streams && ready.server.synchronous {
            return Err(Error::conflict("synchronous_standby_names would make commits wait for the archive")
                .with_hint("name the standbys in it one by one, without \"*\" and without \"palinurus\""));
        }
        self.identity.check(ready.system_identifier)?;
        let kept = match &mut ready.replication {
            Some(replication) => Some(self.reserve(&mut ready.sql, replication).await?),
            None => None,
        };
        let row = ready.sql.one("select pg_current_wal_flush_lsn()").await?;
        let end: Lsn = text(&row, 0)?.parse()?;
        let (system_identifier, timeline) = (ready.system_identifier, ready.timeline);
        let account = match &mut ready.replication {
            _ if timeline == 1 => Vec::new(),
            Some(replication) => {
                let row = replication.one(&format!("TIMELINE_HISTORY {timeline}")).await?;
                text(&row, 1)?.as_bytes().to_vec()
            }
            None => self.account(timeline).await?,
        };
        let segment_size = ready.server.segment_size;
        ready.end().await;
        self.identity.keep(system_identifier)?;
        let identity = WalIdentity { system_identifier, timeline };
        let parents = timelines::parents(system_identifier, &account)?;
        let looked = Looked { run, identity, parents: parents.clone(), segment_size };
        self.pushes.look(Some(looked.clone()));
        let pushes = Arc::clone(&self.pushes);
        let position = match kept {
            Some(kept) => Segment::of(timeline, kept, segment_size).start().0,
            None => blocking(move || pushes.oldest(&looked, end)).await?,
        };
        Ok(Some(History {
            identity: identity.encode(),
            parents,
            account,
            segment: segment_size,
            position,
            end: end.0,
        }))
    }

    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>> {
        if self.access.config.archive == Archive::Push {
            return self.pushes.open(WalIdentity::decode(identity)?, position);
        }
        let WalIdentity { system_identifier, timeline } = WalIdentity::decode(identity)?;
        let (server, sql) = look(&self.access).await?;
        sql.end().await;
        let mut replication = Client::connect(&self.access, Mode::Replication).await?;
        let first = Segment::of(timeline, Lsn(position), server.segment_size);
        let (slot, at) = (&self.slot, first.start());
        let command = format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {at} TIMELINE {timeline}");
        let more = replication.start_copy(&command).await.map_err(|error| match error.kind() {
            ErrorKind::Conflict => error.with_hint(format!(
                "see active_pid in pg_replication_slots: nobody but this agent may read from slot {slot:?}"
            )),
            _ => error,
        })?;
        Ok(Box::new(WalStream::new(replication, first, system_identifier, more)))
    }

    fn wanted(&self, name: &str, plan: &Plan) -> Wanted {
        recovery::wanted(name, plan)
    }

    fn following(&self, name: &str, plan: &Plan) -> Vec<String> {
        recovery::following(name, plan)
    }

    fn last_record(&self, from: u64, len: u64, bytes: &[u8]) -> Option<u64> {
        let mut scanner = Scanner::new(from, len);
        scanner.feed(bytes, &mut Vec::new());
        scanner.last()
    }

    async fn prepare(&self, plan: &Plan, command: &[String]) -> Result<()> {
        let config = &self.access.config;
        let (root, plan, command) = (config.root.clone(), plan.clone(), command.to_vec());
        if plan.target == Target::Follow {
            let primary = config.primary()?.to_owned();
            return blocking(move || standby::prepare(&root, &primary, &plan, &command)).await;
        }
        blocking(move || recovery::prepare(&root, &plan, &command)).await
    }

    fn recovers(&self) -> bool {
        start::recovers(&self.access.config.root)
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        match plan.target {
            Target::Follow => self.access.config.primary().map(|_| ()),
            _ => Ok(()),
        }
    }

    async fn pushed(&self, file: &LogFile) -> Result<Pushed> {
        if !self.is_stored() {
            return Err(Error::conflict("this agent stores no WAL")
                .with_hint("set engine.archive = \"push\" in its settings, and restart it"));
        }
        let (pushes, file) = (Arc::clone(&self.pushes), file.clone());
        let pushed = blocking(move || pushes.pushed(&file)).await?;
        if let Pushed::Bytes { to, .. } = pushed {
            self.pushes.copied(to).await;
        }
        Ok(pushed)
    }

    fn given(&self, name: &str) -> Option<blake3::Hash> {
        self.pushes.given(name)
    }

    fn content(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.pushes.content(name)
    }

    fn user(&self) -> Option<(u32, u32)> {
        let found = self.access.config.root.metadata().ok()?;
        Some((found.uid(), found.gid()))
    }
}

impl Wal {
    /// As `pg_wal` has it.
    async fn account(&self, timeline: u32) -> Result<Vec<u8>> {
        let (pushes, name) = (Arc::clone(&self.pushes), timelines::name(timeline));
        let account = blocking(move || Ok((pushes.content(&name)?, name))).await?;
        account.0.ok_or_else(|| Error::not_found(format!("pg_wal has no {}", account.1)))
    }

    /// A slot would keep WAL for us for ever: on a standby that was a primary, or since files are handed over.
    async fn let_go(&self, sql: &mut Client) -> Result<()> {
        let slot = &self.slot;
        let left = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}' and not active"
        );
        if !sql.query(&left).await?.is_empty() {
            tracing::warn!(slot, "nothing is streamed from this server any more: its slot is dropped");
        }
        Ok(())
    }

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
