//! Gives tables their parts, and counts what came of it.
use std::collections::HashMap;
use std::path::PathBuf;

use palinurus_repository::{Error, Result};

use super::aside::owner;
use super::blocking;
use super::dated::month_and_block;
use super::facts::{Facts, Kept, Table};
use super::list::{DISKS, parts};
use super::load::Loader;
use super::peers::{self, Cut, Peers, Whence};
use super::replica::{self, Wanted};
use super::text::Text;

/// Engines whose merges make rows fewer.
const FOLDING: [&str; 5] = ["Replacing", "Collapsing", "Summing", "Aggregating", "Graphite"];

/// Parts in one statement.
const AT_ONCE: usize = 64;

/// A table that is to get its parts: as it was in the backup, and as it has been made here.
#[derive(Clone, Copy)]
pub(super) struct Filling<'a> {
    pub(super) table: &'a Table,
    pub(super) facts: &'a Facts,
    pub(super) made: &'a Table,
    pub(super) now: &'a Facts,
}

impl Loader<'_> {
    pub(super) async fn parts(&self, facts: &Facts, now: &Facts) -> Result<()> {
        let mut stand: HashMap<(&Text, &Text), &Table> =
            now.tables.iter().map(|table| ((&table.database, &table.name), table)).collect();
        let aside = self.aside.clone();
        let peers = blocking(move || Peers::kept(&aside)).await?;
        let mut fetching = Vec::new();
        for table in facts.tables.iter().filter(|table| table.kept == Kept::Parts) {
            if self.aside.is_done(table.number) {
                continue;
            }
            let made = stand.remove(&(&table.database, &table.name));
            let made =
                made.ok_or_else(|| Error::conflict(format!("table {} is gone again", table.label())))?;
            let noted = |e: Error| e.with_note(format!("table {}", table.label()));
            match self.whence(made, table, &peers.of(table.number)).await.map_err(noted)? {
                Whence::Here => self.fill(Filling { table, facts, made, now }).await.map_err(noted)?,
                Whence::Others { rows, living } => fetching.push(Wanted { table, rows, living }),
            }
        }
        self.fetch(&fetching).await
    }

    /// Parts are attached by one of the table's replicas.
    async fn whence(&self, made: &Table, table: &Table, peers: &[&Cut]) -> Result<Whence> {
        let Some(replica) = &made.replica else { return Ok(Whence::Here) };
        // Whoever has begun goes on, whoever else is restored now.
        if self.aside.has_begun(table.number) {
            return Ok(Whence::Here);
        }
        let names = replica::names(self.client, replica).await?;
        let own = Cut { replica: replica.name.clone(), ..Cut::of(table) };
        match self.aside.is_left_to_peers(table.number) {
            true => Ok(Whence::Others { rows: table.rows, living: peers::living(&names, &own, peers) }),
            false => Ok(peers::whence(&names, &own, peers)),
        }
    }

    /// Merges stand still until the rows have been counted: some engines' merges make them fewer.
    async fn fill(&self, filling: Filling<'_>) -> Result<()> {
        let quoted = filling.table.quoted();
        self.client.run([b"SYSTEM STOP MERGES ", quoted.as_slice()].concat()).await?;
        let filled = self.bring(filling).await;
        self.client.run([b"SYSTEM START MERGES ", quoted.as_slice()].concat()).await?;
        filled?;
        let (aside, number) = (self.aside.clone(), filling.table.number);
        blocking(move || aside.end(number)).await
    }

    pub(super) async fn bring(&self, filling: Filling<'_>) -> Result<()> {
        self.attach(filling).await?;
        self.count(filling.table).await
    }

    /// Last of all: what the others attach comes by itself. They may merge it meanwhile.
    async fn fetch(&self, tables: &[Wanted<'_>]) -> Result<()> {
        let fetched = replica::fetched(self.client, tables, self.config.replica_timeout).await?;
        for (Wanted { table, .. }, rows) in tables.iter().zip(fetched) {
            if rows != table.rows {
                tracing::warn!(
                    table = table.label(),
                    rows,
                    had = table.rows,
                    "its replicas have another number of rows than this node's backup"
                );
            }
            let (aside, number) = (self.aside.clone(), table.number);
            blocking(move || aside.end(number)).await?;
        }
        Ok(())
    }

    async fn attach(&self, Filling { table, facts, made, now }: Filling<'_>) -> Result<()> {
        // From where to where: to the disk of the same name if the table may lie there.
        let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
        for place in &table.places {
            let name = &facts.disks[place.disk].name;
            let mut local = made.places.iter().filter(|to| now.disks[to.disk].local);
            let to = local.clone().find(|to| now.disks[to.disk].name == *name).or(local.next());
            let to = to.ok_or_else(|| Error::conflict("it has no place on a local disk"))?;
            let from = self.aside.backup().join(DISKS).join(name.file_name()).join(&place.path);
            moves.push((from, now.disks[to.disk].path.join(&to.path)));
        }
        let (aside, number) = (self.aside.clone(), table.number);
        let ordered = blocking(move || {
            let mut found: Vec<(PathBuf, PathBuf, String)> = Vec::new();
            for (from, to) in &moves {
                found.extend(
                    parts(from)?.into_iter().map(|part| (from.join(&part), to.join("detached"), part)),
                );
            }
            // Which row is the later one is what some engines go by.
            found.sort_by_key(|(_, _, part)| order(part));
            let paths: Vec<PathBuf> = found.iter().map(|(path, _, _)| path.clone()).collect();
            if let Some((_, to)) = moves.first() {
                aside.link(number, &paths, owner(to)?)?;
            }
            Ok(found)
        })
        .await?;
        for some in ordered.chunks(AT_ONCE) {
            let (aside, some) = (self.aside.clone(), some.to_vec());
            let handed = blocking(move || {
                let mut handed = Vec::new();
                for (_, detached, part) in some {
                    if aside.hand_over(number, &part, &detached)? {
                        handed.push(part);
                    }
                }
                Ok(handed)
            });
            if let Some(sql) = attach_all(table, &handed.await?) {
                self.client.run(sql).await?;
            }
        }
        Ok(())
    }

    async fn count(&self, table: &Table) -> Result<()> {
        let sql = [
            b"SELECT toUInt64(sum(rows)) FROM system.parts WHERE active AND database = ".as_slice(),
            &table.database.literal(),
            b" AND table = ",
            &table.name.literal(),
        ];
        let rows = self.client.number(sql.concat()).await?;
        // Another replica may have merged meanwhile.
        let folded = table.is_replicated() && FOLDING.iter().any(|word| table.engine.contains(word));
        let some = table.unknown > 0 && rows > table.rows;
        if rows == table.rows || some || (folded && rows < table.rows && rows > 0) {
            return Ok(());
        }
        Err(Error::corrupt(format!("it has {rows} rows and had {} in the backup", table.rows))
            .with_hint("see `ls detached` in its directory, and the server's log"))
    }
}

