//! Follows keys: all of them first, then change after change. A broken stream is taken up where it ended; what was
//! compacted meanwhile is listed anew.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, KeyValue, WatchClient, WatchOptions, WatchResponse, WatchStream};

use super::client::Client;
use super::error::{self, Failed};
use super::reader::{list, record};
use crate::state::Change;

/// While etcd is away; each pause is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const WHAT: &str = "follow the records in etcd";

/// Keys from `first` on and before `end`.
#[derive(Clone, Debug)]
pub(super) struct Range {
    first: Vec<u8>,
    end: Vec<u8>,
    /// What is left out of a key when it is told.
    stripped: usize,
}

impl Range {
    pub(super) fn one(key: &str) -> Self {
        Self { first: key.into(), end: format!("{key}\0").into(), stripped: 0 }
    }

    pub(super) fn prefix(prefix: String, stripped: usize) -> Self {
        let first = prefix.into_bytes();
        let mut end = first.clone();
        // A prefix is text, so no byte of it is 0xff.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { first, end, stripped }
    }

    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(super) fn end(&self) -> Vec<u8> {
        self.end.clone()
    }

    pub(super) fn key(&self, kv: &KeyValue) -> String {
        String::from_utf8_lossy(kv.key().get(self.stripped..).unwrap_or_default()).into_owned()
    }
}

pub(super) struct Follow {
    client: Arc<Client>,
    range: Range,
    /// The first revision not yet told; none before the first list.
    next: Option<i64>,
    stream: Option<(usize, WatchStream)>,
    told: VecDeque<Change>,
    away: bool,
    pause: Duration,
}

impl Follow {
    pub(super) fn new(client: Arc<Client>, range: Range) -> Self {
        Self { client, range, next: None, stream: None, told: VecDeque::new(), away: false, pause: PAUSE_MIN }
    }

    pub(super) async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.told.pop_front() {
                return change;
            }
            match self.step().await {
                Ok(()) => {}
                Err(Failed::Compacted) => {
                    (self.next, self.stream) = (None, None);
                    tokio::time::sleep(PAUSE_MIN).await;
                }
                Err(e) => {
                    (self.next, self.stream) = (None, None);
                    if !self.away {
                        self.away = true;
                        return Change::Away(e.into());
                    }
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), Failed> {
        let Some(next) = self.next else {
            let (all, revision) = list(&self.client, WHAT, &self.range).await?;
            self.told.push_back(Change::All(all));
            self.next = Some(revision + 1);
            return Ok(());
        };
        let Some((member, stream)) = &mut self.stream else {
            self.stream = Some(open(&self.client, &self.range, next).await?);
            (self.away, self.pause) = (false, PAUSE_MIN);
            return Ok(());
        };
        match stream.message().await {
            Ok(Some(answer)) => self.take(&answer),
            ended => {
                tracing::debug!(?ended, "a watch ended: taking it up again");
                self.client.leave(*member);
                self.stream = None;
                Ok(())
            }
        }
    }

    fn take(&mut self, answer: &WatchResponse) -> Result<(), Failed> {
        if answer.canceled() || answer.compact_revision() > 0 {
            return Err(canceled(answer.cancel_reason()));
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            // One revision may come in several answers, so its events are told again after a break rather than lost.
            self.next = Some(kv.mod_revision());
            let key = self.range.key(kv);
            self.told.push_back(match event.event_type() {
                EventType::Put => Change::Put(key, record(kv)),
                EventType::Delete => Change::Gone(key),
            });
        }
        // The header's revision counts only where nothing was to be told: otherwise more of it may follow.
        if answer.events().is_empty()
            && !answer.created()
            && let Some(header) = answer.header()
        {
            self.next = Some(header.revision() + 1);
        }
        Ok(())
    }
}

async fn open(client: &Client, range: &Range, next: i64) -> Result<(usize, WatchStream), Failed> {
    let mut patience = client.patience();
    loop {
        let member = client.current();
        let opened = client.attempt(WHAT, |etcd| async move {
            let options = WatchOptions::new()
                .with_range(range.end())
                .with_start_revision(next)
                .with_progress_notify()
                .with_fragment();
            let mut watches: WatchClient = etcd.watch_client();
            let mut stream = watches.watch(range.first(), Some(options)).await?;
            Ok((stream.message().await?, stream))
        });
        let failed = match opened.await {
            Ok((Some(first), _)) if first.canceled() => return Err(canceled(first.cancel_reason())),
            Ok((Some(first), stream)) if first.created() => return Ok((member, stream)),
            Ok(_) => {
                client.leave(member);
                error::late(WHAT, "the stream", client.timeout())
            }
            Err(failed @ (Failed::Unknown(_) | Failed::OldToken(_))) => failed,
            Err(e) => return Err(e),
        };
        if !patience.wait().await {
            return Err(failed);
        }
    }
}

/// Its revision is compacted, or its token has run out: the list that follows mends either, or says what is wrong.
fn canceled(reason: &str) -> Failed {
    tracing::debug!(reason, "etcd ended a watch: listing again");
    Failed::Compacted
}
