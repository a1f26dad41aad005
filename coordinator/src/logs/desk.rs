//! One service's logs, under this leader: decisions one after the other, and what writers tell, which is kept in memory.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};

use palinurus_proto::logs::{chain_to_wire, lineage_to_wire};
use palinurus_proto::v1;
use palinurus_repository::log::{Anchor, Coverage, Lineage, Position, Section};
use palinurus_repository::{Entropy, Epoch, Error, LineageId, Repository, Result, Timestamp};
use tokio::sync::{Mutex, Notify};

use super::decide::{self, Opening, Step};
use crate::schedule::Archive;

/// A log has no more forks at once that nobody has heard of.
const STEPS_MAX: usize = 200;
const GAPS_KEPT: usize = 100;
/// Below it, a log that is behind is on its way.
const FAR_BEHIND_MS: u64 = 60_000;
/// A writer that is handed a file of an ancestor compares it with what is stored. One that far back nobody hands over.
const ANCESTORS_TOLD: usize = 8;

#[derive(Debug)]
pub(crate) struct Desk {
    repository: Arc<Repository>,
    epoch: Epoch,
    entropy: Arc<dyn Entropy>,
    deciding: Mutex<()>,
    told: SyncMutex<Told>,
    /// Told something that a service's health may follow from.
    changed: Notify,
    /// The service is off.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Told {
    /// At this moment all that the server has written is stored.
    whole: bool,
    /// Until when it was, as far as is known.
    good: Timestamp,
    /// Since then a full backup is wanted, and why.
    wanted: Option<(Timestamp, String)>,
    /// By node.
    writers: BTreeMap<String, Writer>,
    gaps: VecDeque<v1::LogGap>,
    /// By node: why it has no log to open.
    unopened: BTreeMap<String, v1::Failure>,
    streams: u64,
    /// Whether a backup leads along them is known.
    looked: BTreeSet<LineageId>,
}

#[derive(Debug, Default)]
struct Writer {
    /// Of its place.
    node_epoch: u64,
    stream: u64,
    view: v1::LogWriterView,
}

/// What a writer is given. In the ledger already.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) epoch: u32,
    pub(crate) until: Option<Position>,
    ancestors: Vec<Section>,
    /// Why a full backup is wanted now.
    pub(crate) backup: Option<String>,
}

impl Told {
    /// What that stream says still counts.
    fn writing(&mut self, stream: u64, node: &str) -> Option<&mut v1::LogWriterView> {
        let writer = self.writers.get_mut(node).filter(|writer| writer.stream == stream)?;
        Some(&mut writer.view)
    }

    /// What was well was so until now; whether it is, is to be told anew.
    fn interrupted(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.whole) {
            self.good = self.good.max(now);
        }
    }
}

/// What of it changes seldom.
fn coarse(view: &v1::LogWriterView) -> (bool, bool, bool) {
    let fails = view.status.as_ref().is_some_and(|status| status.failure.is_some());
    (view.status.is_some(), fails, view.lag_ms >= FAR_BEHIND_MS)
}

impl Granted {
    pub(crate) fn to_wire(&self, repository: &str) -> v1::LogGrant {
        v1::LogGrant {
            lineage: Some(lineage_to_wire(&self.lineage)),
            repository: repository.to_owned(),
            until: self.until.unwrap_or_default(),
            ancestors: chain_to_wire(&self.ancestors),
        }
    }
}

impl Desk {
    /// `since`: when it begins to listen.
    pub(crate) fn new(
        repository: Arc<Repository>,
        epoch: Epoch,
        entropy: Arc<dyn Entropy>,
        since: Timestamp,
    ) -> Self {
        let told = SyncMutex::new(Told { good: since, ..Told::default() });
        let (deciding, changed) = (Mutex::default(), Notify::new());
        let closed = AtomicBool::default();
        Self { repository, epoch, entropy, deciding, told, changed, closed }
    }

    /// Closed: whoever writes is told to stop.
    pub(crate) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides until there is something to write under, and puts each decision into the ledger before the next.
    pub(crate) async fn open(&self, opening: &Opening) -> Result<Granted> {
        let _one = self.deciding.lock().await;
        self.repository.refresh().await?;
        let mut backup = None;
        for _ in 0..STEPS_MAX {
            let lineages = self.repository.read(|state| state.lineages().clone()).await;
            let covered = match decide::known(opening, &lineages) {
                Some((lineage, _)) => self.covered(lineage).await?,
                None => Coverage::default(),
            };
            match decide::decide(opening, &lineages, &covered)? {
                Step::Keep(lineage) => return self.granted(lineage, None, backup).await,
                Step::Grant { lineage, until: None, .. } if self.is_rival(opening, &lineages[&lineage]) => {
                    return Err(Error::conflict("another node writes this very log").with_hint(
                        "two servers of one history: shut one down, or make it a service of its own",
                    ));
                }
                Step::Begin { parent, from, identity, lost } => {
                    lost.into_iter().for_each(|gap| self.lost(gap));
                    let new = opening.lineage(parent, from, identity);
                    let new = self.repository.add_lineage(self.epoch, new, &*self.entropy).await?;
                    tracing::info!(lineage = %new.id, from, "a log has a new history");
                    backup = Some(format!("the log has a new history, {}", new.id));
                }
                Step::Grant { lineage, from, until, lost } => {
                    if let Some((from, to)) = lost.last() {
                        backup = Some(format!("the log from {from:x} to {to:x} is lost"));
                    }
                    lost.into_iter().for_each(|gap| self.lost(gap));
                    self.repository.grant_log(self.epoch, lineage, &opening.node, from).await?;
                    return self.granted(lineage, until, backup).await;
                }
            }
        }
        Err(Error::internal(format!("no end of the parents of the log of {}", opening.node)))
    }

