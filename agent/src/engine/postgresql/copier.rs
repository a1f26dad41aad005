//! The WAL that a backup needs, where nothing is streamed: each file is copied from `pg_wal` before the server hears that it
//! may let go of it.
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use palinurus_repository::{Error, Result};
use tokio::sync::watch;

use super::blocking;
use super::lsn::{Lsn, Segment};
use super::pushed::{Hold, Pushes};
use super::receiver::Take;

#[derive(Debug)]
pub(super) struct Copier {
    pub(super) pushes: Arc<Pushes>,
    /// From before the backup began.
    pub(super) hold: Hold,
    pub(super) take: Take,
}

impl Copier {
    /// Gives what was copied, once the server has ended the backup there: with that it has ended the file too.
    pub(super) async fn run(self, mut until: watch::Receiver<Option<Lsn>>) -> Result<Vec<Segment>> {
        let (mut ended, mut whole) = (self.pushes.ended.subscribe(), Vec::new());
        let mut next = self.take.first;
        loop {
            let stop = *until.borrow_and_update();
            let handed = {
                let ended = ended.borrow_and_update();
                if ended.timeline == next.timeline { ended.until } else { 0 }
            };
            while next.end().0 <= handed || stop.is_some_and(|stop| next.start() < stop) {
                self.take.check_room(whole.len())?;
                self.copy(next).await?;
                whole.push(next);
                next = next.next();
                self.hold.copied(next.start().0);
            }
            if stop.is_some() {
                return Ok(whole);
            }
            self.hold.copied(next.start().0);
            let gone = |_| Error::unavailable("nobody waits for the WAL any more");
            tokio::select! {
                biased;
                changed = until.changed() => changed.map_err(gone)?,
                changed = ended.changed() => changed.map_err(gone)?,
            }
        }
    }

    /// Whole and on the disk.
    async fn copy(&self, segment: Segment) -> Result<()> {
        let (from, partial) = (self.pushes.path(&segment.name()), self.take.partial(segment));
        let (to, system) = (self.take.directory.join(segment.name()), self.take.system_identifier);
        blocking(move || {
            let copied = File::open(&from).and_then(|mut file| {
                let (mut copy, mut head) = (File::create(&partial)?, [0; 64]);
                let length = io::copy(&mut file, &mut copy)?;
                copy.sync_all()?;
                file.read_exact_at(&mut head, 0)?;
                Ok((length, head))
            });
            let failed = |e| {
                Error::io(format!("copy {}", from.display()), e)
                    .with_hint("a server keeps its WAL for a backup only where archive_command is wal-push")
            };
            let (length, head) = copied.map_err(failed)?;
            segment.check_header(&head, system)?;
            if length != segment.size {
                return Err(Error::corrupt(format!("{} has {length} bytes", from.display())));
            }
            fs::rename(&partial, &to).map_err(failed)
        })
        .await
    }
}
