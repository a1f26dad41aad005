//! WAL as it is read from `pg_wal`, up to where the server has said that it has ended.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::{Error, Result};
use tokio::sync::watch;

use super::blocking;
use super::logs::WalIdentity;
use super::lsn::{Lsn, Segment};
use super::pushed::{Ended, Looked, Pushes};
use super::records::Scanner;
use crate::engine::{LogStream, Next, ServerEnd};

const STEP: u64 = 512 << 10;

#[derive(Debug)]
pub(super) struct PushedStream {
    pushes: Arc<Pushes>,
    looked: Looked,
    ended: watch::Receiver<Ended>,
    /// Where a parent was left; the present one goes on as far as files are handed over.
    until: Option<u64>,
    segment: Segment,
    position: u64,
    file: Option<Arc<File>>,
    digest: blake3::Hasher,
    scanner: Scanner,
}

impl PushedStream {
    /// From the start of `first` on.
    fn new(pushes: Arc<Pushes>, looked: Looked, first: Segment, until: Option<u64>) -> Self {
        let position = first.start().0;
        Self {
            ended: pushes.ended.subscribe(),
            pushes,
            looked,
            until,
            segment: first,
            position,
            file: None,
            digest: blake3::Hasher::new(),
            scanner: Scanner::new(position, first.size),
        }
    }

    /// Up to where it may be read now. None: the server is another one now.
    fn limit(&mut self) -> Option<u64> {
        let ended = self.ended.borrow_and_update();
        if !ended.run.is_empty() && ended.run != self.looked.run {
            return None;
        }
        let own = ended.timeline == self.segment.timeline;
        Some(self.until.unwrap_or(if own { ended.until } else { 0 }))
    }

    /// Opened and looked at, or why it is not there.
    async fn open(&mut self) -> Result<Result<Arc<File>, String>> {
        if let Some(file) = &self.file {
            return Ok(Ok(Arc::clone(file)));
        }
        let (pushes, looked, segment) = (Arc::clone(&self.pushes), self.looked.clone(), self.segment);
        let opened = blocking(move || {
            let Some(path) = pushes.find(&looked, segment)? else { return Ok(None) };
            let failed = |e| Error::io(format!("read {}", path.display()), e);
            let file = File::open(&path).map_err(failed)?;
            let mut head = [0; 64];
            file.read_exact_at(&mut head, 0).map_err(failed)?;
            segment.check_header(&head, looked.identity.system_identifier)?;
            Ok(Some(Arc::new(file)))
        });
        match opened.await? {
            Some(file) => Ok(Ok(Arc::clone(self.file.insert(file)))),
            None => Ok(Err(format!("pg_wal has no {}", self.segment.name()))),
        }
    }
}

#[async_trait]
impl LogStream for PushedStream {
    async fn next(&mut self) -> Result<Next> {
        let limit = loop {
            match self.limit() {
                Some(limit) if self.position < limit => break limit,
                Some(_) if self.until.is_none() => {
                    let changed = self.ended.changed().await;
                    changed.map_err(|_| Error::internal("nobody hands WAL over any more"))?;
                }
                _ => return Ok(Next::Ended),
            }
        };
        let file = match self.open().await? {
            Ok(file) => file,
            Err(why) => return Ok(Next::Gone(why)),
        };
        let within = self.position - self.segment.start().0;
        let length = STEP.min(limit - self.position).min(self.segment.size - within);
        let mut bytes = vec![0; length as usize];
        let bytes = blocking(move || {
            let read = file.read_exact_at(&mut bytes, within);
            read.map(|()| bytes).map_err(|e| Error::io("read pg_wal", e))
        })
        .await?;
        // From here on nothing waits: dropped before, it is read again.
        let mut marks = Vec::new();
        self.scanner.feed(&bytes, &mut marks);
        self.digest.update(&bytes);
        self.position += length;
        if self.position == self.segment.end().0 {
            let digest = std::mem::take(&mut self.digest).finalize();
            if self.until.is_none() {
                self.pushes.give(self.segment, digest);
            }
            (self.file, self.segment) = (None, self.segment.next());
        }
        // The server has written more than it has handed over, and nobody says how much: no time is given.
        let server = ServerEnd { position: limit.max(self.position), ms: 0 };
        Ok(Next::Bytes { bytes: Bytes::from(bytes), marks, server })
    }

    /// The answer to who hands a file over is what lets the server go on.
    async fn release(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Pushes {
    /// The history `identity`, as the last look saw it, from the start of a segment on.
    pub(super) fn open(self: &Arc<Self>, identity: WalIdentity, position: u64) -> Result<Box<dyn LogStream>> {
        let gone = || Error::unavailable("the server writes another history now");
        let looked = self.looked().ok_or_else(gone)?;
        let first = Segment::of(identity.timeline, Lsn(position), looked.segment_size);
        let parent = looked.parents.iter().find(|fork| fork.identity == identity.encode());
        let until = parent.map(|fork| fork.until);
        if until.is_none() && looked.identity != identity {
            return Err(gone());
        }
        Ok(Box::new(PushedStream::new(Arc::clone(self), looked, first, until)))
    }
}
