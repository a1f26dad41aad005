//! The scratch server: started under a guard that ends it when this agent does, waited for, stopped.
use std::time::Duration;

use palinurus_repository::{Error, Result};

use super::programs::Programs;
use super::scratch::{Scratch, close};
use super::{Owner, blocking};
use crate::drill::Guarded;
use crate::engine::ProofOrder;
use crate::engine::postgresql::client::{Client, Mode};
use crate::engine::postgresql::config::Access;
use crate::engine::postgresql::lsn::Lsn;

const LOOK: Duration = Duration::from_millis(200);
/// What the machine lacks says nothing of the backup.
const OURS: [&str; 7] = [
    "No space left on device",
    "could not create shared memory",
    "could not map anonymous shared memory",
    "could not resize shared memory",
    "could not access file",
    "Permission denied",
    "unrecognized configuration parameter",
];

#[derive(Debug)]
pub(super) struct Server(Guarded);

/// How far the data goes.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) recovered_ms: u64,
    pub(super) position: u64,
    pub(super) told: String,
    pub(super) superuser: String,
}

impl Server {
    pub(super) async fn start(
        programs: &Programs,
        order: &ProofOrder,
        scratch: &Scratch,
        owner: Owner,
    ) -> Result<Self> {
        let data = order.data.clone();
        blocking(move || close(&data)).await?;
        let server = Guarded::start(&order.guard, owner, &scratch.log, |command| {
            command.arg(programs.path("postgres")).arg("-D").arg(&order.data);
            command.arg("-c").arg(format!("config_file={}", scratch.config.display()));
        })?;
        Ok(Self(server))
    }

    /// Waits until the server has recovered and takes part in nothing else any more.
    pub(super) async fn ready(&mut self, access: &Access) -> Result<Reached> {
        loop {
            if self.0.has_ended()? {
                return Err(self.why().await);
            }
            if let Ok(mut client) = Client::connect(access, Mode::Sql).await {
                let promoted = client.one("select pg_is_in_recovery()").await;
                if promoted.is_ok_and(|row| row.first().cloned().flatten().as_deref() == Some("f")) {
                    return reached(client).await;
                }
                client.end().await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A checkpoint, and no sessions.
    pub(super) async fn stop(mut self) -> Result<()> {
        match self.0.stop().await?.success() {
            true => Ok(()),
            false => Err(self.why().await),
        }
    }

    /// Why it ended, from its log.
    async fn why(&self) -> Error {
        let what = said(&self.0.said().await);
        match OURS.iter().any(|ours| what.contains(ours)) {
            true => Error::unavailable(format!("the scratch server cannot run here: {what}"))
                .with_hint("give drill.scratch room, or see drill.settings in docs/operations/drills.md"),
            false => Error::corrupt(format!("PostgreSQL does not start from the backup: {what}")),
        }
    }
}

/// The first of what ended it, with what comes behind each; without any, the last line.
fn said(log: &str) -> String {
    let fatal = |line: &&str| ["FATAL:", "PANIC:"].iter().any(|level| line.contains(level));
    let lines: Vec<&str> = log.lines().collect();
    let mut words: Vec<&str> = lines.iter().filter(|line| fatal(line)).copied().collect();
    words.extend(lines.iter().rfind(|line| line.starts_with("palinurus wal-get:")));
    if words.is_empty() {
        words.extend(lines.last());
    }
    words.truncate(4);
    let level = |line: &str| {
        let at = ["FATAL:", "PANIC:"].iter().filter_map(|level| line.find(level)).min().unwrap_or_default();
        line.get(at..).unwrap_or(line).trim().to_owned()
    };
    words.into_iter().map(level).collect::<Vec<_>>().join("; ")
}

async fn reached(mut client: Client) -> Result<Reached> {
    let row = client
        .one(
            "select coalesce((extract(epoch from pg_last_xact_replay_timestamp()) * 1000)::bigint, 0), \
             coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn()) - '0/0', \
             (select timeline_id from pg_control_checkpoint()), \
             (select rolname from pg_roles where rolsuper and rolcanlogin order by oid limit 1)",
        )
        .await?;
    client.end().await;
    let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    let number = |at: usize| text(at).parse::<u64>().unwrap_or_default();
    let superuser = text(3);
    if superuser.is_empty() {
        return Err(Error::invalid("no role of the restored cluster is a superuser that can log in")
            .with_hint("a drill reads all data as one"));
    }
    let position = number(1);
    Ok(Reached {
        recovered_ms: number(0),
        position,
        told: format!("{} on timeline {}", Lsn(position), text(2)),
        superuser,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_a_server_is_taken_from_its_log() {
        let log = "2026-01-01 00:00:00 UTC [7] LOG:  starting\npalinurus wal-get: a hole\n\
                   2026-01-01 00:00:01 UTC [7] FATAL:  could not restore file \"x\" from archive\n\
                   2026-01-01 00:00:01 UTC [7] LOG:  shutting down\n";
        assert_eq!(said(log), "FATAL:  could not restore file \"x\" from archive; palinurus wal-get: a hole");
        assert_eq!(said("one\ntwo\n"), "two");
        assert_eq!(said(""), "");
    }
}
