//! Logs: every piece that counts is there and opens, and they join, but for the gaps that the grants themselves tell.
//!
//! A writer appends without a hole, and nothing is stored behind a failure without a grant that begins there, at the
//! beginning of a log file. So a hole that ends otherwise is damage: what was stored has gone. What was the very end
//! of a log leaves no trace in names: that it is gone nobody can tell.
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::{Check, DamageKind, ReadData};
use crate::error::{Error, ErrorKind, Result};
use crate::id::LineageId;
use crate::log::{
    Anchor, Coverage, Gathering, Lineage, Lineages, LogStore, Pages, Piece, Position, Stored, Window,
    history_key, prefix, show, windows,
};

/// Pieces looked at side by side.
const SIDE_BY_SIDE: usize = 16;
/// When the ledger gave up a part of a log while it was looked at.
const ATTEMPTS: usize = 3;

type Stretch = (Position, Position);

/// What a check has seen of one lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSeen {
    pub lineage: Arc<Lineage>,
    /// That count, and were looked at.
    pub pieces: u64,
    pub bytes: u64,
    /// What is there and opens.
    pub stretches: Vec<Stretch>,
    /// Never stored, as its writers have told.
    pub gaps: Vec<Stretch>,
    /// Stored once, and not to be had.
    pub lost: Vec<Stretch>,
    /// Along it, from each backup that leads to it.
    pub windows: Vec<Window>,
}

/// A piece of which something is wrong.
struct BadPiece {
    piece: Piece,
    error: Error,
}

struct Look {
    seen: LogSeen,
    good: Coverage,
    bad: Vec<BadPiece>,
}

impl Check<'_> {
    pub(super) async fn logs(&mut self) {
        let (lineages, anchors) =
            self.repository.read(|state| (state.lineages().clone(), Anchor::all(state))).await;
        let total = lineages.len() as u64;
        let (mut looks, mut known) = (Vec::new(), Lineages::new());
        for (done, lineage) in (0..).zip(lineages.into_values()) {
            self.tell("logs", done, total);
            if let Some(look) = self.lineage(lineage).await {
                known.insert(look.seen.lineage.id, look.seen.lineage.clone());
                looks.push(look);
            }
        }
        self.tell("logs", total, total);
        let (mut coverage, mut rest) = (BTreeMap::new(), Vec::new());
        for Look { seen, good, bad } in looks {
            coverage.insert(seen.lineage.id, good);
            rest.push((seen, bad));
        }
        let windows = windows(&anchors, &known, &coverage);
        for (mut seen, bad) in rest {
            seen.windows = windows.iter().filter(|it| it.lineage() == seen.lineage.id).cloned().collect();
            self.tell_of(&seen, bad, &anchors);
            self.report.logs.push(seen);
        }
    }

    /// Again where what it found is explained by what the ledger says meanwhile.
    async fn lineage(&mut self, mut lineage: Arc<Lineage>) -> Option<Look> {
        let id = lineage.id;
        for attempt in 1.. {
            let look = match self.look(&lineage).await {
                Ok(look) => look,
                Err(error) => {
                    self.found.error(&prefix(id), &error, []);
                    return None;
                }
            };
            // Where the ledger is damaged, that is said already.
            let _ = self.repository.refresh().await;
            let now = self.repository.lineage(id).await.unwrap_or_else(|_| lineage.clone());
            if look.seen.lost.is_empty() || now == lineage || attempt == ATTEMPTS {
                self.history(&look.seen).await;
                return Some(look);
            }
            lineage = now;
        }
        None
    }

    async fn look(&mut self, lineage: &Arc<Lineage>) -> Result<Look> {
        let store = self.repository.logs();
        store.learn(lineage.grants.iter().filter_map(|grant| grant.key_epoch).collect::<Vec<_>>()).await?;
        let (mut named, mut good) = (Gathering::new(lineage), Gathering::new(lineage));
        let (mut bad, mut pieces, mut bytes) = (Vec::new(), 0, 0);
        let mut pages = Pages::all(lineage.id, false);
        while let Some(page) = pages.next(&**self.repository.storage()).await? {
            let counts: Vec<Stored> = page.into_iter().filter(|it| named.add(it.piece).is_some()).collect();
            let read_data = self.read_data;
            let looks: Vec<_> = (counts.into_iter())
                .map(|stored| Box::pin(prove(store.clone(), lineage.clone(), stored, read_data)))
                .collect();
            let mut looks = stream::iter(looks).buffered(SIDE_BY_SIDE);
            while let Some((stored, proved)) = looks.next().await {
                pieces += 1;
                bytes += stored.size;
                match proved {
                    Ok(read) => {
                        self.report.bytes_checked += read;
                        good.add(stored.piece);
                    }
                    // A whole has taken its place, or it is missed below.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => bad.push(BadPiece { piece: stored.piece, error }),
                }
            }
        }
        let good = good.done();
        let (gaps, lost) = holes(lineage, &named.done(), &good);
        let stretches = good.stretches().to_vec();
        let seen =
            LogSeen { lineage: lineage.clone(), pieces, bytes, stretches, gaps, lost, windows: Vec::new() };
        Ok(Look { seen, good, bad })
    }

    /// Who writes a lineage that has a parent puts its account before anything else. Of one that others go on from, it may
    /// be that nobody who wrote it was on it.
    async fn history(&mut self, seen: &LogSeen) {
        let lineage = &seen.lineage;
        let parent = self
            .repository
            .read(|state| state.lineages().values().any(|other| other.parent == Some(lineage.id)));
        let wanted = lineage.parent.is_some() && seen.pieces > 0 && !parent.await;
        match self.repository.logs().history(lineage).await {
            Err(error) => self.found.error(&history_key(lineage.id), &error, []),
            Ok(None) if wanted => {
                let what =
                    "the engine's account of this history's parents is not there: no restore can follow it";
                self.found.add(&history_key(lineage.id), DamageKind::Missing, what, []);
            }
            Ok(_) => {}
        }
    }

    fn tell_of(&mut self, seen: &LogSeen, bad: Vec<BadPiece>, anchors: &[Anchor]) {
        let id = seen.lineage.id;
        let (mut told, bad_pieces) = (Vec::new(), bad);
        for BadPiece { piece, error } in bad_pieces {
            let object = piece.key();
            self.found.error(&object, &error, []);
            let kind = DamageKind::of(&error);
            let spoiled: Vec<&Stretch> =
                seen.lost.iter().filter(|(from, to)| piece.from < *to && *from < piece.to).collect();
            if spoiled.is_empty() {
                self.found.add(&object, kind, "other objects have the same part of the log", []);
            }
            for stretch in spoiled {
                self.found.add(&object, kind, costs(seen, anchors, *stretch), []);
                told.push(*stretch);
            }
        }
        for stretch in seen.lost.iter().filter(|stretch| !told.contains(stretch)) {
            self.found.add(&prefix(id), DamageKind::Missing, costs(seen, anchors, *stretch), []);
        }
    }
}