/// One after the other as they stand there. None: there is nothing to attach.
fn attach_all(table: &Table, parts: &[String]) -> Option<Vec<u8>> {
    let each =
        parts.iter().map(|part| [b" ATTACH PART ", Text::from(part.as_str()).literal().as_slice()].concat());
    let each = each.collect::<Vec<_>>().join(&b","[..]);
    (!parts.is_empty()).then(|| [b"ALTER TABLE ", table.quoted().as_slice(), &each].concat())
}

/// By partition, then by its first block: `all_1_5_1`, `all_1_5_1_7`, or `20180101_20180131_1_5_1` of the old kind.
fn order(part: &str) -> (String, i64) {
    let (partition, block) = month_and_block(part).unwrap_or_else(|| {
        let mut fields = part.split('_');
        (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
    });
    (partition.to_owned(), block.parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_parts_come_later() {
        let mut parts = vec![
            "b_1_1_0",
            "all_10_12_1",
            "all_9_9_0",
            "all_2_8_2_13",
            "20180101_20180102_3_3_0",
            "201801_1_1_0",
        ];
        parts.sort_by_key(|part| order(part));
        assert_eq!(
            parts,
            [
                "201801_1_1_0",
                "20180101_20180102_3_3_0",
                "all_2_8_2_13",
                "all_9_9_0",
                "all_10_12_1",
                "b_1_1_0"
            ]
        );
    }
}
