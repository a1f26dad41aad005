//! A log file that the database hands over is stored when all of it is, under this node's grant, and the same. What was
//! stored before is compared: the same is success, because an answer may have been lost, anything else is refused.
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::log::{Lineage, LogReader, LogStore, Position, Section};
use palinurus_repository::{Error, ErrorKind, Result};

use tokio::time::Instant;

use crate::engine::{History, LogFile, Logs, Pushed};
use crate::host::Host;

/// A database that shuts down waits for this, and may ask six times: less where nothing is stored at all.
const PATIENCE: Duration = Duration::from_secs(15);
const STALLED: Duration = Duration::from_secs(5);
/// Between looks at a server that was started just now.
const AGAIN: Duration = Duration::from_millis(200);
/// Compared at a time.
const STEP: u64 = 16 << 20;

/// What is stored from here, and how far it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storing {
    pub(super) granted: Option<Arc<Granted>>,
    pub(super) stored: Position,
    /// Why it does not go on.
    pub(super) trouble: Option<String>,
}

#[derive(Debug)]
pub(super) struct Granted {
    pub(super) store: LogStore,
    /// The oldest first; empty: none is known.
    pub(super) ancestors: Vec<Section>,
    pub(super) lineage: Lineage,
    pub(super) history: History,
}

/// Which part of the stored log a log file is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Of the chain that ends with that one of it.
    Part { at: usize, from: Position, to: Position },
    /// All of it lies before the log, or behind where its history was left: no restore reads it.
    Outside,
    /// Nobody knows that history yet.
    Unknown,
}

impl Granted {
    /// Ancestors first, the lineage that is written last.
    fn chain(&self) -> Vec<Section> {
        let own = Section { lineage: self.lineage.clone(), to: None };
        self.ancestors.iter().cloned().chain([own]).collect()
    }

    fn place(&self, identity: &[u8], from: Position, to: Position) -> Place {
        let chain = self.chain();
        let Some(at) = chain.iter().position(|section| section.lineage.identity == identity) else {
            let parent = self.history.parents.iter().any(|fork| fork.identity == identity);
            return if parent { Place::Outside } else { Place::Unknown };
        };
        let begins = chain.first().map_or(0, |section| section.lineage.from);
        let (from, to) = (from.max(begins), to.min(chain[at].to.unwrap_or(Position::MAX)));
        if from < to { Place::Part { at, from, to } } else { Place::Outside }
    }
}

/// Comes back when the file is durable in the store, or says why it is not.
pub(super) async fn push(host: &Host, logs: &Arc<dyn Logs>, file: &LogFile) -> Result<()> {
    let mut trouble = None;
    let ended = tokio::time::timeout(PATIENCE, stored(host, logs, file, &mut trouble)).await;
    let late = Error::unavailable("it takes too long");
    ended.unwrap_or(Err(late)).map_err(|late| {
        if late.kind() != ErrorKind::Unavailable {
            return late;
        }
        let error = Error::unavailable(format!("{} is not stored yet", file.name))
            .with_hint("the database keeps it and asks again; `palinurus logs show` says how far the log is");
        let why = host.storing.borrow().trouble.clone().or(trouble);
        error.with_source(why.unwrap_or_else(|| late.chain()))
    })
}

