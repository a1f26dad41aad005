//! Stores a lineage's bytes under one grant, piece by piece.
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use palinurus_proto::v1;
use palinurus_repository::log::{Grant, Lineage, LogReader, LogStore, Piece, Section, seal};
use palinurus_repository::{Error, ErrorKind, Result, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::far::Order;
use super::filling::Filling;
use super::{Held, RETRY_MAX, RETRY_MIN};
use crate::engine::{History, Logs, Next, ServerEnd};
use crate::host::Host;
use crate::session::Backoff;

/// A database takes a reader that says nothing for a minute for dead.
const SAY_SO: Duration = Duration::from_secs(10);

/// What is stored already is compared with what the database sends, but never more of it than is held at once.
const COMPARED_MAX: u64 = 16 << 20;

/// Why nothing more is stored under this grant, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is another order.
    Ordered,
    /// The database let go of what comes next, and only a new look says what it still has.
    Gone,
    /// All of it is stored, or a gap is told: the next order says how it goes on.
    Waits,
    /// The database writes another history now.
    Ended,
}

/// What has been stored: up to where, and when that was the database's end.
type Stored = (u64, Timestamp);

pub(super) struct Append<'a> {
    host: &'a Arc<Host>,
    status: &'a watch::Sender<v1::LogStatus>,
    held: &'a mut Option<Held>,
    store: LogStore,
    lineage: Lineage,
    grant: Grant,
    until: Option<u64>,
    /// The history is the one that the database writes now, and no parent of it.
    present: bool,
    oldest: u64,
}

impl<'a> Append<'a> {
    pub(super) async fn new(
        host: &'a Arc<Host>,
        history: &History,
        status: &'a watch::Sender<v1::LogStatus>,
        held: &'a mut Option<Held>,
        order: v1::LogGrant,
    ) -> Result<Self> {
        let wire = order.lineage.as_ref().ok_or_else(|| Error::corrupt("a grant without a lineage"))?;
        let lineage = palinurus_proto::logs::lineage(wire)?;
        let grant = lineage.last_grant().cloned();
        let grant = grant.ok_or_else(|| Error::corrupt("a lineage without a grant"))?;
        if grant.node != host.config.node {
            return Err(Error::fenced(format!("the log is granted to {}", grant.node)));
        }
        let unlocked = host.unlock(&order.repository).await?;
        let number = grant.key_epoch.map_or(0, |epoch| epoch.number);
        host.key_epochs.observe(unlocked.keys.repository(), number)?;
        let store = LogStore::new(unlocked.storage, unlocked.keys);
        let key_epochs: Vec<_> = lineage.grants.iter().filter_map(|grant| grant.key_epoch).collect();
        store.learn(key_epochs).await?;
        let present = lineage.identity == history.identity;
        if present && !history.account.is_empty() {
            store.put_history(&lineage, &history.account).await?;
        }
        let same = |held: &Held| held.lineage == lineage.id && held.epoch == grant.epoch;
        if !held.as_ref().is_some_and(same) {
            *held = Some(Held {
                lineage: lineage.id,
                identity: lineage.identity.clone(),
                epoch: grant.epoch,
                stored: grant.from,
            });
        }
        if present {
            host.writes.send_replace(Some((lineage.identity.clone(), lineage.id)));
        }
        let until = Some(order.until).filter(|until| *until > 0);
        tracing::info!(lineage = %lineage.id, epoch = grant.epoch, from = grant.from, "storing the log");
        Ok(Self { host, status, held, store, lineage, grant, until, present, oldest: history.position })
    }

    fn stored(&self) -> u64 {
        self.held.as_ref().map_or(self.grant.from, |held| held.stored)
    }

