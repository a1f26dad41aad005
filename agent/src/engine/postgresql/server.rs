//! What must be true of a server before a backup of it begins, each with what to do when it is not.
use std::path::Path;

use palinurus_repository::{Error, ErrorKind, Result};

use super::blocking;
use super::client::{Client, Mode, Row};
use super::config::{Access, Archive};
use super::control::Control;
use super::lsn::check_segment_size;

/// Older ones have other functions, and no care any more.
const OLDEST: u32 = 13;
const NEWEST: u32 = 18;
/// Received and not applied.
const BEHIND_MAX: u64 = 64 << 20;
/// Segments of relations hold so many pages where nobody compiled it otherwise.
const SETTINGS: &str = "select current_setting('server_version_num'), pg_is_in_recovery(), \
     current_setting('wal_level'), current_setting('data_checksums'), current_setting('block_size'), \
     (select setting from pg_settings where name = 'segment_size'), \
     (select setting from pg_settings where name = 'wal_segment_size'), \
     current_setting('synchronous_standby_names'), current_setting('max_wal_senders'), \
     current_setting('max_replication_slots')";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) major: u32,
    pub(super) in_recovery: bool,
    wal_level: String,
    pub(super) checksums: bool,
    pub(super) page_size: u32,
    /// Pages in one file of a relation.
    pub(super) relation_pages: u32,
    pub(super) segment_size: u64,
    /// A commit may wait for us if we say what we have on disk.
    pub(super) synchronous: bool,
    senders: u32,
    slots: u32,
}

/// A server that can be backed up, with a session of each kind.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) server: Server,
    pub(super) system_identifier: u64,
    pub(super) timeline: u32,
    pub(super) sql: Client,
    /// None: its WAL is handed over, and nothing is streamed.
    pub(super) replication: Option<Client>,
}

impl Ready {
    pub(super) async fn end(self) {
        self.sql.end().await;
        if let Some(replication) = self.replication {
            replication.end().await;
        }
    }
}

/// Which server this is. A standby is told apart here; whether it could be backed up is not asked.
pub(super) async fn look(access: &Access) -> Result<(Server, Client)> {
    let root = access.config.root.clone();
    blocking(move || check_version_file(&root)).await?;
    let mut sql = Client::connect(access, Mode::Sql).await?;
    let row = sql.one(SETTINGS).await?;
    Ok((Server::parse(&row)?, sql))
}

/// Why a standby does not stand for its primary, if so. In its backup lies what it has applied.
pub(super) async fn behind(sql: &mut Client) -> Result<Option<String>> {
    let row = sql
        .one(
            "select exists (select from pg_stat_wal_receiver where pid is not null), \
             coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0)::bigint",
        )
        .await?;
    if text(&row, 0)? != "t" {
        return Ok(Some("its server is a standby that no WAL flows to".to_owned()));
    }
    // What is applied may come from elsewhere, and be more than was received.
    let bytes = text(&row, 1)?.parse::<u64>().unwrap_or_default();
    Ok((bytes > BEHIND_MAX).then(|| format!("its server is a standby that is {} MiB behind", bytes >> 20)))
}

/// Everything that a backup needs, proven as far as it can be without beginning one.
pub(super) async fn ready(access: &Access) -> Result<Ready> {
    let root = access.config.root.clone();
    let control = blocking(move || Control::read(&root)).await?;
    let (server, mut sql) = look(access).await?;
    // A standby ends no file of WAL, and hands none over.
    let streams = access.config.archive != Archive::Push || server.in_recovery;
    server.check(streams)?;
    server.check_rights(&mut sql, &access.config.user).await?;
    let (replication, (system_identifier, timeline)) = if streams {
        let mut replication = replicating(access).await?;
        let row = replication.one("IDENTIFY_SYSTEM").await?;
        (Some(replication), (number(&row, 0)?, number(&row, 1)? as u32))
    } else {
        (None, identity(&mut sql).await?)
    };
    if control.system_identifier != system_identifier {
        return Err(wrong_directory(access, control.system_identifier, system_identifier));
    }
    Ok(Ready { server, system_identifier, timeline, sql, replication })
}

/// Which cluster the primary is, and the timeline that it writes.
async fn identity(sql: &mut Client) -> Result<(u64, u32)> {
    let row = sql
        .one(
            "select (select system_identifier from pg_control_system()), pg_walfile_name(pg_current_wal_lsn()), \
             current_setting('archive_mode')",
        )
        .await?;
    if text(&row, 2)? == "off" {
        return Err(Error::invalid("archive_mode is off: the server hands no WAL over").with_hint(
            "set archive_mode = on and archive_command = 'palinurus-agent wal-push %p', and restart the server",
        ));
    }
    let timeline = text(&row, 1)?.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok());
    let timeline = timeline.ok_or_else(|| Error::corrupt("PostgreSQL names no file of its WAL"))?;
    Ok((number(&row, 0)?, timeline))
}

async fn replicating(access: &Access) -> Result<Client> {
    Client::connect(access, Mode::Replication).await.map_err(|error| {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        let user = &access.config.user;
        error.with_hint(format!(
            "alter role \"{user}\" replication, and let pg_hba.conf let it in for the database \"replication\""
        ))
    })
}

