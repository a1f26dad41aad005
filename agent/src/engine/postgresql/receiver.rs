//! Takes the WAL from the server while a backup runs, segment by segment, as a standby would: what the backup needs to
//! become whole is then part of it.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palinurus_repository::{Error, Result};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::client::Client;
use super::copier::Copier;
use super::lsn::{Lsn, Segment};
use crate::durable;

/// The server takes a receiver that says nothing for a minute for dead.
const SAY_SO: Duration = Duration::from_secs(10);

/// What to take, and where to put it.
#[derive(Debug)]
pub(super) struct Take {
    pub(super) directory: PathBuf,
    pub(super) first: Segment,
    pub(super) system_identifier: u64,
    pub(super) slot: String,
    /// Tell the server what is on our disk, so that it may let go of it. Never where a commit could wait for that.
    pub(super) tells: bool,
    pub(super) limit: u64,
}

#[derive(Debug)]
pub(super) struct Receiver {
    until: watch::Sender<Option<Lsn>>,
    task: JoinHandle<Result<Vec<Segment>>>,
}

/// A slot that lasts as long as the session: from now on the server keeps its WAL for us.
pub(super) async fn reserve(replication: &mut Client, slot: &str) -> Result<()> {
    let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL RESERVE_WAL");
    replication.query(&command).await.map(drop).map_err(|error| {
        error.with_hint("a backup needs one replication slot and two WAL senders: see max_replication_slots and max_wal_senders")
    })
}

impl Receiver {
    pub(super) async fn start(
        mut replication: Client,
        take: Take,
        broken: Arc<Broken>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let (slot, at, timeline) = (&take.slot, take.first.start(), take.first.timeline);
        let command = format!("START_REPLICATION SLOT \"{slot}\" PHYSICAL {at} TIMELINE {timeline}");
        if !replication.start_copy(&command).await? {
            return Err(
                Error::conflict(format!("timeline {timeline} is over")).with_hint("start the backup again")
            );
        }
        let (until, asked) = watch::channel(None);
        let taking = async move {
            let mut stream = Stream {
                received: take.first.start(),
                flushed: take.first.start(),
                segment: take.first,
                file: None,
                whole: Vec::new(),
                take,
            };
            let ended = stream.run(&mut replication, asked).await;
            replication.end().await;
            ended.map(|()| stream.whole)
        };
        Ok(Self { until, task: run(taking, broken, cancel) })
    }

    /// Of files that the server hands over.
    pub(super) fn copy(copier: Copier, broken: Arc<Broken>, cancel: CancellationToken) -> Self {
        let (until, asked) = watch::channel(None);
        Self { until, task: run(copier.run(asked), broken, cancel) }
    }

    /// The segments up to `stop`, once they are all on the disk.
    pub(super) async fn until(&mut self, stop: Lsn) -> Result<Vec<Segment>> {
        // A receiver that has ended says why.
        let _ = self.until.send(Some(stop));
        (&mut self.task).await.map_err(|e| Error::internal("the receiver of WAL panicked").with_source(e))?
    }

    pub(super) async fn closed(self) {
        let _ = self.task.await;
    }
}

fn run(
    taking: impl Future<Output = Result<Vec<Segment>>> + Send + 'static,
    broken: Arc<Broken>,
    cancel: CancellationToken,
) -> JoinHandle<Result<Vec<Segment>>> {
    tokio::spawn(async move {
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::unavailable("cancelled")),
            ended = taking => ended,
        };
        if let Err(error) = &ended
            && !cancel.is_cancelled()
        {
            broken.set(error);
        }
        ended
    })
}

impl Take {
    /// Whether one segment more than those may be kept.
    pub(super) fn check_room(&self, kept: usize) -> Result<()> {
        if (kept as u64 + 1).saturating_mul(self.first.size) <= self.limit {
            return Ok(());
        }
        let what = format!("the WAL of this backup is larger than {} MiB", self.limit >> 20);
        Err(Error::unavailable(what).with_hint(
            "the backup takes too long for what is written meanwhile; or raise engine.wal_spool_mib",
        ))
    }

    pub(super) fn partial(&self, segment: Segment) -> PathBuf {
        self.directory.join(format!("{}.{}", segment.name(), durable::PARTIAL))
    }
}