    /// The last writer is another node that gives it at this moment, and whose place is not of an earlier node epoch.
    fn is_rival(&self, opening: &Opening, lineage: &Lineage) -> bool {
        let last = lineage.last_grant().filter(|last| last.node != opening.node);
        let told = self.told();
        let writer = last.and_then(|last| told.writers.get(&last.node));
        writer.is_some_and(|Writer { node_epoch, view, .. }| {
            view.streaming && view.lineage == lineage.id.as_bytes() && *node_epoch >= opening.node_epoch
        })
    }

    /// The next grant of every lineage that the node has written: whatever its old agent puts from here on is not read.
    pub(crate) async fn fence(&self, node: &str, next: &str) -> Result<usize> {
        let _one = self.deciding.lock().await;
        self.repository.refresh().await?;
        let lineages = self.repository.read(|state| state.lineages().clone()).await;
        let mut fenced = 0;
        for lineage in lineages.values() {
            if lineage.last_grant().is_none_or(|last| last.node != node) {
                continue;
            }
            let (from, lost) = decide::end(lineage, &self.covered(lineage).await?);
            lost.into_iter().for_each(|gap| self.lost(gap));
            self.repository.grant_log(self.epoch, lineage.id, next, from).await?;
            fenced += 1;
        }
        Ok(fenced)
    }

    /// Whether it is the newest of its lineage, and of the key epoch in force.
    pub(crate) async fn stands(&self, granted: &Granted) -> Standing {
        if self.closed.load(Ordering::Relaxed) {
            return Standing::Closed;
        }
        let id = granted.lineage.id;
        let (lineage, key_epoch) =
            self.repository.read(|state| (state.lineage(id).cloned(), state.key_epoch())).await;
        match lineage.as_ref().and_then(|lineage| lineage.last_grant()) {
            Some(last) if last.epoch != granted.epoch => Standing::Over(last.node.clone()),
            Some(last) if last.key_epoch == key_epoch => Standing::Good,
            _ => Standing::Outdated,
        }
    }

    /// Reads what others, who are no leaders, have written into the ledger: a fresh key epoch.
    pub(crate) async fn refresh(&self) -> Result<()> {
        self.repository.refresh().await
    }

    async fn covered(&self, lineage: &Lineage) -> Result<Coverage> {
        self.repository.logs().coverage(lineage, lineage.begun()).await
    }

    async fn granted(
        &self,
        lineage: LineageId,
        until: Option<Position>,
        backup: Option<String>,
    ) -> Result<Granted> {
        let lineage = self.repository.lineage(lineage).await?;
        let epoch = lineage.last_grant().map(|grant| grant.epoch);
        let epoch = epoch.ok_or_else(|| Error::internal("a lineage without the grant that was made"))?;
        let mut ancestors: Vec<Section> = Vec::new();
        let mut child = Arc::clone(&lineage);
        while let Some(parent) = child.parent.filter(|_| ancestors.len() < ANCESTORS_TOLD) {
            let parent = self.repository.lineage(parent).await?;
            ancestors.insert(0, Section { lineage: Lineage::clone(&parent), to: Some(child.from) });
            child = parent;
        }
        Ok(Granted { lineage, epoch, until, ancestors, backup })
    }

    fn lost(&self, (from, to): (Position, Position)) {
        tracing::warn!(from, to, "a part of the log is lost");
        let gaps = &mut self.told().gaps;
        if gaps.len() == GAPS_KEPT {
            gaps.pop_front();
        }
        gaps.push_back(v1::LogGap { from, to });
    }

    /// The number of a stream that begins.
    pub(crate) fn begins(&self) -> u64 {
        let streams = &mut self.told().streams;
        *streams += 1;
        *streams
    }

    /// A writer's stream has begun, or has another grant.
    pub(crate) fn writes(&self, stream: u64, opening: &Opening, granted: &Granted, now: Timestamp) {
        let mut told = self.told();
        // How far this one is, it is yet to tell.
        told.interrupted(now);
        let writer = told.writers.entry(opening.node.clone()).or_default();
        let lineage = granted.lineage.id.as_bytes();
        let view = v1::LogWriterView {
            node: opening.node.clone(),
            lineage: lineage.to_vec().into(),
            epoch: granted.epoch,
            streaming: true,
            // How far another history was says nothing of this one.
            status: writer.view.status.take().filter(|_| writer.view.lineage == lineage[..]),
            told_ms: now.0,
            ..Default::default()
        };
        *writer = Writer { node_epoch: opening.node_epoch, stream, view };
        drop(told);
        self.changed.notify_one();
    }

