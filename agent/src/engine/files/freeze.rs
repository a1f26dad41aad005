//! Freezes and thaws by the operator's commands. The record comes before the deed: whoever finds it frozen and
//! nobody answering for it thaws it, be that the dead man's timer here or the next start of the agent.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::durable;
use crate::engine::command::{self, Limit};

const TIME_UP: &str = "its time was up";
/// Between attempts to thaw what does not want to.
const THAW_AGAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    operation: String,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// The command was or will be started: as good as frozen.
    Freezing,
    Frozen,
    /// As it was asked for.
    Thawed,
    /// Before anybody asked for it, and why.
    ThawedEarly(String),
}

#[derive(Clone, Debug)]
pub(super) struct Commands {
    pub(super) freeze: Vec<String>,
    pub(super) thaw: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) environment: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(super) struct Freezer {
    inner: Arc<Inner>,
    timer: StdMutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Inner {
    commands: Option<Commands>,
    path: PathBuf,
    record: Mutex<Option<Record>>,
}

impl Freezer {
    /// `commands`: none, and every freeze is done at once.
    pub(super) fn new(commands: Option<Commands>, state: &Path) -> Self {
        let inner = Inner { commands, path: state.join("freeze.json"), record: Mutex::new(None) };
        Self { inner: Arc::new(inner), timer: StdMutex::new(None) }
    }

    /// Thaws what an agent before this one left frozen. What cannot be thawed now is tried again and again.
    pub(super) async fn recover(&self) -> Result<()> {
        let mut held = self.inner.record.lock().await;
        let Some(record) = read(&self.inner.path)? else { return Ok(()) };
        let frozen = record.is_frozen();
        let operation = record.operation.clone();
        *held = Some(record);
        if !frozen {
            return Ok(());
        }
        tracing::warn!(operation, "the agent ended while the data was frozen: thawing");
        if let Err(error) = self.inner.thaw(&mut held, early("the agent was started again")).await {
            if self.inner.commands.is_none() {
                return Err(error);
            }
            tracing::error!(operation, error = %error.chain(), "THE DATA IS STILL FROZEN: trying again");
            self.arm(operation, THAW_AGAIN);
        }
        Ok(())
    }

    pub(super) async fn freeze(
        &self,
        operation: &str,
        dead_man: Duration,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Some(commands) = &self.inner.commands else { return Ok(()) };
        let mut held = self.inner.record.lock().await;
        if let Some(record) = held.as_ref().filter(|record| record.is_frozen()) {
            if record.operation != operation {
                let what = format!("the data is frozen for operation {}", record.operation);
                return Err(Error::conflict(what).with_hint("it thaws by itself when its time is up"));
            }
            if record.state == State::Frozen {
                self.arm(operation.to_owned(), dead_man);
                return Ok(());
            }
        }
        self.inner.write(&mut held, Record { operation: operation.to_owned(), state: State::Freezing })?;
        self.arm(operation.to_owned(), dead_man);
        let limit = freeze_limit(commands.timeout.min(dead_man));
        let environment = commands.environment(operation);
        let frozen = match command::run(&commands.freeze, &environment, limit, cancel).await {
            Ok(()) => {
                self.inner.write(&mut held, Record { operation: operation.to_owned(), state: State::Frozen })
            }
            Err(error) => Err(error),
        };
        if frozen.is_err() {
            // It may have gone half the way. If this fails the dead man's timer goes on.
            match self.inner.thaw(&mut held, early("it could not be frozen")).await {
                Ok(()) => self.disarm(),
                Err(error) => {
                    tracing::error!(operation, error = %error.chain(), "thaw failed, trying again when the time is up")
                }
            }
        }
        frozen
    }

    pub(super) async fn thaw(&self, operation: &str) -> Result<()> {
        let mut held = self.inner.record.lock().await;
        if held.as_ref().is_some_and(|record| record.operation == operation && record.is_frozen()) {
            self.inner.thaw(&mut held, State::Thawed).await?;
            self.disarm();
        }
        Ok(())
    }

    /// Fails when the operation froze the data and it is frozen no longer.
    pub(super) async fn check(&self, operation: &str) -> Result<()> {
        let held = self.inner.record.lock().await;
        let Some(record) = held.as_ref().filter(|record| record.operation == operation) else {
            return Ok(());
        };
        let (why, hint) = match &record.state {
            State::Frozen => return Ok(()),
            State::Freezing => ("the freeze has not succeeded", ""),
            State::Thawed => ("it was thawed", ""),
            State::ThawedEarly(why) if why == TIME_UP => {
                (TIME_UP, "allow a longer freeze, or freeze less data")
            }
            State::ThawedEarly(why) => (why.as_str(), "start the backup again"),
        };
        let error =
            Error::unavailable(format!("the data did not stay frozen until the snapshot was taken: {why}"));
        Err(if hint.is_empty() { error } else { error.with_hint(hint) })
    }

    /// Thaws if need be, and forgets.
    pub(super) async fn release(&self, operation: &str) -> Result<()> {
        self.thaw(operation).await?;
        let mut held = self.inner.record.lock().await;
        if held.as_ref().is_some_and(|record| record.operation == operation) {
            durable::remove(&self.inner.path)?;
            *held = None;
        }
        Ok(())
    }

    pub(super) async fn close(&self) -> Result<()> {
        let mut held = self.inner.record.lock().await;
        if held.as_ref().is_some_and(Record::is_frozen) {
            self.inner.thaw(&mut held, early("the agent was stopped")).await?;
            self.disarm();
        }
        Ok(())
    }

    /// The dead man's timer: thaws in `after`, and again until it is done.
    fn arm(&self, operation: String, after: Duration) {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let mut pause = after;
            loop {
                tokio::time::sleep(pause).await;
                pause = THAW_AGAIN;
                let mut held = inner.record.lock().await;
                if !held.as_ref().is_some_and(|record| record.operation == operation && record.is_frozen()) {
                    return;
                }
                tracing::warn!(operation, "nobody thawed in time: thawing");
                match inner.thaw(&mut held, early(TIME_UP)).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(operation, error = %error.chain(), "THE DATA IS STILL FROZEN: trying again");
                    }
                }
            }
        });
        self.set_timer(Some(task.abort_handle()));
    }

    fn disarm(&self) {
        self.set_timer(None);
    }

    fn set_timer(&self, timer: Option<AbortHandle>) {
        let old = std::mem::replace(&mut *self.timer.lock().unwrap_or_else(PoisonError::into_inner), timer);
        if let Some(old) = old {
            old.abort();
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl Inner {
    /// Runs the thaw command, whatever cancelled the task: what is frozen must thaw.
    async fn thaw(&self, held: &mut Option<Record>, state: State) -> Result<()> {
        let Some(record) = held.clone() else { return Ok(()) };
        let Some(commands) = &self.commands else {
            return Err(Error::invalid(format!(
                "the data is frozen for operation {} and there is no thaw command",
                record.operation
            ))
            .with_hint(format!(
                "thaw it by hand and remove {}, or configure engine.thaw_command",
                self.path.display()
            )));
        };
        let environment = commands.environment(&record.operation);
        command::run(&commands.thaw, &environment, freeze_limit(commands.timeout), &CancellationToken::new())
            .await?;
        self.write(held, Record { state, ..record })
    }

    fn write(&self, held: &mut Option<Record>, record: Record) -> Result<()> {
        let bytes =
            serde_json::to_vec(&record).map_err(|e| Error::internal("freeze record").with_source(e))?;
        durable::write(&self.path, &bytes)?;
        *held = Some(record);
        Ok(())
    }
}

impl Record {
    fn is_frozen(&self) -> bool {
        matches!(self.state, State::Freezing | State::Frozen)
    }
}

impl Commands {
    fn environment<'a>(&'a self, operation: &'a str) -> Vec<(&'a str, &'a str)> {
        let given = self.environment.iter().map(|(name, value)| (*name, value.as_str()));
        given.chain([("PALINURUS_OPERATION", operation)]).collect()
    }
}

fn freeze_limit(time: Duration) -> Limit {
    Limit { time, setting: "freeze_timeout" }
}

fn early(why: &str) -> State {
    State::ThawedEarly(why.to_owned())
}

fn read(path: &Path) -> Result<Option<Record>> {
    match std::fs::read(path) {
        // A record that does not parse still says that something was begun.
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the freeze record is damaged: taken as frozen");
            Record { operation: "unknown".to_owned(), state: State::Freezing }
        }))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

#[cfg(test)]
mod tests;