async fn stored(
    host: &Host,
    logs: &Arc<dyn Logs>,
    file: &LogFile,
    trouble: &mut Option<String>,
) -> Result<()> {
    let pushed = loop {
        match logs.pushed(file).await {
            Err(e) if e.kind() == ErrorKind::Unavailable => *trouble = Some(e.chain()),
            pushed => break pushed?,
        }
        tokio::time::sleep(AGAIN).await;
    };
    match pushed {
        Pushed::Nothing => Ok(()),
        Pushed::Account { identity } => {
            let account = content(host, logs, file).await?;
            let account = account.ok_or_else(|| {
                Error::not_found(format!("the database does not have {} itself", file.name))
            })?;
            let place = until(host, |granted, _| known(granted.place(&identity, 0, Position::MAX))).await?;
            match place {
                (granted, Place::Part { at, .. }) => {
                    granted.store.put_history(&granted.chain()[at].lineage, &account).await
                }
                _ => Ok(()),
            }
        }
        Pushed::Bytes { identity, from, to, whole } => {
            let seen = until(host, |granted, stored| match granted.place(&identity, from, to) {
                Place::Part { at, to, .. } if at == granted.ancestors.len() && to > stored => match whole {
                    true => Ok(None),
                    false => Err(Error::conflict(format!("the database has not handed {} over", file.name))
                        .with_hint("this is for archive_command: it stores files that the server has ended")),
                },
                place => known(place),
            });
            match seen.await? {
                (granted, Place::Part { at, from: begin, to: end }) => {
                    let content = match logs.given(&file.name) {
                        Some(given) if given == file.digest => return Ok(()),
                        Some(_) => return Err(another(file)),
                        None => content(host, logs, file).await?,
                    };
                    same(file, &granted, at, from..to, begin..end, content).await
                }
                _ => Ok(()),
            }
        }
    }
}

fn known(place: Place) -> Result<Option<Place>> {
    Ok((place != Place::Unknown).then_some(place))
}

/// Waits until `see` has an answer.
async fn until<T>(
    host: &Host,
    see: impl Fn(&Granted, Position) -> Result<Option<T>>,
) -> Result<(Arc<Granted>, T)> {
    let mut changes = host.storing.subscribe();
    let (mut stored, mut moved) = (0, Instant::now());
    loop {
        let now = changes.borrow_and_update().clone();
        if now.stored != stored {
            (stored, moved) = (now.stored, Instant::now());
        }
        if let Some(granted) = now.granted
            && let Some(seen) = see(&granted, now.stored)?
        {
            return Ok((granted, seen));
        }
        let changed = tokio::time::timeout_at(moved + STALLED, changes.changed()).await;
        let changed = changed.map_err(|_| Error::unavailable("nothing of the log is stored just now"))?;
        changed.map_err(|_| Error::internal("nobody stores the log any more"))?;
    }
}

/// The file as the database has it, which must be the one that is asked for.
async fn content(host: &Host, logs: &Arc<dyn Logs>, file: &LogFile) -> Result<Option<Vec<u8>>> {
    let (logs, name) = (Arc::clone(logs), file.name.clone());
    let content = host.seams.blocking.run(move || logs.content(&name)).await?;
    match content {
        Some(content) if blake3::hash(&content) != file.digest => Err(another(file)),
        content => Ok(content),
    }
}

fn another(file: &LogFile) -> Error {
    Error::corrupt(format!("{} is another file than is stored under that name", file.name)).with_hint(
        "two servers write one log, or data was brought back without a new timeline: nothing was overwritten; restore with --to, or give this server a service of its own",
    )
}

/// Holds `part` of the stored log, along the chain to `at`, against the file, whose bytes are those of `all`.
async fn same(
    file: &LogFile,
    granted: &Granted,
    at: usize,
    all: Range<Position>,
    part: Range<Position>,
    content: Option<Vec<u8>>,
) -> Result<()> {
    if content.is_none() && part != all {
        return Err(Error::conflict(format!(
            "a part of {} is stored, and the database has the file no more to compare it with",
            file.name
        )));
    }
    let mut chain = granted.chain();
    chain.truncate(at + 1);
    let mut reader = LogReader::open(granted.store.clone(), chain, part.start).await?;
    let (mut digest, mut position) = (blake3::Hasher::new(), part.start);
    while position < part.end {
        let next = part.end.min(position + STEP);
        let stored = reader.read(position..next).await?;
        let within = (position - all.start) as usize..(next - all.start) as usize;
        if content.as_ref().is_some_and(|content| content.get(within) != Some(&stored[..])) {
            return Err(another(file));
        }
        digest.update(&stored);
        position = next;
    }
    if content.is_some() || digest.finalize() == file.digest { Ok(()) } else { Err(another(file)) }
}
