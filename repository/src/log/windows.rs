//! To which moments can be restored: pure, from backups, lineages and what is covered.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Coverage, Lineage, Position, Section, Span};
use crate::clock::Timestamp;
use crate::id::{BackupId, LineageId};
use crate::ledger::State;

pub type Lineages = BTreeMap<LineageId, Arc<Lineage>>;

/// A backup's part from which a recovery may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub backup: BackupId,
    pub node: String,
    pub span: Span,
    pub committed: Timestamp,
}

impl Anchor {
    /// All of a ledger, in the order of commits. What is known to be damaged is none.
    pub fn all(state: &State) -> Vec<Self> {
        let whole = state.backups().filter(|backup| !state.is_spoiled(backup));
        let anchors = whole.flat_map(|backup| {
            let anchor = |node: &crate::ledger::NodeCommit| {
                let span = node.log.filter(|span| state.lineage(span.lineage).is_some())?;
                let (backup, committed) = (backup.id, backup.committed);
                Some(Self { backup, node: node.node.clone(), span, committed })
            };
            backup.nodes.iter().filter_map(anchor).collect::<Vec<_>>()
        });
        anchors.collect()
    }
}

/// From a backup along a chain of lineages: every position in it can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub anchor: Anchor,
    /// Ancestors first; the window lies on the last.
    pub chain: Vec<LineageId>,
    pub from: Position,
    pub to: Position,
}

impl Window {
    /// Which lineage a restore into it is of.
    pub fn lineage(&self) -> LineageId {
        self.chain.last().copied().unwrap_or(self.anchor.span.lineage)
    }

    /// Of the positions on the way there too.
    pub fn reaches(&self, position: Position) -> bool {
        (self.anchor.span.stop..=self.to).contains(&position)
    }

    /// As a restore along it reads.
    pub fn sections(&self, lineages: &Lineages) -> Vec<Section> {
        let next = self.chain.iter().skip(1).map(|next| lineages.get(next).map(|next| next.from));
        let ends = next.chain(std::iter::once(None));
        let known = self.chain.iter().filter_map(|id| lineages.get(id));
        known.zip(ends).map(|(lineage, to)| Section { lineage: Lineage::clone(lineage), to }).collect()
    }
}

/// For each backup, along its lineage to the first hole, and at each fork on the way on to the children.
pub fn windows(
    anchors: &[Anchor],
    lineages: &Lineages,
    coverage: &BTreeMap<LineageId, Coverage>,
) -> Vec<Window> {
    let mut found = Vec::new();
    for anchor in anchors {
        let span = anchor.span;
        let mut open = vec![(vec![span.lineage], span.stop)];
        while let Some((chain, from)) = open.pop() {
            let Some(id) = chain.last().copied() else { continue };
            let to = coverage.get(&id).map_or(from, |covered| covered.end_from(from));
            for child in lineages.values().filter(|it| it.parent == Some(id) && !chain.contains(&it.id)) {
                if (from..=to).contains(&child.from) {
                    open.push(([&chain[..], &[child.id]].concat(), child.from));
                }
            }
            found.push(Window { anchor: anchor.clone(), chain, from, to });
        }
    }
    found
}

#[cfg(test)]
mod tests;
