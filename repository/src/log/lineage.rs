//! Lineages and grants, as the ledger has them and as an agent is told.
use super::{Coverage, Piece, Position};
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::id::{LineageId, check_name};

/// Of the bytes by which an engine names a lineage.
pub const IDENTITY_MAX: usize = 256;
const SEGMENT_MAX: u32 = 1 << 30;
/// The newest of a lineage's, whatever counts under them.
const GRANTS_KEPT: usize = 64;

/// One history that only grows at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    pub id: LineageId,
    pub parent: Option<LineageId>,
    /// Where it begins: a position of its parent.
    pub from: Position,
    /// Of the engine, such as "postgresql".
    pub kind: String,
    /// What the engine calls it: in PostgreSQL the system identifier and the timeline.
    pub identity: Vec<u8>,
    /// How long the engine's log files are.
    pub segment: u32,
    /// Oldest first: their epochs rise, their `from` never falls.
    pub grants: Vec<Grant>,
    /// What ends at or before it may be deleted at any time.
    pub floor: Position,
    /// Of its record in the ledger: a later one is a newer history. 0 where nobody said.
    pub number: u64,
}

/// Who may append to a lineage, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The writer's epoch: rises within the lineage, from 1.
    pub epoch: u32,
    pub node: String,
    pub from: Position,
    /// In which its record stands in the ledger: its pieces are sealed under that master. None is the root.
    pub key_epoch: Option<KeyEpoch>,
}

impl Lineage {
    pub fn grant(&self, epoch: u32) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.epoch == epoch)
    }

    pub fn last_grant(&self) -> Option<&Grant> {
        self.grants.last()
    }

    /// Where the last grant begins, or more than that is given up: nobody is asked for anything before it.
    pub fn begun(&self) -> Position {
        self.last_grant().map_or(self.from, |grant| grant.from).max(self.floor)
    }

    /// A writer that is started again and again has a grant more each time. What is forgotten counts for nothing above the
    /// floor, and no gap that is told there ends with it: the next grant begins where a forgotten one of no length did. The
    /// first stays, for the history is sealed under its key epoch, and the newest, for an agent may hold one of them yet.
    pub(crate) fn forget_grants(&mut self) {
        let (old, floor) = (self.grants.len().saturating_sub(GRANTS_KEPT), self.floor);
        let spare = self.grants.windows(2).map(|two| two[0].from == two[1].from || two[1].from <= floor);
        let spare: Vec<bool> = spare.enumerate().map(|(n, spare)| spare && 0 < n && n < old).collect();
        let mut spare = spare.into_iter();
        self.grants.retain(|_| !spare.next().unwrap_or_default());
    }

    /// Told twice, they are one lineage. Without a parent two histories may look alike.
    pub fn is_same_promotion(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.parent, it.from);
        self.parent.is_some() && key(self) == key(other) && self.identity == other.identity
    }

    /// What is covered, of the objects that there are.
    pub fn coverage(&self, pieces: impl IntoIterator<Item = Piece>) -> Coverage {
        Coverage::of(self, pieces)
    }

    /// Bounds and order: what every reader of one relies on.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: &str| Err(Error::invalid(format!("lineage {}: {why}", self.id)));
        check_name("engine", &self.kind)?;
        if self.identity.is_empty() || self.identity.len() > IDENTITY_MAX {
            return wrong("its identity is empty or too long");
        }
        if self.segment == 0 || self.segment > SEGMENT_MAX {
            return wrong("its log files have an impossible length");
        }
        if self.parent == Some(self.id) {
            return wrong("it is its own parent");
        }
        let mut before = (0, self.from);
        for grant in &self.grants {
            check_name("node", &grant.node)?;
            if grant.epoch <= before.0 || grant.from < before.1 {
                return wrong("its grants are in disorder");
            }
            before = (grant.epoch, grant.from);
        }
        Ok(())
    }
}

/// A place in a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub lineage: LineageId,
    pub position: Position,
}

/// Where a recovery from a backup's part begins, and where the backup itself ends: from there on any moment can be
/// chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub lineage: LineageId,
    pub start: Position,
    pub stop: Position,
}

/// A lineage as far as a restore goes along it: up to where the next one begins, or without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub lineage: Lineage,
    pub to: Option<Position>,
}

impl Section {
    /// Ancestors first, each up to where the next begins.
    pub fn check_chain(chain: &[Section]) -> Result<()> {
        let broken = || Err(Error::invalid("the lineages named do not follow each other"));
        let Some(last) = chain.last() else { return broken() };
        for section in chain {
            section.lineage.check()?;
        }
        for two in chain.windows(2) {
            let follows = two[1].lineage.parent == Some(two[0].lineage.id)
                && two[0].to == Some(two[1].lineage.from)
                && two[0].lineage.from <= two[1].lineage.from;
            if !follows {
                return broken();
            }
        }
        if last.to.is_some_and(|to| to < last.lineage.from) { broken() } else { Ok(()) }
    }
}