    pub(super) async fn run(
        &mut self,
        logs: &dyn Logs,
        orders: &mut watch::Receiver<Option<Order>>,
    ) -> Result<End> {
        let from = self.stored();
        self.status.send_modify(|status| {
            *status = v1::LogStatus { stored: from, received: from, ..v1::LogStatus::default() };
        });
        if self.until.is_some_and(|until| from >= until) {
            return Ok(End::Waits);
        }
        let segment = u64::from(self.lineage.segment);
        let own = from - from % segment;
        // At a segment's start two histories would join unseen: the one before it is compared, where the database has it.
        let mut start = if own == from { own.saturating_sub(segment) } else { own };
        let mut before = self.before(start, from).await?;
        if before.1.is_empty() {
            start = own;
        }
        let mut stream = logs.open(&self.lineage.identity, start).await?;
        let mut filling = Filling::new(from, Timestamp(0));
        let mut position = start;
        let mut under_way: Option<BoxFuture<'static, Result<Stored>>> = None;
        let mut ended = false;
        let mut say = tokio::time::interval(SAY_SO);
        say.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = ended || self.until == Some(filling.to());
            let due = filling.since.map(|since| since + logs.interval());
            let now = due.is_some_and(|due| due <= Instant::now()) || filling.is_full() || done;
            if under_way.is_none() && !filling.bytes.is_empty() && now {
                under_way = Some(self.put(filling.take()));
            }
            if done && under_way.is_none() {
                return Ok(if self.present && ended { End::Ended } else { End::Waits });
            }
            let (idle, wants) = (under_way.is_none(), !done && !filling.is_full());
            let putting = async {
                match under_way.as_mut() {
                    Some(put) => put.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = orders.changed() => {
                    changed.map_err(|_| Error::internal("nobody gives grants any more"))?;
                    if !self.is_this(orders.borrow_and_update().as_ref()) {
                        // Whoever looks for the order must see it as new.
                        orders.mark_changed();
                        return Ok(End::Ordered);
                    }
                }
                stored = putting => {
                    let stored = stored?;
                    under_way = None;
                    self.advance(stored, &filling);
                    stream.release(stored.0).await?;
                }
                // Never back to before what the slot keeps: it would look lost.
                _ = say.tick(), if position >= own => stream.release(self.stored()).await?,
                () = at(due), if idle => {}
                next = stream.next(), if wants => match next? {
                    Next::Bytes { bytes, marks, server } => {
                        let end = position + bytes.len() as u64;
                        let own = self.compare(&mut before, position, &bytes)?;
                        let own = self.until.map_or(own, |until| &own[..own.len().min((until.max(filling.to()) - filling.to()) as usize)]);
                        if !filling.push(own, Instant::now()) {
                            return Err(Error::corrupt(format!("the database sends {} bytes at once", own.len())));
                        }
                        position = end;
                        filling.mark(marks);
                        self.heard(&mut filling, server);
                    }
                    Next::Quiet { server, asks } => {
                        self.heard(&mut filling, server);
                        if asks && position >= own {
                            stream.release(self.stored()).await?;
                        }
                    }
                    Next::Ended => ended = true,
                    Next::Gone(_) if position < own => {
                        stream = logs.open(&self.lineage.identity, own).await?;
                        (position, before) = (own, (from, Vec::new()));
                    }
                    Next::Gone(why) => {
                        return Ok(if self.gap(&why) { End::Waits } else { End::Gone });
                    }
                },
            }
        }
    }

    /// The grant that is in force, told again.
    fn is_this(&self, order: Option<&Order>) -> bool {
        let Some(Order::Grant(grant)) = order else { return false };
        let last = grant.lineage.as_ref().and_then(|lineage| lineage.grants.last());
        let lineage = grant.lineage.as_ref().is_some_and(|lineage| lineage.id == self.lineage.id.0[..]);
        lineage
            && last.is_some_and(|last| last.epoch == self.grant.epoch)
            && grant.until == self.until.unwrap_or_default()
    }

    /// What is stored of the segment already, to be compared with what the database sends of it. Nothing, where some of
    /// it is a parent's or lost.
    async fn before(&self, start: u64, from: u64) -> Result<(u64, Vec<u8>)> {
        let first = compared(start.max(self.lineage.from), from);
        if first >= from {
            return Ok((from, Vec::new()));
        }
        let chain = vec![Section { lineage: self.lineage.clone(), to: None }];
        let mut reader = LogReader::open(self.store.clone(), chain, first).await?;
        if reader.end_from(first) < from {
            return Ok((from, Vec::new()));
        }
        Ok((first, reader.read(first..from).await?))
    }

