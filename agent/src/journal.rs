//! What the agent was told to do and what became of it, on disk before it is begun and before it is reported. A
//! restarted agent knows from here which operations still hold something.
use std::fmt;
use std::path::{Path, PathBuf};

use palinurus_proto::v1;
use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};
use prost::Message;

use crate::durable;

const MAGIC: &[u8; 8] = b"PLNTASK1";
const ASIDE: &str = "damaged";

/// Which task, which time. The second message about the same is no second task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskKey {
    pub(crate) operation: String,
    pub(crate) task: String,
    pub(crate) attempt: u32,
}

impl TaskKey {
    pub(crate) fn of(task: &v1::Task) -> Self {
        Self { operation: task.operation.clone(), task: task.task.clone(), attempt: task.attempt }
    }

    /// Whether the two differ in the attempt only, if at all.
    pub(crate) fn is_same_work(&self, other: &TaskKey) -> bool {
        (&self.operation, &self.task) == (&other.operation, &other.task)
    }

    /// Both become file names.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("operation", &self.operation)?;
        check_name("task", &self.task)
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.operation, self.task, self.attempt)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(message, optional, tag = "1")]
    pub(crate) task: Option<v1::Task>,
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// How it ended; none: it has not.
    #[prost(message, optional, tag = "3")]
    pub(crate) report: Option<v1::TaskReport>,
    /// The coordinator has recorded the end.
    #[prost(bool, tag = "4")]
    pub(crate) acknowledged: bool,
}

#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal and what is in it. A record that does not parse is set aside: the coordinator sends the task
    /// again, and every task may be repeated.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Vec<(TaskKey, Record)>)> {
        let mut found = Vec::new();
        for operation in durable::names(directory)? {
            let path = directory.join(&operation);
            if !path.is_dir() {
                continue;
            }
            for name in durable::names(&path)? {
                let path = path.join(&name);
                if path.extension().is_some_and(|extension| extension == ASIDE) {
                    continue;
                }
                let bytes =
                    std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
                match decode(&bytes).filter(|(key, _)| path_of(directory, key) == path) {
                    Some(record) => found.push(record),
                    None => set_aside(&path)?,
                }
            }
        }
        Ok((Self { directory: directory.to_owned() }, found))
    }

    /// Durable when it returns.
    pub(crate) fn write(&self, key: &TaskKey, record: &Record) -> Result<()> {
        let path = path_of(&self.directory, key);
        if let Some(directory) = path.parent()
            && !directory.exists()
        {
            durable::create_dir(directory)?;
        }
        let body = record.encode_to_vec();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&checksum(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        durable::write(&path, &bytes)
    }

    pub(crate) fn forget_operation(&self, operation: &str) -> Result<()> {
        check_name("operation", operation)?;
        durable::remove_dir(&self.directory.join(operation))?;
        durable::sync_parent(&self.directory.join(operation))
    }
}

fn path_of(directory: &Path, key: &TaskKey) -> PathBuf {
    directory.join(&key.operation).join(format!("{}-{}", key.task, key.attempt))
}

fn decode(bytes: &[u8]) -> Option<(TaskKey, Record)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, body) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*sum) != checksum(body) {
        return None;
    }
    let record = Record::decode(body).ok()?;
    let key = TaskKey::of(record.task.as_ref()?);
    key.check().ok()?;
    Some((key, record))
}

fn set_aside(path: &Path) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(ASIDE);
    tracing::warn!(path = %path.display(), "a journal record is damaged: set aside, its task will be sent again");
    std::fs::rename(path, &aside).map_err(|e| Error::io(format!("set {} aside", path.display()), e))
}

/// FNV-1a: finds damage, proves nothing.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(operation: &str, attempt: u32) -> v1::Task {
        v1::Task {
            operation: operation.into(),
            task: "snapshot".into(),
            attempt,
            work: Some(v1::task::Work::Snapshot(v1::SnapshotTask {})),
            ..Default::default()
        }
    }

    fn write(journal: &Journal, task: v1::Task) -> TaskKey {
        let key = TaskKey::of(&task);
        journal
            .write(&key, &Record { task: Some(task), epoch: 3, report: None, acknowledged: false })
            .unwrap();
        key
    }

    #[test]
    fn remembers_until_the_operation_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        assert!(found.is_empty());
        let keys = [
            write(&journal, task("op1", 1)),
            write(&journal, task("op1", 2)),
            write(&journal, task("op2", 1)),
        ];
        let ended = Record {
            task: Some(task("op1", 1)),
            epoch: 3,
            report: Some(v1::TaskReport { state: v1::TaskState::TaskDone.into(), ..Default::default() }),
            acknowledged: true,
        };
        journal.write(&keys[0], &ended).unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        assert_eq!(found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys);
        assert_eq!(found[0].1, ended);
        journal.forget_operation("op1").unwrap();
        journal.forget_operation("op1").unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().1.len(), 1);
    }

    #[test]
    fn damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        write(&journal, task("op1", 1));
        let path = dir.path().join("op1/snapshot-1");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            for bytes in [&bytes[..], &whole[..at]] {
                std::fs::write(&path, bytes).unwrap();
                assert!(Journal::open(dir.path()).unwrap().1.is_empty(), "at {at}");
                assert!(!path.exists() && path.with_extension("damaged").exists());
            }
        }
        // Another task's record under this name, and half a record.
        std::fs::write(dir.path().join("op1/thaw-1"), &whole).unwrap();
        std::fs::write(dir.path().join("op1/x.partial"), b"").unwrap();
        std::fs::write(dir.path().join("stray"), b"").unwrap();
        assert!(Journal::open(dir.path()).unwrap().1.is_empty());
        assert!(!dir.path().join("op1/x.partial").exists());
    }
}
