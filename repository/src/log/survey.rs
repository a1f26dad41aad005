//! One look at a repository's logs: what is covered, which windows there are, and where a target lies in them.
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::windows::{Anchor, Lineages, Window, windows};
use super::{Counted, Coverage, Gathering, LogStore, Piece, Position, Trail};
use crate::clock::Timestamp;
use crate::commit::Repository;
use crate::error::{Error, Result};
use crate::id::{BackupId, LineageId};

/// Trailers read at once.
const PARALLEL: usize = 16;
/// Trails that are remembered.
const TRAILS_MAX: usize = 4096;

/// How far a restore goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The end of what is covered.
    Latest,
    /// Microseconds since 1970, by the server's clock: what was committed up to then.
    Time(i64),
    Position(Position),
    Name(String),
    /// The backup alone.
    Immediate,
}

/// Which backup a restore begins with, and what the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub window: Window,
    /// Never `Latest`.
    pub target: Target,
}

pub struct Survey {
    pub lineages: Lineages,
    pub coverage: BTreeMap<LineageId, Coverage>,
    pub windows: Vec<Window>,
    /// Objects and bytes, by lineage.
    pub stored: BTreeMap<LineageId, (u64, u64)>,
    store: LogStore,
    trails: Mutex<HashMap<Piece, Trail>>,
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Survey({} lineages, {} windows)", self.lineages.len(), self.windows.len())
    }
}

impl Survey {
    /// As of the last refresh of the ledger, and of the listings that follow it.
    pub async fn of(repository: &Repository) -> Result<Self> {
        let (lineages, anchors) =
            repository.read(|state| (state.lineages().clone(), Anchor::all(state))).await;
        let store = repository.logs();
        let (mut coverage, mut stored) = (BTreeMap::new(), BTreeMap::new());
        for (id, lineage) in &lineages {
            let mut gathering = Gathering::new(lineage);
            let (mut objects, mut bytes) = (0, 0);
            let mut see = |it: super::Stored| {
                (objects, bytes) = (objects + 1, bytes + it.size);
                gathering.add(it.piece);
            };
            store.visit(lineage, 0..Position::MAX, &mut see).await?;
            coverage.insert(*id, gathering.done());
            stored.insert(*id, (objects, bytes));
        }
        let windows = windows(&anchors, &lineages, &coverage);
        Ok(Self { lineages, coverage, windows, stored, store, trails: Mutex::default() })
    }

    /// Bytes of memory that the names take.
    pub fn held(&self) -> usize {
        self.coverage.values().map(Coverage::held).sum()
    }

    /// When the server was where the window begins and where it ends, by its own clock: unknown where nothing is covered.
    pub async fn times(&self, window: &Window) -> Result<(Timestamp, Option<Timestamp>)> {
        let mut end = None;
        for part in self.back(window, window.from).filter(|part| !is_cut(part)) {
            let until = known(&self.trail(part.piece).await?) / 1000;
            // Nothing is known of one without a commit, as long as nobody said when it ended.
            end = u64::try_from(until).ok().filter(|until| *until > 0).map(Timestamp);
            if end.is_some() {
                break;
            }
        }
        if window.from != window.anchor.span.stop {
            let start =
                self.coverage.get(&window.lineage()).and_then(|it| it.pick(window.from, window.from + 1));
            let piece = start.and_then(|parts| parts.first().map(|part| part.piece));
            let as_of = match piece {
                Some(piece) => self.trail(piece).await?.as_of,
                None => Timestamp(0),
            };
            return Ok((if as_of.0 > 0 { as_of } else { window.anchor.committed }, end));
        }
        Ok((self.stopped(&window.anchor).await?, end))
    }