    /// Gives what is not stored yet of `bytes` at `position`; what is must be the same.
    fn compare<'b>(
        &self,
        (first, before): &mut (u64, Vec<u8>),
        position: u64,
        bytes: &'b [u8],
    ) -> Result<&'b [u8]> {
        let known = *first + before.len() as u64;
        let (from, to) = (position.max(*first), (position + bytes.len() as u64).min(known));
        if from < to {
            let sent = &bytes[(from - position) as usize..(to - position) as usize];
            if sent != &before[(from - *first) as usize..(to - *first) as usize] {
                return Err(Error::corrupt("the database's log is another one than is stored of it").with_hint(
                    "its data was brought back without a new timeline: restore it with --to, or give it a new service",
                ));
            }
        }
        if to == known {
            before.clear();
            *first = known;
        }
        Ok(&bytes[(known.max(position) - position).min(bytes.len() as u64) as usize..])
    }

    /// Seals and stores; as long as only the store is away, again.
    fn put(
        &self,
        (from, bytes, trail): (u64, Vec<u8>, palinurus_repository::log::Trail),
    ) -> BoxFuture<'static, Result<Stored>> {
        let piece = Piece {
            lineage: self.lineage.id,
            epoch: self.grant.epoch,
            from,
            to: from + bytes.len() as u64,
            whole: false,
        };
        let (store, key_epoch, level) =
            (self.store.clone(), self.grant.key_epoch, self.host.config.limits.zstd_level);
        let (status, seams) = (self.status.clone(), self.host.seams.clone());
        let stored = (piece.to, trail.as_of);
        async move {
            let keys = store.keys().clone();
            let sealing = move || seal(&keys, key_epoch, &piece, &trail, &bytes, level);
            let object = seams.blocking.run(sealing).await?;
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            loop {
                match store.put(&piece, key_epoch, object.clone()).await {
                    Ok(()) => return Ok(stored),
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        tracing::warn!(error = %error.chain(), "a piece of the log is not stored yet");
                        let failure = palinurus_proto::failure(&error);
                        status.send_modify(|status| status.failure = Some(failure));
                        tokio::time::sleep(backoff.next(&*seams.entropy)?).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }

    fn advance(&mut self, (stored, as_of): Stored, filling: &Filling) {
        if let Some(held) = self.held.as_mut() {
            held.stored = stored;
        }
        let all = filling.from == stored && filling.bytes.is_empty();
        let as_of = if all { filling.complete() } else { as_of };
        self.status.send_modify(|status| {
            (status.stored, status.stored_ms, status.failure) = (stored, status.stored_ms.max(as_of.0), None);
        });
    }

    fn heard(&self, filling: &mut Filling, server: ServerEnd) {
        filling.heard(server);
        self.status.send_modify(|status| {
            (status.received, status.server_end, status.server_ms) =
                (filling.to(), server.position, server.ms);
            if status.stored == filling.to() {
                status.stored_ms = filling.complete().0;
            }
        });
    }

    /// What the database let go of before it was stored is lost: only a grant beyond it lets the log go on. False: from
    /// where on that is, the last look did not see.
    fn gap(&self, why: &str) -> bool {
        let (from, to) = (self.stored(), self.oldest);
        if to <= from {
            tracing::warn!(from, why, "the database let go of what was not stored yet");
            return false;
        }
        tracing::error!(from, to, why, "the log has a gap: the database let go of what was not stored yet");
        self.status.send_modify(|status| {
            status.gap = Some(v1::LogGap { from, to });
            status.slot_lost = true;
        });
        true
    }
}

/// From where on.
fn compared(start: u64, from: u64) -> u64 {
    start.max(from.saturating_sub(COMPARED_MAX))
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_large_segments_only_the_end_is_compared() {
        let segment = 1 << 30;
        assert_eq!(compared(segment, segment + 5), segment);
        let first = compared(segment, 2 * segment - 1);
        assert!(first > segment && 2 * segment - 1 - first <= palinurus_repository::log::READ_MAX);
    }
}
