//! What the replicas that are restored at once have of each table: so all of them come to the same, who of them attaches it.
use std::path::PathBuf;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::aside::Aside;
use super::facts::{Facts, NAME, Table};
use super::text::Text;
use crate::durable;

const RECORD: &str = "peers.json";

/// Of one table, in the backup of one of its other replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    pub(super) database: Text,
    pub(super) name: Text,
    pub(super) replica: String,
    pub(super) parts: u64,
    pub(super) rows: u64,
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    cuts: Vec<Cut>,
    /// What this node's tables are called in its backup, by their numbers.
    names: Vec<(Text, Text)>,
}

impl Peers {
    /// Writes down what the facts in each of these places say. Blocks.
    pub(super) fn keep(aside: &Aside, places: &[PathBuf]) -> Result<()> {
        let mut cuts = Vec::new();
        for place in places {
            let facts = Facts::read(&place.join(NAME))?;
            cuts.extend(facts.tables.iter().filter(|table| table.replica.is_some()).map(Cut::of));
        }
        let text = serde_json::to_vec(&cuts).map_err(|e| Error::internal("peers").with_source(e))?;
        durable::write(&aside.path().join(RECORD), &text)
    }

    /// Blocks.
    pub(super) fn kept(aside: &Aside) -> Result<Self> {
        let path = aside.path().join(RECORD);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
        };
        let cuts: Vec<Cut> = serde_json::from_slice(&text)
            .map_err(|e| Error::corrupt(format!("{} does not parse", path.display())).with_source(e))?;
        let names = match cuts.is_empty() {
            true => Vec::new(),
            false => {
                let tables = Facts::read(&aside.backup().join(NAME))?.tables;
                tables.into_iter().map(|table| (table.database, table.name)).collect()
            }
        };
        Ok(Self { cuts, names })
    }

    /// What the others have of a table.
    pub(super) fn of(&self, number: usize) -> Vec<&Cut> {
        let named = |cut: &&Cut| {
            self.names
                .get(number)
                .is_some_and(|(database, name)| (&cut.database, &cut.name) == (database, name))
        };
        self.cuts.iter().filter(named).collect()
    }
}

impl Cut {
    pub(super) fn of(table: &Table) -> Self {
        let replica = table.replica.as_ref().map(|replica| replica.name.clone()).unwrap_or_default();
        let (database, name) = (table.database.clone(), table.name.clone());
        Self { database, name, replica, parts: table.parts, rows: table.rows }
    }
}

/// Where a replica's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whence {
    /// From its own part of the backup.
    Here,
    /// From the other replicas: so many, or what there is. With so many active ones one of them is not restored at the same time,
    /// and may well have none.
    Others { rows: u64, living: Option<u64> },
}

/// `names` are the replicas in the order in which ZooKeeper has them, which never changes; `own` is what this one's backup has
/// of the table, and `peers` what those of the others have that are known. The first that has parts attaches: who is not known
/// may have some.
pub(super) fn whence(names: &[String], own: &Cut, peers: &[&Cut]) -> Whence {
    let of = |name: &str| match name == own.replica {
        true => Some(own),
        false => peers.iter().find(|cut| cut.replica == name).copied(),
    };
    let first = names.iter().find(|name| of(name).is_none_or(|cut| cut.parts > 0));
    let rows = match first {
        Some(name) if *name == own.replica => return Whence::Here,
        Some(name) => of(name).unwrap_or(own).rows,
        // Whoever comes of those that have some.
        None => peers.iter().map(|cut| cut.rows).filter(|rows| *rows > 0).min().unwrap_or(0),
    };
    Whence::Others { rows, living: living(names, own, peers) }
}

/// See [`Whence::Others`].
pub(super) fn living(names: &[String], own: &Cut, peers: &[&Cut]) -> Option<u64> {
    let known = names.iter().filter(|name| peers.iter().any(|cut| cut.replica == **name)).count() as u64;
    let others = names.iter().filter(|name| **name != own.replica).count() as u64;
    // Itself, those, and one of the others.
    (others > known).then_some(known + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(replica: &str, rows: u64) -> Cut {
        Cut { database: "d".into(), name: "t".into(), replica: replica.to_owned(), parts: rows.min(1), rows }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_empty_one_that_came_first_leaves_it_to_the_next() {
        let (one, two) = (cut("1", 0), cut("2", 7));
        let there = names(&["1", "2"]);
        assert_eq!(whence(&there, &two, &[&one]), Whence::Here);
        assert_eq!(whence(&there, &one, &[&two]), Whence::Others { rows: 7, living: None });
        // The other one is not there yet.
        assert_eq!(whence(&there[..1], &one, &[&two]), Whence::Others { rows: 7, living: None });
        assert_eq!(whence(&there, &one, &[&cut("2", 0)]), Whence::Others { rows: 0, living: None });
    }

    #[test]
    fn who_is_not_restored_at_once_has_what_it_has() {
        let (one, two) = (cut("1", 5), cut("2", 7));
        assert_eq!(
            whence(&names(&["9", "1", "2"]), &one, &[&two]),
            Whence::Others { rows: 5, living: Some(3) }
        );
        assert_eq!(whence(&names(&["1", "9"]), &one, &[]), Whence::Here);
    }

    proptest! {
        #[test]
        fn one_attaches_whoever_looks_and_when(rows in prop::collection::vec(0u64..3, 1..5), known in any::<bool>()) {
            let cuts: Vec<Cut> = (0..).zip(&rows).map(|(number, rows)| cut(&format!("{number}"), *rows)).collect();
            let all: Vec<String> = cuts.iter().map(|cut| cut.replica.clone()).collect();
            let mut here = Vec::new();
            for (at, own) in cuts.iter().enumerate() {
                let peers: Vec<&Cut> =
                    cuts.iter().filter(|cut| known && cut.replica != own.replica).collect();
                // It looks when it is there itself, and sees any number of later ones.
                let seen: Vec<Whence> =
                    (at + 1..=all.len()).map(|seen| whence(&all[..seen], own, &peers)).collect();
                let decided = |from: &Whence| *from == Whence::Here;
                prop_assert!(seen.iter().all(decided) || !seen.iter().any(decided));
                here.extend(seen.first().filter(|from| decided(from)).map(|_| at));
            }
            let first = || rows.first().filter(|rows| **rows > 0).map(|_| 0);
            let wanted = if known { rows.iter().position(|rows| *rows > 0) } else { first() };
            prop_assert_eq!(here, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
