//! Tells people what has changed: to webhooks, by mail, and always in the log. What is told is recorded before it is
//! sent, so that whoever leads next sends what is owed, under the same id, and repeats nothing
//! (docs/operations/notifications.md).
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palinurus_repository::Result;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::shared::Shared;

mod book;
mod channel;
mod email;
mod notice;
mod record;
#[cfg(test)]
mod tests;
mod webhook;

use book::Book;
pub(crate) use channel::{Channel, Channels};
pub(crate) use email::mailbox;
pub(crate) use notice::{Kind, Notice};
pub(crate) use record::Outbox;

/// Before the state is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Between tries of one channel; twice as long after each.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(5 * 60);

/// What waits to be recorded. Of one service and kind only the newest: it stays small, however long the state is away.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    waiting: Mutex<BTreeMap<(String, Kind), Notice>>,
    wake: Notify,
}

impl Notices {
    /// Never waits. Told again under the key that was last told of its service and kind, it is nothing: also after a
    /// restart, and under another leader.
    pub(crate) fn tell(&self, notice: Notice) {
        let key = (notice.service.clone(), notice.kind);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key, notice);
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<(String, Kind), Notice> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Unless something newer was told meanwhile.
    fn give_back(&self, notice: Notice) {
        let key = (notice.service.clone(), notice.kind);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(notice);
    }
}

/// Records and sends for as long as this coordinator leads; ends when it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let channels: Vec<String> = shared.channels.all().iter().map(|it| it.name().to_owned()).collect();
    let book = loop {
        match Book::load(shared.records.clone(), channels.clone()).await {
            Ok(book) => break Arc::new(tokio::sync::Mutex::new(book)),
            Err(e) => tracing::warn!(error = e.chain(), "cannot read the notices, trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    };
    let changed = watch::Sender::new(());
    let mut sending = JoinSet::new();
    for channel in shared.channels.all() {
        let sender = Sender {
            channel: channel.clone(),
            book: book.clone(),
            shared: shared.clone(),
            changed: changed.subscribe(),
        };
        sending.spawn(sender.run());
    }
    loop {
        shared.notices.wake.notified().await;
        while !record_all(&shared, &book, &changed).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether nothing is left to record.
async fn record_all(shared: &Shared, book: &tokio::sync::Mutex<Book>, changed: &watch::Sender<()>) -> bool {
    let mut done = true;
    for notice in shared.notices.take().into_values() {
        match book.lock().await.record(&notice, &*shared.world.entropy).await {
            Ok(Some(recorded)) => {
                recorded.log(&notice);
                changed.send_replace(());
            }
            Ok(None) => {}
            Err(e) => {
                let service = &notice.service;
                tracing::warn!(service, error = e.chain(), "cannot record a notice, trying again");
                shared.notices.give_back(notice);
                done = false;
            }
        }
    }
    done
}

/// One channel's: a receiver that does not answer makes nobody wait but itself.
struct Sender {
    channel: Arc<Channel>,
    book: Arc<tokio::sync::Mutex<Book>>,
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
}

impl Sender {
    /// The services in turn, and of each the oldest that is owed: what one service has to tell is told in its order.
    async fn run(mut self) {
        let (mut last, mut failures) = (String::new(), 0_u32);
        loop {
            self.changed.borrow_and_update();
            let next = self.book.lock().await.next(self.channel.name(), &last);
            let Some(owed) = next else {
                if self.changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            last.clone_from(&owed.service);
            let (channel, service, id) = (self.channel.name(), &owed.service, &owed.id);
            let now = self.shared.now();
            let delivered = match self.channel.send(&owed, &self.shared.config.name, now).await {
                Ok(()) => true,
                Err(e) if now.since(owed.at()) >= self.shared.config.notify.give_up_after => {
                    tracing::error!(channel, service, id, error = e.chain(), "a notice is given up");
                    false
                }
                Err(e) => {
                    failures = failures.saturating_add(1);
                    let pause = pause(failures);
                    tracing::warn!(
                        channel,
                        service,
                        id,
                        failures,
                        error = e.chain(),
                        again = %humantime::format_duration(pause),
                        "a notice is not delivered"
                    );
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            while let Err(e) = self.settle(&owed.service, &owed.id).await {
                tracing::warn!(channel, error = e.chain(), "cannot record that a notice was delivered");
                tokio::time::sleep(AGAIN).await;
            }
            if delivered {
                failures = 0;
                tracing::info!(channel, service, id, "a notice is delivered");
            }
        }
    }

    async fn settle(&self, service: &str, id: &str) -> Result<()> {
        self.book.lock().await.settle(service, id, self.channel.name()).await
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_LONGEST)
}