fn wrong_directory(access: &Access, held: u64, answers: u64) -> Error {
    Error::conflict(format!(
        "{} is the data directory of cluster {held}, and what answers at {} is cluster {answers}",
        access.config.root.display(),
        access.config.place(),
    ))
    .with_hint("engine.root and engine.host, engine.port must be those of one server")
}

impl Server {
    fn parse(row: &Row) -> Result<Self> {
        // The server compares without regard to case.
        let standbys = text(row, 7)?.to_ascii_lowercase();
        Ok(Self {
            major: (number(row, 0)? / 10_000) as u32,
            in_recovery: text(row, 1)? == "t",
            wal_level: text(row, 2)?.to_owned(),
            checksums: text(row, 3)? == "on",
            page_size: number(row, 4)? as u32,
            relation_pages: u32::try_from(number(row, 5)?).unwrap_or(u32::MAX).max(1),
            segment_size: check_segment_size(number(row, 6)?)?,
            synchronous: ["*", "palinurus"].iter().any(|name| standbys.contains(name)),
            senders: number(row, 8)? as u32,
            slots: number(row, 9)? as u32,
        })
    }

    fn check(&self, streams: bool) -> Result<()> {
        check_version(self.major)?;
        if self.wal_level == "minimal" {
            return Err(Error::invalid(
                "wal_level is minimal: the WAL says too little to make a backup whole",
            )
            .with_hint("set wal_level = replica in postgresql.conf and restart the server"));
        }
        if streams && (self.senders < 1 || self.slots < 1) {
            return Err(Error::invalid("the server sends its WAL to nobody").with_hint(
                "set max_wal_senders and max_replication_slots to 2 more than are used, and restart",
            ));
        }
        palinurus_repository::page::check_page_size(self.page_size)
    }

    async fn check_rights(&self, sql: &mut Client, user: &str) -> Result<()> {
        let (start, stop) = if self.major >= 15 {
            ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
        } else {
            ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
        };
        let may = |function| format!("has_function_privilege('{function}', 'execute')");
        let row = sql.one(&format!("select {} and {}", may(start), may(stop))).await?;
        if text(&row, 0)? == "t" {
            return Ok(());
        }
        Err(Error::denied(format!("user {user:?} may not begin and end backups")).with_hint(format!(
            "grant execute on function {start}, {stop} to \"{user}\", in database engine.database"
        )))
    }
}

/// What the directory says of itself, so that a wrong one is named as such before any server is asked.
fn check_version_file(root: &Path) -> Result<()> {
    let path = root.join("PG_VERSION");
    let text = std::fs::read_to_string(&path).map_err(|e| {
        let error = Error::io(format!("read {}", path.display()), e);
        match error.kind() {
            ErrorKind::NotFound => {
                error.with_hint("engine.root must be the data directory of a PostgreSQL cluster")
            }
            _ => error.with_hint("run the agent as root or as the user that owns the data directory"),
        }
    })?;
    // Before 10 the second number was the major one, too.
    let major = text.trim().split('.').next().and_then(|text| text.parse().ok());
    check_version(major.ok_or_else(|| Error::invalid(format!("{} says {:?}", path.display(), text.trim())))?)
}

fn check_version(major: u32) -> Result<()> {
    if major < OLDEST {
        return Err(Error::invalid(format!("PostgreSQL {major} is too old to be backed up")).with_hint(
            format!(
                "upgrade to {OLDEST} or newer; back up older ones as type \"files\" while they are stopped"
            ),
        ));
    }
    if major > NEWEST {
        tracing::warn!(
            major,
            newest = NEWEST,
            "this PostgreSQL is newer than any that this agent was tried with"
        );
    }
    Ok(())
}

pub(super) fn text(row: &Row, column: usize) -> Result<&str> {
    let value = row.get(column).and_then(Option::as_deref);
    value.ok_or_else(|| Error::corrupt(format!("PostgreSQL left out column {column} of an answer")))
}

fn number(row: &Row, column: usize) -> Result<u64> {
    let text = text(row, column)?;
    text.parse().map_err(|_| Error::corrupt(format!("PostgreSQL says {text:?} for a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changed: &[(usize, &str)]) -> Row {
        let mut row: Row = ["150018", "f", "replica", "on", "8192", "131072", "16777216", "", "10", "10"]
            .map(|text| Some(text.to_owned()))
            .to_vec();
        changed.iter().for_each(|(column, text)| row[*column] = Some((*text).to_owned()));
        row
    }

    #[test]
    fn what_cannot_be_backed_up_is_said_with_a_hint() {
        let server = Server::parse(&settings(&[])).unwrap();
        server.check(true).unwrap();
        assert_eq!((server.major, server.checksums, server.synchronous), (15, true, false));
        assert!(Server::parse(&settings(&[(7, "ANY 1 (*)")])).unwrap().synchronous);
        assert!(Server::parse(&settings(&[(7, "FIRST 1 (Palinurus)")])).unwrap().synchronous);
        for (column, value, word) in
            [(0, "120010", "13"), (2, "minimal", "wal_level"), (8, "0", "max_wal_senders"), (9, "0", "slots")]
        {
            let error = Server::parse(&settings(&[(column, value)])).unwrap().check(true).unwrap_err();
            assert!(error.hint().unwrap().contains(word), "{error:?}");
        }
        Server::parse(&settings(&[(8, "0")])).unwrap().check(false).unwrap();
        assert!(Server::parse(&settings(&[(6, "17")])).is_err());
        assert!(Server::parse(&Vec::new()).is_err());
    }
}
