//! WAL that the server hands over file by file: `archive_command` says that one has ended, and the server keeps it in
//! `pg_wal` until it hears that it is stored. Until then it is read from there.
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use palinurus_repository::{Error, Result};
use tokio::sync::watch;

use super::logs::WalIdentity;
use super::lsn::{Lsn, Segment};
use crate::engine::{Fork, LogFile, Pushed};

pub(super) const WAL: &str = "pg_wal";
const STATUS: &str = "archive_status";
/// Digests that are remembered of files that were read.
const GIVEN_MAX: usize = 16;
const ACCOUNT_MAX: u64 = 1 << 20;

/// What a look at the server showed. One that was started since may write something else under the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) run: String,
    pub(super) identity: WalIdentity,
    pub(super) parents: Vec<Fork>,
    pub(super) segment_size: u64,
}

/// What the server has said has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) run: String,
    pub(super) timeline: u32,
    pub(super) until: u64,
}

#[derive(Debug)]
pub(super) struct Pushes {
    root: PathBuf,
    looked: Mutex<Option<Looked>>,
    pub(super) ended: watch::Sender<Ended>,
    given: Mutex<VecDeque<(String, blake3::Hash)>>,
    /// Up to where backups that are open have copied what they need, each under its number.
    holds: watch::Sender<BTreeMap<u64, u64>>,
}

/// An open backup: until it has copied them, no more files are said to be stored.
#[derive(Debug)]
pub(super) struct Hold {
    pushes: Arc<Pushes>,
    number: u64,
}

impl Hold {
    pub(super) fn copied(&self, position: u64) {
        self.pushes.holds.send_modify(|holds| {
            holds.insert(self.number, position);
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pushes.holds.send_modify(|holds| {
            holds.remove(&self.number);
        });
    }
}

/// As PostgreSQL names what it archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Segment(Segment),
    /// The last of a timeline that was left in its middle.
    Partial(Segment),
    /// Says where a backup began: so does the backup.
    Backup,
    History(u32),
}

impl Named {
    fn parse(name: &str, size: u64) -> Result<Self> {
        let wrong = || Error::invalid(format!("{name:?} is not a file that PostgreSQL archives"));
        let is_hex = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
        let hex = |text: &str, len: usize| text.len() == len && text.chars().all(is_hex);
        let number = |text: &str| u32::from_str_radix(text, 16).map_err(|_| wrong());
        if let Some(timeline) = name.strip_suffix(".history").filter(|text| hex(text, 8)) {
            return number(timeline).map(Self::History);
        }
        let (file, kind) = name.split_once('.').unwrap_or((name, ""));
        if !hex(file, 24) {
            return Err(wrong());
        }
        let (high, low) = (u64::from(number(&file[8..16])?), u64::from(number(&file[16..])?));
        let per_id = (1 << 32) / size;
        if low >= per_id {
            return Err(wrong());
        }
        let segment = Segment { timeline: number(&file[..8])?, number: high * per_id + low, size };
        match kind.split_once('.') {
            None if kind.is_empty() => Ok(Self::Segment(segment)),
            None if kind == "partial" => Ok(Self::Partial(segment)),
            Some((offset, "backup")) if hex(offset, 8) => Ok(Self::Backup),
            _ => Err(wrong()),
        }
    }
}

/// Which process the server in `root` is, and since when: another one may write another history. Blocks.
pub(super) fn run(root: &Path) -> Result<Option<String>> {
    let path = root.join("postmaster.pid");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut lines = text.lines();
            let pid = lines.next().unwrap_or_default();
            Ok(Some(format!("{pid} {}", lines.nth(1).unwrap_or_default())))
        }
        Err(e) if e.kind() == NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

impl Pushes {
    pub(super) fn new(root: &Path) -> Self {
        let (looked, given) = (Mutex::default(), Mutex::default());
        let (ended, holds) = (watch::Sender::default(), watch::Sender::default());
        Self { root: root.to_owned(), looked, ended, given, holds }
    }

    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        let mut number = 0;
        self.holds.send_modify(|holds| {
            number = holds.last_key_value().map_or(0, |(last, _)| last + 1);
            holds.insert(number, 0);
        });
        Hold { pushes: Arc::clone(self), number }
    }

    /// When no open backup needs what lies before that position any more.
    pub(super) async fn copied(&self, position: u64) {
        let mut holds = self.holds.subscribe();
        // The sender is our own.
        let _ = holds.wait_for(|holds| holds.values().all(|copied| *copied >= position)).await;
    }

