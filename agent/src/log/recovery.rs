//! The recovery that a restore has prepared: along which histories, and up to where. On disk, because the database asks for
//! log files long after the restore's task, and after a restart of the agent too.
use std::path::{Path, PathBuf};

use palinurus_proto::v1::{self, log_target};
use palinurus_repository::{Error, Result};
use prost::Message;

use crate::durable;
use crate::engine::{Logs, Plan, Target};
use crate::host::Host;
use crate::repositories::Unlocked;

const NAME: &str = "recovery";

/// What the log files of a recovery are found by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recovery {
    repository: String,
    /// Where it reads instead, of a fork. None once that has recovered, as `repository` is empty then.
    parent: Option<v1::Parent>,
    /// Whose restore it was, once that is whole; before, it is nobody's.
    operation: String,
    wire: v1::LogRestore,
}

impl Recovery {
    /// Without a log: a database that is to be no continuation of the one it comes from, and no more.
    pub(crate) fn of(task: &v1::Task, logs: Option<&v1::LogRestore>) -> Self {
        let immediate =
            v1::LogTarget { target: Some(log_target::Target::Immediate(true)), ..Default::default() };
        let alone = || v1::LogRestore { target: Some(immediate), ..Default::default() };
        let wire = logs.cloned().unwrap_or_else(alone);
        let parent = match &task.work {
            Some(v1::task::Work::Restore(restore)) => restore.parent.clone(),
            _ => None,
        };
        Self { repository: task.repository.clone(), parent, operation: String::new(), wire }
    }

    /// What the log files are put together from.
    pub(crate) async fn unlock(&self, host: &Host) -> Result<Unlocked> {
        match &self.parent {
            Some(parent) => host.unlock_parent(parent).await,
            None if self.repository.is_empty() => {
                Err(Error::denied("this fork has recovered: it reads nothing of its parent's any more")
                    .with_hint("the database has a restore_command of the fork: remove recovery.signal"))
            }
            None => host.unlock(&self.repository).await,
        }
    }

    /// All is restored: what is asked from here on is whether it has recovered.
    pub(crate) fn begins(&mut self, state: &Path, operation: &str) -> Result<()> {
        operation.clone_into(&mut self.operation);
        self.keep(state)
    }

    /// The operation whose restored data has recovered here. Blocks.
    pub(crate) fn ended(state: &Path, logs: &dyn Logs) -> Result<Option<String>> {
        let recovery = Self::read(state)?.filter(|recovery| !recovery.operation.is_empty());
        let Some(mut recovery) = recovery.filter(|_| !logs.recovers()) else { return Ok(None) };
        if recovery.parent.take().is_some() {
            recovery.repository.clear();
            recovery.keep(state)?;
        }
        Ok(Some(recovery.operation))
    }

    fn path(state: &Path) -> PathBuf {
        state.join(NAME)
    }

    pub(crate) fn keep(&self, state: &Path) -> Result<()> {
        let task = v1::Task {
            repository: self.repository.clone(),
            operation: self.operation.clone(),
            work: Some(v1::task::Work::Restore(v1::RestoreTask {
                logs: Some(self.wire.clone()),
                parent: self.parent.clone(),
                ..Default::default()
            })),
            ..Default::default()
        };
        durable::write(&Self::path(state), &task.encode_to_vec())
    }

    /// The last that was kept.
    pub(crate) fn read(state: &Path) -> Result<Option<Self>> {
        let path = Self::path(state);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
        };
        let wrong = || {
            Error::corrupt(format!("{} does not parse", path.display()))
                .with_hint("restore again: it says which log a recovery needs")
        };
        let task = v1::Task::decode(&*bytes).map_err(|e| wrong().with_source(e))?;
        match task.work {
            Some(v1::task::Work::Restore(v1::RestoreTask { logs: Some(wire), parent, .. })) => {
                Ok(Some(Self { repository: task.repository, parent, operation: task.operation, wire }))
            }
            _ => Err(wrong()),
        }
    }

    pub(crate) fn plan(&self) -> Result<Plan> {
        let wire = &self.wire;
        let chain = match wire.chain.is_empty() {
            true => Vec::new(),
            false => palinurus_proto::logs::chain(&wire.chain)?,
        };
        let known = wire.known.iter().map(|lineage| lineage.identity.to_vec()).collect();
        let target = wire.target.as_ref().and_then(|target| target.target.clone());
        let target = match target.ok_or_else(|| Error::invalid("a recovery without a target"))? {
            log_target::Target::Latest(_) => Target::End,
            // The database would wait in vain for a record behind it.
            log_target::Target::Position(at) if at >= wire.end => Target::End,
            log_target::Target::Position(at) => Target::Position(at),
            log_target::Target::TimeUs(at) => Target::Time(at),
            log_target::Target::Name(name) => Target::Name(name),
            log_target::Target::Immediate(_) => Target::Immediate,
            log_target::Target::Follow(_) => Target::Follow,
        };
        if chain.is_empty() && !matches!(target, Target::Immediate | Target::Follow) {
            return Err(Error::invalid("a recovery to a target without a log"));
        }
        let fork = self.parent.is_some();
        Ok(Plan { chain, known, first: wire.first, end: wire.end, target, fork })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Recovery::read(dir.path()).unwrap(), None);
        let task = v1::Task { repository: "file:///r".into(), ..Default::default() };
        let alone = Recovery::of(&task, None);
        alone.keep(dir.path()).unwrap();
        let read = Recovery::read(dir.path()).unwrap().unwrap();
        assert_eq!((read.plan().unwrap().target, &read), (Target::Immediate, &alone));
        let to = |target, end| {
            let target = Some(v1::LogTarget { target: Some(target), ..Default::default() });
            Recovery::of(&task, Some(&v1::LogRestore { target, end, ..Default::default() })).plan()
        };
        assert!(to(log_target::Target::Latest(true), 9).is_err(), "no log to go along");
        std::fs::write(dir.path().join(NAME), b"\xff").unwrap();
        assert!(Recovery::read(dir.path()).unwrap_err().hint().is_some());
    }
}