    pub(crate) fn tells(&self, stream: u64, node: &str, status: v1::LogStatus, now: Timestamp) {
        let mut told = self.told();
        let Some(view) = told.writing(stream, node) else { return };
        let before = coarse(view);
        view.told_ms = now.0;
        view.lag_bytes = status.server_end.saturating_sub(status.stored);
        view.lag_ms = match view.lag_bytes {
            0 => 0,
            _ => status.server_ms.saturating_sub(status.stored_ms),
        };
        let well = status.failure.is_none();
        let whole = well && view.lag_bytes == 0;
        // Before anything is stored, or while something fails, it says nothing of when.
        let stored = (well && status.stored_ms > 0).then(|| Timestamp(now.0.saturating_sub(view.lag_ms)));
        view.status = Some(status);
        let changed = before != coarse(view);
        told.interrupted(now);
        told.whole = whole;
        told.good = told.good.max(if whole { now } else { stored.unwrap_or_default() });
        drop(told);
        if changed {
            self.changed.notify_one();
        }
    }

    pub(crate) fn ends(&self, stream: u64, node: &str, now: Timestamp) {
        let mut told = self.told();
        // Not when another stream of the node has taken its place: an old connection may end long after that.
        let Some(view) = told.writing(stream, node) else { return };
        view.streaming = false;
        told.interrupted(now);
        drop(told);
        self.changed.notify_one();
    }

    /// A full backup is wanted. Wanted again, it has been since the first time.
    pub(crate) fn wants(&self, why: &str, now: Timestamp) {
        self.told().wanted.get_or_insert_with(|| (now, why.to_owned()));
        self.changed.notify_one();
    }

    /// For the service's health; `newest` is when the newest backup that is whole began.
    pub(crate) fn archive(&self, newest: Option<Timestamp>) -> Archive {
        let (writer, failures) = (self.writer(), self.failures());
        let mut told = self.told();
        let came =
            told.wanted.as_ref().is_some_and(|(since, _)| newest.is_some_and(|newest| newest >= *since));
        if came {
            told.wanted = None;
        }
        Archive { whole: told.whole, good: told.good, writer, failures, wanted: told.wanted.clone() }
    }

    /// Until something is told that a service's health may follow from, since this was last asked.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Who writes now, or wrote last: with what it told, and what was lost under this leader.
    pub(crate) fn writer(&self) -> Option<v1::LogWriterView> {
        let told = self.told();
        let views = told.writers.values().map(|writer| &writer.view);
        let newest = views.max_by_key(|view| (view.streaming, view.told_ms))?;
        Some(v1::LogWriterView { gaps: told.gaps.iter().copied().collect(), ..newest.clone() })
    }

    pub(crate) fn unopened(&self, node: &str, failure: Option<&v1::Failure>) {
        let unopened = &mut self.told().unopened;
        let was = match failure {
            Some(failure) => unopened.insert(node.to_owned(), failure.clone()),
            None => unopened.remove(node),
        };
        if was.is_some() != failure.is_some() {
            self.changed.notify_one();
        }
    }

    pub(crate) fn failures(&self) -> Vec<v1::LogFailure> {
        let told = self.told();
        let all = told.unopened.iter();
        all.map(|(node, failure)| v1::LogFailure { node: node.clone(), failure: Some(failure.clone()) })
            .collect()
    }

    /// What is written at this moment.
    pub(crate) fn written(&self) -> BTreeSet<LineageId> {
        let told = self.told();
        let views = told.writers.values().map(|writer| &writer.view).filter(|view| view.streaming);
        views.filter_map(|view| LineageId::from_slice(&view.lineage).ok()).collect()
    }

    /// Why a full backup is wanted: also when an earlier leader wanted it, and it never came to be. Looked at once.
    pub(crate) async fn wish(&self, granted: &Granted) -> Result<Option<String>> {
        let lineage = &granted.lineage;
        if granted.until.is_some() || self.told().looked.contains(&lineage.id) {
            return Ok(granted.backup.clone());
        }
        let leads = granted.backup.is_some() || self.is_led_to(lineage).await?;
        self.told().looked.insert(lineage.id);
        let why = (!leads).then(|| format!("no backup leads to what is written of {} now", lineage.id));
        Ok(granted.backup.clone().or(why))
    }

    /// From the newest backup on it, its log has no hole.
    async fn is_led_to(&self, lineage: &Lineage) -> Result<bool> {
        let anchors = self.repository.read(Anchor::all).await;
        let stops = anchors.iter().filter(|it| it.span.lineage == lineage.id).map(|it| it.span.stop);
        let Some(stop) = stops.max() else { return Ok(false) };
        let covered = self.repository.logs().coverage(lineage, stop).await?;
        Ok(covered.covers(stop, lineage.begun()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Good,
    /// That node has it now.
    Over(String),
    /// A key epoch has begun since: what is put from now on needs a fresh grant.
    Outdated,
    /// The service is off.
    Closed,
}

#[cfg(test)]
mod tests;
