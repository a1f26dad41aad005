//! A backup that is open in the server: the session that keeps it so, and the WAL that flows meanwhile.
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, Result, Timestamp};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::added::{self, WAL};
use super::blocking;
use super::broken::Broken;
use super::config::{Access, From};
use super::control::Control;
use super::copier::Copier;
use super::identity::Identity;
use super::judge::{Pages, Reading};
use super::list::{self, Tablespace};
use super::logs::WalIdentity;
use super::lsn::{Lsn, Segment};
use super::pushed::Pushes;
use super::receiver::{Receiver, Take, reserve};
use super::restored;
use super::server::{Ready, ready};
use super::session::{Session, begin};
use crate::durable;
use crate::engine::{FinishOrder, Span};
use crate::source::Tree;

#[derive(Debug)]
pub(super) struct Held {
    session: Session,
    receiver: Receiver,
    judge: Arc<Reading>,
    tablespaces: Vec<Tablespace>,
    first: Segment,
    system_identifier: u64,
    /// The server is a standby, which goes on following.
    follows: bool,
    /// Dropped, it ends both.
    _cancel: DropGuard,
}

impl Held {
    /// With the size of the cluster's pages, and the tablespaces that there were when it had begun.
    pub(super) async fn begin(
        access: &Access,
        identity: &Identity,
        pushes: &Arc<Pushes>,
        operation: &str,
        added: &Path,
    ) -> Result<(Self, u32, HashSet<String>)> {
        let directory = added.to_owned();
        blocking(move || added::prepare(&directory)).await?;
        let Ready { server, system_identifier, timeline, mut sql, mut replication } = ready(access).await?;
        if server.in_recovery && access.config.from == From::Primary {
            return Err(Error::conflict("the server became a standby").with_hint("start the backup again"));
        }
        identity.check(system_identifier)?;
        let hold = pushes.hold();
        // Unique while it lasts, and it lasts no longer than this session.
        let slot = replication.as_ref().map(|it| format!("palinurus_{}", it.backend)).unwrap_or_default();
        if let Some(replication) = &mut replication {
            reserve(replication, &slot).await?;
        }
        let start = begin(&mut sql, server.major, operation).await?;
        let root = access.config.root.clone();
        let (control, known) =
            blocking(move || Ok((Control::read(&root)?, list::tablespaces(&root)?))).await?;
        if server.in_recovery && control.timeline != timeline {
            return Err(Error::conflict(format!(
                "the standby has come to timeline {timeline} only just now"
            ))
            .with_hint("start the backup again after the primary's next checkpoint"));
        }
        check_directory(access, &control, start, timeline)?;
        let cancel = CancellationToken::new();
        let broken = Arc::new(Broken::new(cancel.clone()));
        let first = Segment::of(timeline, start, server.segment_size);
        let take = Take {
            directory: added.join(WAL),
            first,
            system_identifier,
            slot,
            tells: !server.synchronous,
            limit: access.config.wal_spool_mib << 20,
        };
        let (of, ends) = (Arc::clone(&broken), cancel.clone());
        let receiver = match replication {
            Some(replication) => Receiver::start(replication, take, of, ends).await?,
            None => Receiver::copy(Copier { pushes: Arc::clone(pushes), hold, take }, of, ends),
        };
        let session = Session::hold(sql, server.major, Arc::clone(&broken), cancel.clone());
        identity.keep(system_identifier)?;
        let (size, in_a_file) = (server.page_size, server.relation_pages);
        let pages = server.checksums.then_some(Pages { size, in_a_file, start });
        let judge = Arc::new(Reading { broken, pages });
        let held = Self {
            session,
            receiver,
            judge,
            tablespaces: Vec::new(),
            first,
            system_identifier,
            follows: server.in_recovery,
            _cancel: cancel.drop_guard(),
        };
        Ok((held, server.page_size, known))
    }

    pub(super) fn with(self, tablespaces: Vec<Tablespace>) -> Self {
        Self { tablespaces, ..self }
    }

    pub(super) fn tree(&self, root: &Path) -> Result<Tree> {
        let tree = Tree::open(root, None)?.judged_by(self.judge.clone());
        self.tablespaces.iter().try_fold(tree, |tree, space| tree.join(&space.path, &space.target))
    }

