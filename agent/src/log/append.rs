//! Stores a lineage's bytes under one grant, piece by piece.
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use palinurus_proto::v1;
use palinurus_repository::log::{Grant, Lineage, LogStore, Piece, seal};
use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Error, ErrorKind, Result, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::carry::carry;
use super::far::Order;
use super::filling::Filling;
use super::known::Known;
use super::push::{Granted, Storing};
use super::{Held, RETRY_MAX, RETRY_MIN};
use crate::engine::{History, LogStream, Logs, Next, ServerEnd};
use crate::host::Host;
use crate::session::Backoff;

/// A database takes a reader that says nothing for a minute for dead.
const SAY_SO: Duration = Duration::from_secs(10);

/// Between answers to a database that asks and asks, as one does that waits for us to shut down.
const ANSWER: Duration = Duration::from_millis(500);

/// A store that takes so long for one piece keeps neither a database from its shutdown, which asks, nor one that waits for
/// us to read on: it is left alone, and keeps its log itself.
const ASKED_MAX: Duration = Duration::from_secs(10);
const FULL_MAX: Duration = Duration::from_secs(30);

/// Why nothing more is stored under this grant, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is another order.
    Ordered,
    /// The database let go of what comes next, and only a new look says what it still has.
    Gone,
    /// The store was away for so long that the database was left alone.
    Away,
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
        let store = LogStore::new(unlocked.storage, unlocked.keys).with_blocking(host.seams.blocking);
        let key_epochs: Vec<_> = lineage.grants.iter().filter_map(|grant| grant.key_epoch).collect();
        store.learn(key_epochs).await?;
        let present = lineage.identity == history.identity;
        if present && !history.account.is_empty() {
            store.put_history(&lineage, &history.account).await?;
        }
        let same = |held: &Held| held.lineage == lineage.id && held.epoch == grant.epoch;
        if !held.as_ref().is_some_and(same) {
            let stored = match held.as_ref().filter(|held| held.lineage == lineage.id) {
                Some(held) => carry(host, &store, &lineage, held).await?,
                None => grant.from,
            };
            *held = Some(Held {
                lineage: lineage.id,
                identity: lineage.identity.clone(),
                epoch: grant.epoch,
                stored,
            });
        }
        if present {
            host.writes.send_replace(Some((lineage.identity.clone(), lineage.id)));
            let ancestors = order.ancestors.iter().map(palinurus_proto::logs::section);
            let granted = Granted {
                store: store.clone(),
                ancestors: ancestors.collect::<Result<_>>()?,
                lineage: lineage.clone(),
                history: history.clone(),
            };
            let stored = held.as_ref().map_or(grant.from, |held| held.stored);
            let storing = Storing { granted: Some(Arc::new(granted)), stored, trouble: None };
            host.storing.send_replace(storing);
        }
        let until = Some(order.until).filter(|until| *until > 0);
        tracing::info!(lineage = %lineage.id, grant = grant.epoch, from = grant.from, "storing the log");
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
        let mut known = Known::read(&self.store, &self.lineage, start, from).await?;
        if known.is_empty() {
            start = own;
        }
        let mut stream = Some(logs.open(&self.lineage.identity, start).await?);
        let mut filling = Filling::new(from, Timestamp(0));
        let mut position = start;
        let mut under_way: Option<BoxFuture<'static, Result<Stored>>> = None;
        let (mut ended, mut asked) = (false, false);
        let (mut began, mut said) = (Instant::now(), Instant::now());
        let mut say = tokio::time::interval(SAY_SO);
        say.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = ended || self.until == Some(filling.to());
            let due = filling.since.map(|since| since + logs.interval());
            let now = due.is_some_and(|due| due <= Instant::now()) || filling.is_full() || done;
            if under_way.is_none() && !filling.bytes.is_empty() && now {
                under_way = Some(self.put(filling.take()));
                began = Instant::now();
                if mutant::on(Mutant::LogAckedUnstored)
                    && let Some(stream) = stream.as_mut()
                {
                    stream.release(filling.to()).await?;
                }
            }
            if done && under_way.is_none() {
                return match (ended, self.present) {
                    (true, true) => Ok(End::Ended),
                    (true, false) if self.until != Some(filling.to()) => {
                        Err(Error::unavailable("the database does not give its earlier history any more"))
                    }
                    _ => Ok(End::Waits),
                };
            }
            let (idle, wants) = (under_way.is_none(), !done && !filling.is_full());
            let patience = if asked { ASKED_MAX } else { FULL_MAX };
            let away = (!idle && stream.is_some() && (asked || filling.is_full())).then(|| began + patience);
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
                    (under_way, asked) = (None, false);
                    self.advance(stored, &filling);
                    match stream.as_mut() {
                        Some(stream) => stream.release(stored.0).await?,
                        None => return Ok(End::Away),
                    }
                }
                () = at(away) => {
                    tracing::warn!("the store does not take the log: the database is left alone until it does");
                    stream = None;
                }
                // Never back to before what the slot keeps: it would look lost.
                _ = say.tick(), if position >= own => if let Some(stream) = stream.as_mut() {
                    stream.release(self.stored()).await?;
                    said = Instant::now();
                },
                () = at(due), if idle => {}
                next = next(stream.as_mut()), if wants => match next? {
                    Next::Bytes { bytes, marks, server } => {
                        let end = position + bytes.len() as u64;
                        let new = known.beyond(position, &bytes)?;
                        let new = self.wanted(filling.to(), new);
                        if !filling.push(new, Instant::now()) {
                            return Err(Error::corrupt(format!("the database sends {} bytes at once", new.len())));
                        }
                        position = end;
                        filling.mark(marks);
                        self.heard(&mut filling, server);
                    }
                    Next::Quiet { server, asks } => {
                        self.heard(&mut filling, server);
                        if asks {
                            asked = true;
                            say.reset_at(said + ANSWER);
                        }
                    }
                    Next::Ended => ended = true,
                    Next::Gone(_) if position < own => {
                        stream = Some(logs.open(&self.lineage.identity, own).await?);
                        (position, known) = (own, Known::nothing(from));
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

    /// What lies before the end that was ordered, of the bytes that come next at `from`.
    fn wanted<'b>(&self, from: u64, bytes: &'b [u8]) -> &'b [u8] {
        let room = self.until.map_or(u64::MAX, |until| until.saturating_sub(from));
        &bytes[..(bytes.len() as u64).min(room) as usize]
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
        let (status, host) = (self.status.clone(), Arc::clone(self.host));
        let stored = (piece.to, trail.as_of);
        async move {
            let keys = store.keys().clone();
            let sealing = move || seal(&keys, key_epoch, &piece, &trail, &bytes, level);
            let object = host.seams.blocking.run(sealing).await?;
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            loop {
                match store.put(&piece, key_epoch, object.clone()).await {
                    Ok(()) => return Ok(stored),
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        tracing::warn!(error = %error.chain(), "a piece of the log is not stored yet");
                        let failure = palinurus_proto::failure(&error);
                        status.send_modify(|status| status.failure = Some(failure));
                        host.storing.send_modify(|storing| storing.trouble = Some(error.chain()));
                        tokio::time::sleep(backoff.next(&*host.seams.entropy)?).await;
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
        if self.present {
            self.host.storing.send_modify(|it| (it.stored, it.trouble) = (stored, None));
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

async fn next(stream: Option<&mut Box<dyn LogStream>>) -> Result<Next> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
