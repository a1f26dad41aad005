//! A replica that ZooKeeper still knows, of a server that is new: those of its parts that the backup has are put where they
//! were before the server takes the table up again. It then fetches what is missing, and nothing else.
//!
//! A part's name says which rows it has, for as long as the table's node in ZooKeeper is the one that it was at the backup; and
//! ZooKeeper says which parts this replica had at last. A part that is not among these is not put there: the server would
//! take it for damage.
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::aside::{give, owner};
use super::client::Fault;
use super::facts::{Facts, Place, Table};
use super::list::{DISKS, parts};
use super::load::Loader;
use super::server::Server;
use super::{blocking, replica};
use crate::durable;

/// From where in the backup to which directory on which disk of the server.
#[derive(Debug)]
struct Move {
    from: PathBuf,
    root: PathBuf,
    path: PathBuf,
}

impl Loader<'_> {
    /// `fault` is why the table cannot be made.
    pub(super) async fn place(&self, table: &Table, facts: &Facts, fault: &Fault) -> Result<()> {
        let (Some(was), Fault::Refused(_, why)) = (&table.replica, fault) else { return Ok(()) };
        // Where macros differ from the backup's it is another replica that is known.
        let is_it = why.contains(&format!("Replica {}/replicas/{} already exists", was.path, was.name));
        if !is_it || was.made.is_empty() || replica::made(self.client, &was.path).await? != was.made {
            return Ok(());
        }
        let had: HashSet<String> = replica::parts(self.client, was).await?.into_iter().collect();
        let (aside, number, moves) = (self.aside.clone(), table.number, self.moves(table, facts).await?);
        let placed = blocking(move || {
            aside.begin_place(number)?;
            let mut placed = 0;
            for Move { from, root, path } in &moves {
                let (own, to) = (owner(root)?, directory(root, path)?);
                for part in parts(from)?.into_iter().filter(|part| had.contains(part)) {
                    aside.place(number, &from.join(&part), &to, own)?;
                    placed += 1;
                }
            }
            Ok(placed)
        });
        let placed: usize = placed.await?;
        tracing::info!(
            table = table.label(),
            placed,
            "ZooKeeper knows this replica: its parts of the backup are in their places"
        );
        Ok(())
    }

    /// What an attempt before has put there, when the table was not taken up: nothing can be made beside it. Done again after.
    pub(super) async fn take_back(&self, table: &Table, facts: &Facts) -> Result<()> {
        if !self.aside.has_placed(table.number) {
            return Ok(());
        }
        let (aside, number, moves) = (self.aside.clone(), table.number, self.moves(table, facts).await?);
        blocking(move || {
            for Move { from, root, path } in &moves {
                for part in parts(from)? {
                    durable::remove_dir(&root.join(path).join(part))?;
                }
            }
            aside.end_place(number)
        })
        .await
    }

    async fn moves(&self, table: &Table, facts: &Facts) -> Result<Vec<Move>> {
        let disks = Server::look(self.client, self.config).await?.disks().await?;
        let to = |place: &Place| {
            let was = &facts.disks[place.disk];
            let disk = disks.iter().find(|disk| disk.local && disk.name == was.name)?;
            let from = self.aside.backup().join(DISKS).join(was.name.file_name()).join(&place.path);
            is_own(table, &place.path).then(|| Move {
                from,
                root: disk.path.clone(),
                path: PathBuf::from(&place.path),
            })
        };
        Ok(table.places.iter().filter_map(to).collect())
    }
}

/// Whether a table that is called so has its parts there: it may have been given another name.
fn is_own(table: &Table, path: &str) -> bool {
    let by_name = Path::new("data").join(table.database.file_name()).join(table.name.file_name());
    let path = Path::new(path);
    match table.uuid.is_empty() {
        true => path == by_name,
        false => path.file_name().is_some_and(|last| last.to_str() == Some(&table.uuid)),
    }
}

/// A server that could not make the table may have taken its directory away again. Blocks.
fn directory(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut whole = root.to_owned();
    for step in path {
        whole.push(step);
        if !whole.exists() {
            durable::create_dir(&whole)?;
            give(&whole, owner(root)?)
                .map_err(|e| Error::io(format!("give {} its owner", whole.display()), e))?;
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::table;
    use super::*;

    #[test]
    fn a_table_of_another_name_has_its_parts_elsewhere() {
        assert!(is_own(&table("t"), "data/d/t"));
        assert!(!is_own(&table("t"), "data/d/other"));
        let with_uuid = Table { uuid: "0a-1".into(), ..table("t") };
        assert!(is_own(&with_uuid, "store/0a/0a-1"));
        assert!(!is_own(&with_uuid, "store/0a/0a-2") && !is_own(&with_uuid, "data/d/t"));
    }
}
