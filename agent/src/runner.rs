//! Runs tasks, each once, and keeps what is to be said about them until the coordinator has recorded it.
//!
//! A task is journaled before it is begun and its end before it is reported. An agent that starts again tells what
//! it has: the coordinator sends again what was interrupted. An operation is remembered until its release is
//! acknowledged, because until then something may be held for it.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palinurus_proto::v1::{self, TaskState, task::Work, task_result::Result as Outcome};
use palinurus_repository::{Error, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host::Host;
use crate::journal::{Journal, Record, TaskKey};
use crate::progress::Counters;
use crate::task::{self, Call};

mod entry;

use entry::{Entry, Status};

/// For tasks to stop when the agent has lost its place.
const STAND_DOWN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Runner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    journal: Journal,
    entries: Mutex<BTreeMap<TaskKey, Entry>>,
    /// Taken before `entries`: what is journaled and what is forgotten must not cross.
    journaling: Mutex<()>,
    /// Counts the changes that the coordinator should hear of soon; carries no data.
    changed: watch::Sender<u64>,
    /// The agent ends: what is cut short now is interrupted, not cancelled.
    ending: CancellationToken,
    running: TaskTracker,
}

impl Runner {
    pub(crate) fn new(host: Arc<Host>, journal: Journal, found: Vec<(TaskKey, Record)>) -> Self {
        Self(Arc::new(Inner {
            host,
            journal,
            entries: Mutex::new(
                found.into_iter().map(|(key, record)| (key, Entry::from_journal(record))).collect(),
            ),
            journaling: Mutex::new(()),
            changed: watch::Sender::new(0),
            ending: CancellationToken::new(),
            running: TaskTracker::new(),
        }))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Begins the task, or says again how it stands when it is known.
    pub(crate) fn start(&self, task: v1::Task, epoch: u64) {
        let key = TaskKey::of(&task);
        let mut entries = self.0.entries();
        match entries.get_mut(&key).map(|entry| &mut entry.status) {
            Some(Status::Running { .. }) => return self.0.notify(),
            Some(Status::Ended { acknowledged, .. }) => {
                *acknowledged = false;
                return self.0.notify();
            }
            Some(Status::Interrupted) | None => {}
        }
        if let Err(error) = key.check() {
            tracing::error!(task = %key, error = %error.chain(), "refused a task");
            return;
        }
        // A message that took the long way round.
        if entries.keys().any(|other| other.is_same_work(&key) && other.attempt > key.attempt) {
            tracing::info!(task = %key, "a later attempt is known: ignored");
            return;
        }
        let release = matches!(task.work, Some(Work::Release(_)));
        let before: Vec<CancellationToken> = entries
            .iter()
            .filter(|(other, _)| other.operation == key.operation && (release || other.is_same_work(&key)))
            .filter_map(|(_, entry)| entry.stop())
            .collect();
        let (cancel, done) = (CancellationToken::new(), CancellationToken::new());
        let counters = Arc::new(Counters::default());
        let status =
            Status::Running { counters: Arc::clone(&counters), cancel: cancel.clone(), done: done.clone() };
        entries.insert(key.clone(), Entry { task: task.clone(), epoch, status });
        drop(entries);
        tracing::info!(task = %key, epoch, "task begins");
        let inner = Arc::clone(&self.0);
        let call = Call { host: Arc::clone(&inner.host), task, epoch, counters, cancel };
        self.0.running.spawn(async move {
            for other in before {
                other.cancelled().await;
            }
            inner.run(key, call).await;
            done.cancel();
        });
        self.0.notify();
    }

    pub(crate) fn cancel(&self, key: &TaskKey) {
        let mut entries = self.0.entries();
        let Some(entry) = entries.get_mut(key) else { return };
        if matches!(entry.status, Status::Interrupted) {
            let state = TaskState::TaskCancelled.into();
            let report = v1::TaskReport { state, ..entry.report(key) };
            entry.status = Status::Ended { report: Box::new(report), acknowledged: false };
            self.0.notify();
        } else {
            entry.stop();
        }
    }

    /// The coordinator has recorded the end: it need not be told again. With the release, or where there is nothing
    /// to release, the operation is forgotten.
    pub(crate) fn acknowledge(&self, key: &TaskKey) {
        let mut entries = self.0.entries();
        let alone = !entries.keys().any(|other| other.operation == key.operation && other != key);
        let Some(entry) = entries.get_mut(key) else { return };
        let Status::Ended { report, acknowledged } = &mut entry.status else { return };
        *acknowledged = true;
        let over = match &entry.task.work {
            Some(Work::Release(_)) => report.state() == TaskState::TaskDone,
            // A release may run even so: who told of a verify that was cut short is released as well.
            Some(Work::Verify(_)) => alone,
            _ => false,
        };
        let record = entry.record();
        if over {
            entries.retain(|other, _| other.operation != key.operation);
        }
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        // Lost, it is told and acknowledged once more: no harm.
        let write = move || {
            let _one = inner.journaling.lock().unwrap_or_else(PoisonError::into_inner);
            // Looked at again: messages came between.
            let (known, others) = {
                let entries = inner.entries();
                (entries.contains_key(&key), entries.keys().any(|other| other.operation == key.operation))
            };
            let written = match (over, known, others) {
                (true, _, false) => inner.journal.forget_operation(&key.operation),
                (false, true, _) => inner.journal.write(&key, &record),
                _ => Ok(()),
            };
            if let Err(error) = written {
                tracing::warn!(task = %key, error = %error.chain(), "an acknowledgement was not journaled");
            }
            Ok(())
        };
        let blocking = self.0.host.seams.blocking;
        self.0.running.spawn(async move { blocking.run(write).await });
    }

    /// For a new session: what runs, what was interrupted, what ended unacknowledged, releases that failed, and of
    /// every operation that is not released at least one task, so that the coordinator learns of it.
    pub(crate) fn hello(&self) -> Vec<v1::TaskReport> {
        let entries = self.0.entries();
        let mut told = BTreeSet::new();
        let mut reports = Vec::new();
        // One that was released is not known any more.
        let failed = |entry: &Entry| matches!(entry.task.work, Some(Work::Release(_)));
        for (key, entry) in entries.iter().filter(|(_, entry)| !entry.is_acknowledged() || failed(entry)) {
            told.insert(key.operation.as_str());
            reports.push(entry.report(key));
        }
        for (key, entry) in entries.iter().rev() {
            if told.insert(key.operation.as_str()) {
                reports.push(entry.report(key));
            }
        }
        reports
    }

    pub(crate) fn running(&self) -> Vec<v1::TaskReport> {
        self.0.reports(|entry| matches!(entry.status, Status::Running { .. }))
    }

    pub(crate) fn unacknowledged(&self) -> Vec<v1::TaskReport> {
        self.0.reports(|entry| matches!(entry.status, Status::Ended { acknowledged: false, .. }))
    }

    /// Ends all that runs and forgets every operation, for an agent that has lost its place. What is given back is
    /// the agent's own and the engine's standstill; nothing in the data directory is touched, snapshots' links
    /// included.
    pub(crate) async fn stand_down(&self) {
        let stopped: Vec<CancellationToken> = self.0.entries().values().filter_map(Entry::stop).collect();
        let all = async {
            for done in &stopped {
                done.cancelled().await;
            }
        };
        if tokio::time::timeout(STAND_DOWN, all).await.is_err() {
            tracing::error!("a task does not stop, and goes on without a place");
        }
        let operations: BTreeSet<String> = self.0.entries().keys().map(|key| key.operation.clone()).collect();
        for operation in &operations {
            if let Err(error) = self.0.host.engine.thaw(operation).await {
                tracing::error!(operation, error = %error.chain(), "standing down: the data may still be frozen");
            }
        }
        let inner = Arc::clone(&self.0);
        let forgotten = self.0.host.seams.blocking.run(move || {
            let _one = inner.journaling.lock().unwrap_or_else(PoisonError::into_inner);
            operations.iter().try_for_each(|operation| {
                inner.host.state.remove_spool(operation)?;
                inner.journal.forget_operation(operation)
            })
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(error = %error.chain(), "standing down: something of an operation stays in the state directory");
        }
        self.0.entries().retain(|_, entry| matches!(entry.status, Status::Running { .. }));
    }

    /// Stops what runs, so that the next agent is told to do it again, and waits for it.
    pub(crate) async fn end(&self) {
        self.0.ending.cancel();
        self.0.entries().values().for_each(|entry| {
            entry.stop();
        });
        self.0.running.close();
        self.0.running.wait().await;
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn reports(&self, which: impl Fn(&Entry) -> bool) -> Vec<v1::TaskReport> {
        self.entries()
            .iter()
            .filter(|(_, entry)| which(entry))
            .map(|(key, entry)| entry.report(key))
            .collect()
    }

    async fn run(self: &Arc<Self>, key: TaskKey, call: Call) {
        let (counters, cancel) = (Arc::clone(&call.counters), call.cancel.clone());
        let record =
            Record { task: Some(call.task.clone()), epoch: call.epoch, report: None, acknowledged: false };
        let mut result = self.journal(&key, record.clone()).await;
        if let Err(error) = &result
            && matches!(call.task.work, Some(Work::Release(_)))
        {
            // What it gives back may be the very space that is missing, and doing it twice does no harm.
            tracing::warn!(task = %key, error = %error.chain(), "a release was not journaled");
            result = Ok(());
        }
        let mut outcome = None;
        if result.is_ok() {
            // In a task of its own, so that its panic ends here.
            match tokio::spawn(task::execute(call)).await {
                Ok(Ok(done)) => outcome = done,
                Ok(Err(error)) => result = Err(error),
                Err(panic) => result = Err(Error::internal("the task panicked").with_source(panic)),
            }
        }
        if result.is_err() && self.ending.is_cancelled() {
            tracing::info!(task = %key, "task interrupted: the agent ends");
            return;
        }
        let report = self.report(&key, &record, result, outcome, &counters, cancel.is_cancelled());
        // A failure to journal must not hide the end: it is told now, and if we die before it is acknowledged,
        // the task is done again.
        if let Err(error) = self.journal(&key, Record { report: Some(report.clone()), ..record }).await {
            tracing::error!(task = %key, error = %error.chain(), "the end of a task was not journaled");
        }
        if let Some(entry) = self.entries().get_mut(&key) {
            entry.status = Status::Ended { report: Box::new(report), acknowledged: false };
        }
        self.notify();
    }

    fn report(
        &self,
        key: &TaskKey,
        record: &Record,
        result: Result<()>,
        outcome: Option<Outcome>,
        counters: &Counters,
        cancelled: bool,
    ) -> v1::TaskReport {
        let (state, failure) = match result {
            Ok(()) => {
                tracing::info!(task = %key, "task done");
                (TaskState::TaskDone, None)
            }
            Err(error) if cancelled => {
                tracing::info!(task = %key, error = %error.chain(), "task cancelled");
                (TaskState::TaskCancelled, Some(self.failure(&error)))
            }
            Err(error) => {
                tracing::error!(task = %key, error = %error.chain(), "task failed");
                (TaskState::TaskFailed, Some(self.failure(&error)))
            }
        };
        v1::TaskReport {
            operation: key.operation.clone(),
            task: key.task.clone(),
            attempt: key.attempt,
            epoch: record.epoch,
            state: state.into(),
            progress: Some(counters.snapshot()),
            failure,
            result: outcome.map(|result| v1::TaskResult { result: Some(result) }),
        }
    }

    fn failure(&self, error: &Error) -> v1::Failure {
        v1::Failure { node: self.host.config.node.clone(), ..palinurus_proto::failure(error) }
    }

    async fn journal(self: &Arc<Self>, key: &TaskKey, record: Record) -> Result<()> {
        let (inner, key) = (Arc::clone(self), key.clone());
        let write = move || {
            let _one = inner.journaling.lock().unwrap_or_else(PoisonError::into_inner);
            inner.journal.write(&key, &record)
        };
        self.host.seams.blocking.run(write).await
    }
}

#[cfg(test)]
mod tests;
