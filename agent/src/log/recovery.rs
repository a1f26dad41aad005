//! The recovery that a restore has prepared: along which histories, and up to where. On disk, because the database asks for
//! log files long after the restore's task, and after a restart of the agent too.
use std::path::{Path, PathBuf};

use palinurus_proto::v1::{self, log_target};
use palinurus_repository::{Error, Result};
use prost::Message;

use crate::durable;
use crate::engine::{Plan, Target};

const NAME: &str = "recovery";

/// What the log files of a recovery are found by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recovery {
    pub(crate) repository: String,
    wire: v1::LogRestore,
}

impl Recovery {
    /// Without a log: a database that is to be no continuation of the one it comes from, and no more.
    pub(crate) fn of(task: &v1::Task, logs: Option<&v1::LogRestore>) -> Self {
        let immediate =
            v1::LogTarget { target: Some(log_target::Target::Immediate(true)), ..Default::default() };
        let alone = || v1::LogRestore { target: Some(immediate), ..Default::default() };
        Self { repository: task.repository.clone(), wire: logs.cloned().unwrap_or_else(alone) }
    }

    fn path(state: &Path) -> PathBuf {
        state.join(NAME)
    }

    pub(crate) fn keep(&self, state: &Path) -> Result<()> {
        let task = v1::Task {
            repository: self.repository.clone(),
            work: Some(v1::task::Work::Restore(v1::RestoreTask {
                logs: Some(self.wire.clone()),
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
            Some(v1::task::Work::Restore(v1::RestoreTask { logs: Some(wire), .. })) => {
                Ok(Some(Self { repository: task.repository, wire }))
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
        };
        if chain.is_empty() && target != Target::Immediate {
            return Err(Error::invalid("a recovery to a target without a log"));
        }
        Ok(Plan { chain, known, first: wire.first, end: wire.end, target })
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