/// How many bytes of it were read and opened.
async fn prove(
    store: LogStore,
    lineage: Arc<Lineage>,
    stored: Stored,
    read_data: ReadData,
) -> (Stored, Result<u64>) {
    let key_epoch = lineage.grant(stored.piece.epoch).and_then(|grant| grant.key_epoch);
    let wanted = read_data.wants_object(&stored.piece.key());
    let proved = match read_data {
        ReadData::No => store.trail(&stored, key_epoch).await.map(|_| 0),
        // A share is cheap because it leaves out the rest.
        ReadData::Share { .. } if !wanted => Ok(0),
        _ => store.read(&stored.piece, key_epoch).await.map(|(_, plain)| plain.len() as u64),
    };
    (stored, proved)
}

/// Gaps, and what is lost: of `named`, and of what of that is good.
fn holes(lineage: &Lineage, named: &Coverage, good: &Coverage) -> (Vec<Stretch>, Vec<Stretch>) {
    let (Some(first), Some(last)) = (lineage.grants.first(), lineage.grants.last()) else {
        return (Vec::new(), Vec::new());
    };
    let begin = first.from.max(lineage.floor);
    let end = named.end().unwrap_or(begin).max(last.from);
    let segment = Position::from(lineage.segment.max(1));
    let mut gaps = Vec::new();
    for (from, to) in all_holes(named, begin, end) {
        let mut at = from;
        for grant in lineage.grants.iter().filter(|grant| from < grant.from && grant.from <= to) {
            if grant.from > at && grant.from.is_multiple_of(segment) {
                gaps.push((at, grant.from));
            }
            at = grant.from;
        }
    }
    let mut lost = Vec::new();
    for (from, to) in all_holes(good, begin, end) {
        let mut at = from;
        for gap in gaps.iter().filter(|gap| gap.0 < to && from < gap.1) {
            lost.extend((at < gap.0).then_some((at, gap.0)));
            at = gap.1;
        }
        lost.extend((at < to).then_some((at, to)));
    }
    (gaps, lost)
}

fn all_holes(coverage: &Coverage, begin: Position, end: Position) -> Vec<Stretch> {
    let mut holes = coverage.holes_from(begin);
    let last = coverage.end().unwrap_or(begin).max(begin);
    holes.extend((last < end).then_some((last, end)));
    holes
}

/// What goes with it, and what to do.
fn costs(seen: &LogSeen, anchors: &[Anchor], (from, to): Stretch) -> String {
    let ended = seen.windows.iter().filter(|window| window.to == from);
    let ended: Vec<String> = ended.map(|window| window.anchor.backup.to_string()).collect();
    let on = |id: LineageId| anchors.iter().filter(move |anchor| anchor.span.lineage == id);
    let next = on(seen.lineage.id).filter(|it| it.span.stop >= to).min_by_key(|it| it.span.stop);
    let until = match ended.is_empty() {
        true => "no backup leads to it".to_owned(),
        false => format!("restores with backup {} end at {}", ended.join(", "), show(from)),
    };
    let next = match next {
        Some(next) => format!("they begin again at {} with backup {}", show(next.span.stop), next.backup),
        None => "take a full backup: it begins the next window".to_owned(),
    };
    format!("the log from {} to {} is lost: {until}; {next}", show(from), show(to))
}

#[cfg(test)]
mod tests;
