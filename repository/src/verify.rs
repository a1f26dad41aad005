//! Looks for damage: whatever a repository holds is compared with what it should hold, before a restore needs it.
//!
//! Without reading the data, everything else is read: the header, the ledger, every manifest, index segment and pack
//! trailer; and everything that these say of each other is compared, down to the ids of the files. With it, every
//! frame is opened and every chunk's id computed anew, and the pages of each node's newest backup are held against their
//! maps: what then finds nothing is restored as it was, byte for byte.
//!
//! Logs are followed from piece to piece, each piece's trailer opened, or with the data all of it.
//!
//! Nothing found ends the search. Objects of open transactions and leftovers of ended ones are no damage.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::commit::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::ledger::{BackupRecord, Ledger, Objects, PackSet, State};
use crate::pack::PackId;

mod access;
mod extent;
mod logs;
mod manifests;
mod packs;
mod pages;
mod spoiled;
mod trailer;
mod trailers;
mod window;

pub use extent::ReadData;
pub use logs::LogSeen;
use spoiled::Bad;
pub use spoiled::SpoiledFile;
pub use trailer::read_trailer;
use trailers::Trailers;

/// How many different things are said of one object; more are counted.
const SAID_MAX: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DamageKind {
    Missing,
    /// Shorter or longer than it was written.
    WrongSize,
    /// Its bytes were changed, moved or cut.
    DoesNotOpen,
    /// It opens, and contradicts what else is known.
    Inconsistent,
    /// The store did not give it. May pass.
    Unreadable,
}

impl DamageKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::WrongSize => "wrong_size",
            Self::DoesNotOpen => "does_not_open",
            Self::Inconsistent => "inconsistent",
            Self::Unreadable => "unreadable",
        }
    }

    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::Corrupt | ErrorKind::Invalid => Self::DoesNotOpen,
            _ => Self::Unreadable,
        }
    }
}

/// One damaged object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub object: String,
    pub kind: DamageKind,
    pub what: String,
    /// The backups that need the object, in the order of their commits. None need an index segment, or a log: each restores
    /// by itself.
    pub backups: Vec<BackupId>,
    /// Some of the files that cannot be restored for it; all are counted, once a manifest that names them.
    pub files: Vec<SpoiledFile>,
    pub file_count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By object. Empty when all is well.
    pub damages: Vec<Damage>,
    pub records_checked: u64,
    pub backups_checked: u64,
    pub manifests_checked: u64,
    pub entries_checked: u64,
    pub packs_checked: u64,
    pub segments_checked: u64,
    /// Index segments that were read once more, because the trailers of all packs took too much memory.
    pub segments_again: u64,
    /// Only with the data read: chunks whose id was computed anew, and their bytes.
    pub chunks_checked: u64,
    pub bytes_checked: u64,
    /// By lineage.
    pub logs: Vec<LogSeen>,
    /// What nothing new may be built on.
    pub damaged: Objects,
    /// What the ledger calls damaged, and was now read in full and found whole.
    pub whole: Objects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `ledger`, `packs`, `manifests` or `logs`.
    pub phase: &'static str,
    pub done: u64,
    pub total: u64,
    /// Of the data, read so far.
    pub bytes: u64,
    /// At the beginning of `manifests`: index segments that are read again for every window, at most.
    pub again: u64,
}

/// Bytes that a check may hold, beside one block of a manifest and one index segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For trailers of packs: when they take more, index segments are read again.
    pub trailers: usize,
    /// For what manifests name, before it is looked up.
    pub window: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { trailers: 64 << 20, window: 32 << 20 }
    }
}

/// Checks a repository. An error means that it could not be looked at; damage is in the report.
pub async fn check(
    repository: &Repository,
    read_data: impl Into<ReadData>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    check_within(repository, read_data, Memory::default(), progress).await
}

/// As [`check`], with memory of the caller's choice.
pub async fn check_within(
    repository: &Repository,
    read_data: impl Into<ReadData>,
    memory: Memory,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report> {
    let mut check = Check {
        repository,
        memory,
        read_data: read_data.into(),
        progress,
        backups: Vec::new(),
        doubted: Objects::default(),
        bad: HashMap::new(),
        found: Findings::default(),
        report: Report::default(),
        trailers: Trailers::new(repository, memory.trailers),
    };
    check.ledger().await;
    check.backups = repository.backups().await;
    check.report.backups_checked = check.backups.len() as u64;
    check.doubted = repository.read(State::damaged).await;
    check.header().await;
    let keys = check.wrappers().await;
    check.masters(&keys).await;
    check.packs().await;
    check.manifests().await;
    check.logs().await;
    check.finish().await
}

struct Check<'a> {
    repository: &'a Repository,
    memory: Memory,
    read_data: ReadData,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    backups: Vec<Arc<BackupRecord>>,
    /// Damaged, as the ledger knows.
    doubted: Objects,
    /// Packs of which something does not open: their files are looked for in the manifests.
    bad: HashMap<PackId, Bad>,
    found: Findings,
    report: Report,
    trailers: Trailers,
}