    /// Where the target lies. Without a lineage it is the one named last that can be reached; a backup that is named is
    /// the one that is begun with. What lies in no window is refused, with the nearest one.
    pub async fn resolve(
        &self,
        target: &Target,
        lineage: LineageId,
        backup: Option<BackupId>,
    ) -> Result<Resolved> {
        let on = |window: &&Window| {
            window.lineage() == lineage && backup.is_none_or(|backup| window.anchor.backup == backup)
        };
        let mut candidates: Vec<&Window> = self.windows.iter().filter(on).collect();
        // The newest backup first: the least log to read.
        candidates.sort_by_key(|window| std::cmp::Reverse(window.anchor.span.stop));
        let newest = candidates.first().copied().ok_or_else(|| {
            Error::not_found(format!("no backup leads to lineage {lineage}"))
                .with_hint("`palinurus logs show` shows what can be restored; a backup begins a window")
        })?;
        let found = |window: &Window, target| Ok(Resolved { window: window.clone(), target });
        match target {
            Target::Immediate => return found(newest, Target::Immediate),
            Target::Latest => {
                // `max_by_key` would take the last of equals, the oldest backup.
                let furthest = candidates.iter().map(|window| window.to).max().unwrap_or_default();
                let window =
                    candidates.iter().find(|window| window.to == furthest).copied().unwrap_or(newest);
                return found(window, Target::Position(furthest));
            }
            Target::Position(position) => {
                if let Some(window) = candidates.iter().find(|window| window.reaches(*position)) {
                    return found(window, target.clone());
                }
            }
            Target::Name(name) => return self.named(name, &candidates).await,
            Target::Time(time) => {
                for window in &candidates {
                    if let Some(target) = self.at_time(window, *time).await? {
                        return found(window, target);
                    }
                }
            }
        }
        Err(self.outside(target, &candidates).await)
    }

    /// Nothing was committed between that time and the window's end, or something was.
    async fn at_time(&self, window: &Window, time: i64) -> Result<Option<Target>> {
        if time < micros(self.stopped(&window.anchor).await?) {
            return Ok(None);
        }
        // A piece that is cut tells of commits and of a time that may lie behind the cut, in another history.
        let (mut until, mut cut) = (0, None);
        for (back, part) in self.back(window, window.anchor.span.stop).enumerate() {
            let trail = self.trail(part.piece).await?;
            if !is_cut(&part) {
                until = until.max(known(&trail));
            }
            let latest = if back == 0 { known(&trail) } else { until };
            match trail.last_commit {
                Some(last) if last > time && !is_cut(&part) => return Ok(Some(Target::Time(time))),
                // A piece stored while the server was ahead says nothing of when it ended: one before it may.
                _ if cut.is_none() && latest > 0 && time > latest => return Ok(None),
                last if is_cut(&part) && (back == 0 || last.is_some_and(|last| last > time)) => {
                    cut = Some(part);
                }
                Some(_) if cut.is_some() => break,
                // A server that says nothing to a time later than its last commit is told the position.
                Some(_) => return Ok(Some(Target::Position(window.to))),
                None => {}
            }
        }
        if let Some(part) = cut {
            return Err(Error::not_found(format!(
                "the log does not say what was committed when between {} and {}",
                show(part.from),
                show(part.to)
            ))
            .with_hint(format!("give a position: {} is where that part of the log ends", show(part.to))));
        }
        // Nothing was committed since the backup: its end is that moment, as far as the log says how long.
        Ok((window.to > window.anchor.span.stop && time <= until).then_some(Target::Position(window.to)))
    }