    /// All has been read: the backup ends in the server, and what belongs to it is listed.
    pub(super) async fn finish(mut self, access: &Access, order: FinishOrder, now: Timestamp) -> Result<()> {
        let FinishOrder { list, added, span, .. } = order;
        self.judge.broken.check()?;
        let (root, directory) = (access.config.root.clone(), added.clone());
        blocking(move || added::keep_control(&root, &directory)).await?;
        let ended = self.session.stop().await?;
        self.judge.broken.check()?;
        check_tablespaces(&self.tablespaces, &ended.tablespaces)?;
        if self.follows {
            self.check_timeline(access).await?;
        }
        let waited = tokio::time::timeout(access.config.wal_timeout, self.receiver.until(ended.stop)).await;
        let wal = waited.unwrap_or_else(|_| {
            Err(Error::unavailable(format!("the server has not sent its WAL up to {}", ended.stop))
                .with_hint("see what keeps its WAL sender, or raise engine.wal_timeout"))
        })?;
        // The end lies before `stop`, which may be the first byte of a segment that nobody needs.
        let last = Segment::of(self.first.timeline, Lsn(ended.stop.0.saturating_sub(1)), self.first.size);
        added::check_whole(&wal, self.first, last)?;
        let of = WalIdentity { system_identifier: self.system_identifier, timeline: self.first.timeline };
        let held = Span {
            identity: of.encode(),
            start: self.first.start().0,
            stop: ended.stop.0,
            follows: self.follows,
        };
        let held = serde_json::to_vec(&held).map_err(|e| Error::internal("a span").with_source(e))?;
        let root = access.config.root.clone();
        blocking(move || {
            durable::write(&span, &held)?;
            added::finish(&root, &added, &list, &ended, &wal, now)
        })
        .await
    }

    /// A standby may have followed its primary onto another timeline: then the pages are not of one history.
    async fn check_timeline(&self, access: &Access) -> Result<()> {
        let ready = ready(access).await?;
        let timeline = ready.timeline;
        ready.end().await;
        if timeline == self.first.timeline {
            return Ok(());
        }
        let begun = self.first.timeline;
        Err(Error::conflict(format!("the standby went from timeline {begun} to {timeline} under the backup"))
            .with_hint("start the backup again"))
    }

    /// Ends whatever is open; the server aborts a backup that was not ended.
    pub(super) async fn close(self) {
        drop(self._cancel);
        self.session.closed().await;
        self.receiver.closed().await;
    }
}

/// The server noted which there are while the backup began, and they were looked at when it had: one that was made in between
/// would keep the restored server from its replay.
fn check_tablespaces(listed: &[Tablespace], map: &str) -> Result<()> {
    let noted: HashSet<String> = restored::parse(map.as_bytes())?.into_iter().map(|(oid, _)| oid).collect();
    let is_one = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    match listed.iter().map(Tablespace::name).find(|name| is_one(name) && !noted.contains(name.as_ref())) {
        Some(name) => Err(Error::conflict(format!("tablespace {name} was made just when the backup began"))
            .with_hint("start the backup again")),
        None => Ok(()),
    }
}

/// The checkpoint that began the backup is in the control file of the server's own directory, and of no other.
fn check_directory(access: &Access, control: &Control, start: Lsn, timeline: u32) -> Result<()> {
    if control.checkpoint >= start && control.timeline == timeline {
        return Ok(());
    }
    let root = access.config.root.display();
    Err(Error::conflict(format!(
        "{root} is not the directory of the server at {}: the checkpoint at {start} that began the backup is not in it",
        access.config.place()
    ))
    .with_hint("a copy, a standby, or another mount: engine.root must be what `show data_directory` says"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tablespace_that_is_copied_is_in_the_servers_own_list() {
        let listed = ["1", "22", "lost+found"]
            .map(|name| Tablespace { path: format!("pg_tblspc/{name}").into_bytes(), target: "/t".into() });
        check_tablespaces(&listed, "22 /t\n1 /u\n3 /dropped\n").unwrap();
        let error = check_tablespaces(&listed, "1 /t\n").unwrap_err();
        assert!(error.what().contains("tablespace 22") && error.hint().is_some(), "{error:?}");
        check_tablespaces(&[], "").unwrap();
    }
}