/// What was found, by object and kind.
#[derive(Debug, Default)]
struct Findings(BTreeMap<(String, DamageKind), Finding>);

#[derive(Debug, Default)]
struct Finding {
    said: Vec<String>,
    more: u64,
    backups: BTreeSet<BackupId>,
    files: Vec<SpoiledFile>,
    file_count: u64,
}

impl Findings {
    fn add(
        &mut self,
        object: &str,
        kind: DamageKind,
        what: impl Into<String>,
        backups: impl IntoIterator<Item = BackupId>,
    ) {
        let finding = self.0.entry((object.to_owned(), kind)).or_default();
        let what = what.into();
        if finding.said.len() < SAID_MAX && !finding.said.contains(&what) {
            finding.said.push(what);
        } else if !finding.said.contains(&what) {
            finding.more += 1;
        }
        finding.backups.extend(backups);
    }

    fn error(&mut self, object: &str, error: &Error, backups: impl IntoIterator<Item = BackupId>) {
        // The object's name stands beside it already.
        let chain = error.chain();
        let what = chain.strip_prefix(object).map_or(&chain[..], |rest| rest.trim_start_matches([':', ' ']));
        let kind = DamageKind::of(error);
        self.add(object, kind, if what.is_empty() { error.kind().name() } else { what }, backups);
    }
}

impl Check<'_> {
    fn tell(&self, phase: &'static str, done: u64, total: u64) {
        (self.progress)(Progress { phase, done, total, bytes: self.report.bytes_checked, again: 0 });
    }

    fn all(&self) -> Vec<BackupId> {
        self.backups.iter().map(|backup| backup.id).collect()
    }

    /// The chain is followed anew from its first record; what this process knew already must still be there.
    async fn ledger(&mut self) {
        self.tell("ledger", 0, 1);
        let refreshed = self.repository.refresh().await;
        let known: Vec<_> = self.repository.backups().await;
        let ids = || known.iter().map(|backup| backup.id);
        let (ledger, read) = Ledger::examine(self.repository.storage().clone(), self.repository.keys()).await;
        self.report.records_checked = ledger.next();
        let object = format!("ledger/{:020}", ledger.next());
        if let Err(error) = read {
            let gone = self.repository.storage().size(&object).await;
            let gone = gone.is_err_and(|e| e.kind() == ErrorKind::NotFound);
            let kind = if gone { DamageKind::Missing } else { DamageKind::of(&error) };
            self.found.add(&object, kind, error.chain(), ids());
        } else if let Some((last, _)) =
            self.repository.head().await.filter(|(last, _)| *last >= ledger.next())
        {
            let what = format!("the ledger ended with record {last} and has lost its end");
            self.found.add(&object, DamageKind::Missing, what, ids());
        } else if let Err(error) = refreshed {
            self.found.error("ledger/", &error, ids());
        }
        for number in ledger.voids() {
            let what = "the rules refuse this record: it counts for nothing, and no writer of ours made it";
            self.found.add(&format!("ledger/{number:020}"), DamageKind::Inconsistent, what, []);
        }
        self.tell("ledger", 1, 1);
    }

    /// Those of the backups that reference some of `packs`.
    fn users(&self, packs: &PackSet) -> Vec<BackupId> {
        self.backups.iter().filter(|backup| backup.packs.intersects(packs)).map(|backup| backup.id).collect()
    }

    /// What was deleted while we looked is no damage: its backup is gone, or lies elsewhere now.
    async fn finish(mut self) -> Result<Report> {
        // Fails where the ledger is damaged, which was found already.
        let refreshed = self.repository.refresh().await;
        let now = self.repository.backups().await;
        let still: BTreeMap<BackupId, usize> = (self.backups.iter().enumerate())
            .filter(|(_, then)| refreshed.is_err() || now.iter().any(|now| now == *then))
            .map(|(order, then)| (then.id, order))
            .collect();
        for ((object, kind), finding) in self.found.0 {
            let mut backups: Vec<BackupId> = finding.backups.iter().copied().collect();
            backups.retain(|id| still.contains_key(id));
            if backups.is_empty() && !finding.backups.is_empty() {
                continue;
            }
            backups.sort_by_key(|id| still.get(id).copied());
            let mut what = finding.said.join("; ");
            if finding.more > 0 {
                what.push_str(&format!("; and {} more", finding.more));
            }
            spoiled::note(&mut self.report.damaged, &object, kind);
            let Finding { files, file_count, .. } = finding;
            self.report.damages.push(Damage { object, kind, what, backups, files, file_count });
        }
        self.report.whole.packs.remove(&self.report.damaged.packs);
        self.report.whole.manifests.retain(|name| !self.report.damaged.manifests.contains(name));
        Ok(self.report)
    }
}