    pub(super) fn look(&self, looked: Option<Looked>) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = looked;
        // What was read under the same names may have been another history's.
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn looked(&self) -> Option<Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(WAL).join(name)
    }

    pub(super) fn give(&self, segment: Segment, digest: blake3::Hash) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() == GIVEN_MAX {
            given.pop_front();
        }
        given.push_back((segment.name(), digest));
    }

    pub(super) fn given(&self, name: &str) -> Option<blake3::Hash> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.iter().rev().find(|(known, _)| known == name).map(|(_, digest)| *digest)
    }

    /// Blocks.
    pub(super) fn content(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        let failed = |e| Error::io(format!("read {}", path.display()), e);
        let limit = self.looked().map_or(0, |looked| looked.segment_size).max(ACCOUNT_MAX);
        match path.symlink_metadata() {
            Ok(found) if found.is_file() && found.len() <= limit => fs::read(&path).map(Some).map_err(failed),
            Ok(_) => Err(Error::corrupt(format!("{} is no file of WAL", path.display()))),
            Err(e) if e.kind() == NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// What the file is. Of the history that is written now, the stream goes on to its end. Blocks.
    pub(super) fn pushed(&self, file: &LogFile) -> Result<Pushed> {
        if self.root.join("standby.signal").exists() {
            return Err(Error::conflict("this server is a standby: its primary hands the WAL over")
                .with_hint("set archive_mode = on, instead of always"));
        }
        let now = run(&self.root)?.unwrap_or_default();
        self.ended.send_if_modified(|ended| {
            let other = ended.run != now;
            if other {
                *ended = Ended { run: now.clone(), ..Ended::default() };
            }
            other
        });
        let looked = self.looked().filter(|looked| looked.run == now).ok_or_else(|| {
            Error::unavailable("the agent has not looked at this server since it was started")
        })?;
        let system_identifier = looked.identity.system_identifier;
        let identity = |timeline| WalIdentity { system_identifier, timeline }.encode();
        let (segment, partial) = match Named::parse(&file.name, looked.segment_size)? {
            Named::Backup => return Ok(Pushed::Nothing),
            Named::History(timeline) => return Ok(Pushed::Account { identity: identity(timeline) }),
            Named::Segment(segment) => (segment, false),
            Named::Partial(segment) => (segment, true),
        };
        segment.check_pushed(&file.head, system_identifier)?;
        if file.length != segment.size {
            return Err(Error::corrupt(format!("{} has {} bytes", file.name, file.length)));
        }
        let status = |end| self.root.join(WAL).join(STATUS).join(format!("{}.{end}", file.name)).exists();
        let whole = status("ready") || status("done");
        let until = segment.end().0;
        if whole && !partial && segment.timeline == looked.identity.timeline {
            self.ended.send_if_modified(|ended| {
                let further = ended.timeline != segment.timeline || ended.until < until;
                if further {
                    (ended.timeline, ended.until) = (segment.timeline, until);
                }
                further
            });
        }
        Ok(Pushed::Bytes { identity: identity(segment.timeline), from: segment.start().0, to: until, whole })
    }

    /// From where on `pg_wal` has all of that history. Blocks.
    pub(super) fn oldest(&self, looked: &Looked, end: Lsn) -> Result<u64> {
        let mut first = Segment::of(looked.identity.timeline, end, looked.segment_size);
        while first.number > 0 {
            let before = Segment { number: first.number - 1, timeline: 0, ..first };
            if self.find(looked, before)?.is_none() {
                break;
            }
            first = before;
        }
        Ok(first.start().0)
    }

    /// The file that has this segment of the history: of its own timeline, or of one that it leads to, which begins with a
    /// copy of what lies before it. Blocks.
    pub(super) fn find(&self, looked: &Looked, segment: Segment) -> Result<Option<PathBuf>> {
        let mut timelines = vec![looked.identity.timeline];
        for fork in looked.parents.iter().rev().filter(|fork| fork.until > segment.start().0) {
            timelines.push(WalIdentity::decode(&fork.identity)?.timeline);
        }
        timelines.retain(|timeline| *timeline >= segment.timeline);
        let names = timelines.into_iter().rev().flat_map(|timeline| {
            let name = Segment { timeline, ..segment }.name();
            [name.clone(), format!("{name}.partial")]
        });
        Ok(names.map(|name| self.path(&name)).find(|path| path.is_file()))
    }
}

impl Segment {
    /// As [`check_header`](Self::check_header), of what is handed over.
    fn check_pushed(self, head: &[u8], system_identifier: u64) -> Result<()> {
        let of = head.get(24..32).and_then(|bytes| bytes.first_chunk()).copied().map(u64::from_le_bytes);
        if let Some(of) = of.filter(|of| *of != system_identifier) {
            return Err(Error::conflict(format!(
                "{} is of cluster {of}, and this agent's server is cluster {system_identifier}",
                self.name()
            ))
            .with_hint("this archive_command names the --state of another server's agent"));
        }
        self.check_header(head, system_identifier)
    }
}