struct Stream {
    take: Take,
    segment: Segment,
    file: Option<File>,
    received: Lsn,
    /// On the disk, with its name.
    flushed: Lsn,
    whole: Vec<Segment>,
}

impl Stream {
    async fn run(&mut self, replication: &mut Client, mut until: watch::Receiver<Option<Lsn>>) -> Result<()> {
        let mut tick = tokio::time::interval(SAY_SO);
        loop {
            if until.borrow_and_update().is_some_and(|until| self.received >= until) {
                return self.finish().await;
            }
            tokio::select! {
                biased;
                changed = until.changed() => {
                    changed.map_err(|_| Error::unavailable("nobody waits for the WAL any more"))?;
                }
                message = replication.copy() => match message? {
                    Some(message) => self.message(replication, message).await?,
                    None => return Err(Error::conflict(format!("the server ended timeline {}", self.segment.timeline))
                        .with_hint("it was promoted, or is shutting down: start the backup again")),
                },
                _ = tick.tick() => self.say(replication).await?,
            }
        }
    }

    async fn message(&mut self, replication: &mut Client, mut message: Bytes) -> Result<()> {
        let wrong = || Error::corrupt("a message of WAL is cut short");
        match (message.first().copied(), message.len()) {
            (Some(b'w'), 25..) => {
                message.advance(1);
                let start = Lsn(message.get_u64());
                message.advance(16);
                if start != self.received {
                    return Err(Error::corrupt(format!(
                        "WAL is missing between {} and {start}",
                        self.received
                    )));
                }
                self.write(message).await
            }
            (Some(b'k'), 18..) => {
                // A server that shuts down waits until all that it sent is on our disk.
                if message[17] == 1 {
                    self.flush().await?;
                    self.say(replication).await?;
                }
                Ok(())
            }
            _ => Err(wrong()),
        }
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            if self.file.is_none() {
                self.segment.check_header(&data, self.take.system_identifier)?;
                self.file = Some(self.create().await?);
            }
            let room = (self.segment.end().0 - self.received.0) as usize;
            let part = data.split_to(data.len().min(room));
            let path = self.partial();
            let Some(file) = &mut self.file else { continue };
            file.write_all(&part).await.map_err(|e| Error::io(format!("write {}", path.display()), e))?;
            self.received.0 += part.len() as u64;
            if self.received == self.segment.end() {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn create(&self) -> Result<File> {
        self.take.check_room(self.whole.len())?;
        let path = self.partial();
        File::create(&path).await.map_err(|e| Error::io(format!("create {}", path.display()), e))
    }

    fn partial(&self) -> PathBuf {
        self.take.partial(self.segment)
    }

    async fn flush(&mut self) -> Result<()> {
        let path = self.partial();
        if let Some(file) = &mut self.file {
            let synced = async {
                file.flush().await?;
                file.sync_all().await
            };
            synced.await.map_err(|e| Error::io(format!("fsync {}", path.display()), e))?;
        }
        self.flushed = self.received;
        Ok(())
    }

    /// Gives a segment its name: it is whole, on the disk.
    async fn close(&mut self) -> Result<()> {
        self.flush().await?;
        let (partial, path) = (self.partial(), self.take.directory.join(self.segment.name()));
        if self.file.take().is_some() {
            tokio::fs::rename(&partial, &path)
                .await
                .map_err(|e| Error::io(format!("rename {}", partial.display()), e))?;
            self.whole.push(self.segment);
        }
        self.segment = self.segment.next();
        Ok(())
    }

    /// The rest of the last segment is zeros: the end of the WAL.
    async fn finish(&mut self) -> Result<()> {
        let path = self.partial();
        if let Some(file) = &mut self.file {
            let sized = async {
                file.flush().await?;
                file.set_len(self.segment.size).await
            };
            sized.await.map_err(|e| Error::io(format!("write {}", path.display()), e))?;
            self.close().await?;
        }
        Ok(())
    }

    async fn say(&self, replication: &mut Client) -> Result<()> {
        let flushed = if self.take.tells { self.flushed.0 } else { 0 };
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(self.received.0);
        status.put_u64(flushed);
        status.put_u64(0);
        status.put_u64(0);
        status.put_u8(0);
        replication.put_copy(&status).await
    }
}