    async fn named(&self, name: &str, candidates: &[&Window]) -> Result<Resolved> {
        let mut found = BTreeMap::new();
        for window in candidates {
            let mut parts = self.forward(window).peekable();
            while parts.peek().is_some() {
                let some: Vec<Counted> = parts.by_ref().take(PARALLEL).collect();
                let trails =
                    futures::future::try_join_all(some.iter().map(|part| self.trail(part.piece))).await?;
                for (part, trail) in some.iter().zip(trails) {
                    // A point is where its record ends: others are of another history.
                    let is = |at| part.from < at && at <= part.to;
                    for point in trail.points.iter().filter(|it| it.name == name && is(it.position)) {
                        found.entry(point.position).or_insert_with(|| (*window).clone());
                    }
                }
            }
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some((_, window)), None) => Ok(Resolved { window, target: Target::Name(name.to_owned()) }),
            (Some((one, _)), Some((two, _))) => Err(Error::conflict(format!(
                "there are two restore points of the name {name:?}, at {} and {}",
                show(one),
                show(two)
            ))
            .with_hint("give the position")),
            (None, _) => Err(Error::not_found(format!("there is no restore point {name:?} in any window"))
                .with_hint("`palinurus logs show` shows the windows")),
        }
    }

    async fn outside(&self, target: &Target, candidates: &[&Window]) -> Error {
        let mut near: Option<(u64, &Window)> = None;
        for window in candidates {
            let distance = match target {
                Target::Position(at) => distance(*at, window.anchor.span.stop, window.to),
                Target::Time(at) => match self.times(window).await {
                    Ok((from, to)) => {
                        let at = u64::try_from(*at / 1000).unwrap_or_default();
                        distance(at, from.0, to.unwrap_or(from).0)
                    }
                    Err(_) => u64::MAX,
                },
                _ => 0,
            };
            if near.is_none_or(|(best, _)| distance < best) {
                near = Some((distance, window));
            }
        }
        let what = match target {
            Target::Position(at) => show(*at),
            Target::Time(at) => moment(*at),
            _ => String::new(),
        };
        let error = Error::not_found(format!("{what} can not be restored: it lies in no window"));
        let Some((_, window)) = near else { return error };
        let times = self.times(window).await.ok();
        let times = times
            .and_then(|(from, to)| Some(format!(", {} to {}", moment(micros(from)), moment(micros(to?)))));
        error.with_hint(format!(
            "the nearest window goes from {} to {}{}, with backup {}",
            show(window.anchor.span.stop),
            show(window.to),
            times.unwrap_or_default(),
            window.anchor.backup
        ))
    }

    /// When the backup ended, by the server's clock where the log says so. Never too early: the restore would go beyond
    /// its target.
    async fn stopped(&self, anchor: &Anchor) -> Result<Timestamp> {
        let span = anchor.span;
        let last = span.stop.saturating_sub(1);
        let parts = self.coverage.get(&span.lineage).and_then(|covered| covered.pick(last, span.stop));
        let as_of = match parts.and_then(|parts| parts.first().map(|part| part.piece)) {
            Some(piece) => self.trail(piece).await?.as_of,
            None => Timestamp(0),
        };
        Ok(if as_of.0 > 0 { as_of } else { anchor.committed })
    }

    /// What is read from the backup's end to the window's, along its chain.
    fn forward(&self, window: &Window) -> impl Iterator<Item = Counted> + '_ {
        let ways = self.ways(window, window.anchor.span.stop).into_iter();
        ways.flat_map(|(covered, from, to)| covered.walk(from, to))
    }

    /// From the window's end back to there. Parts may overlap: each is as long as it counts.
    fn back(&self, window: &Window, from: Position) -> impl Iterator<Item = Counted> + '_ {
        self.ways(window, from).into_iter().rev().flat_map(|(covered, from, to)| {
            let mut position = to;
            std::iter::from_fn(move || {
                let part = covered.before(position).filter(|_| position > from)?;
                position = part.from;
                Some(Counted { to: part.to.min(to), ..part })
            })
        })
    }

    /// Which part of which lineage, ancestors first.
    fn ways(&self, window: &Window, from: Position) -> Vec<(&Coverage, Position, Position)> {
        let (mut at, mut ways) = (from, Vec::new());
        for section in window.sections(&self.lineages) {
            let to = section.to.unwrap_or(Position::MAX).min(window.to);
            if at < to {
                ways.extend(self.coverage.get(&section.lineage.id).map(|covered| (covered, at, to)));
                at = to;
            }
        }
        ways
    }

    async fn trail(&self, piece: Piece) -> Result<Trail> {
        let known = |trails: &Mutex<HashMap<Piece, Trail>>| {
            trails.lock().unwrap_or_else(PoisonError::into_inner).get(&piece).cloned()
        };
        if let Some(trail) = known(&self.trails) {
            return Ok(trail);
        }
        let lineage = self.lineages.get(&piece.lineage);
        let key_epoch = lineage.and_then(|lineage| lineage.grant(piece.epoch)?.key_epoch);
        let trail = self.store.trail(&self.store.find(piece).await?, key_epoch).await?;
        let mut trails = self.trails.lock().unwrap_or_else(PoisonError::into_inner);
        if trails.len() == TRAILS_MAX {
            trails.clear();
        }
        trails.insert(piece, trail.clone());
        Ok(trail)
    }
}

/// Up to when a piece says what was committed; 0: it does not.
fn known(trail: &Trail) -> i64 {
    micros(trail.as_of).max(trail.last_commit.unwrap_or_default())
}

/// It has more than counts here, behind it.
fn is_cut(part: &Counted) -> bool {
    part.to < part.piece.to
}

fn micros(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX).saturating_mul(1000)
}

fn distance(at: u64, from: u64, to: u64) -> u64 {
    if at < from { from - at } else { at.saturating_sub(to) }
}

/// As PostgreSQL writes them; other engines' halves mean something too.
pub fn show(position: Position) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// To the microsecond, as a restore's target may be given.
fn moment(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod many;
#[cfg(test)]
pub(crate) mod tests;
