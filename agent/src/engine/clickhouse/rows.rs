//! Tables that hold rows and no parts, such as `Log` and `KeeperMap`: their rows are read, and written again.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::blocking;
use super::client::Client;
use super::facts::{Facts, Kept, Table};
use super::keeper_map;
use crate::durable;
use crate::warning::Warnings;

const DIRECTORY: &str = "rows";

/// Where table `number` has its rows, in the backup.
pub(super) fn file(tree: &Path, number: usize) -> PathBuf {
    tree.join(path(number))
}

pub(super) fn path(number: usize) -> String {
    format!("{DIRECTORY}/{number}.tsv")
}

/// Reads the rows of every such table into `tree`, and counts them. Gives what people should know of them.
pub(super) async fn read(
    client: &Client,
    tree: &Path,
    facts: &mut Facts,
    limit_mib: u64,
) -> Result<Warnings> {
    let directory = tree.join(DIRECTORY);
    blocking(move || durable::create_dir(&directory)).await?;
    let (mut left, mut warnings) = (limit_mib << 20, Warnings::default());
    for (number, table) in facts.tables.iter_mut().enumerate().filter(|(_, table)| table.kept == Kept::Rows) {
        let path = file(tree, number);
        let note = |e: Error, table: &Table| e.with_note(format!("rows of {}", table.label()));
        let read = match table.engine.as_str() {
            keeper_map::ENGINE => keeper_map::read(client, table, &path, left).await,
            _ => {
                let sql = [b"SELECT * FROM ", table.quoted().as_slice(), b" FORMAT TabSeparated"].concat();
                client.copy(&sql, &path, left).await.map(|read| (read, true))
            }
        };
        let read = match read {
            // Whoever compares the facts will see.
            Err(fault) if fault.is_gone() => continue,
            read => read,
        };
        let ((rows, bytes), settled) = read.map_err(|fault| note(fault.into(), table))?;
        (table.rows, table.bytes, left) = (rows, bytes, left.saturating_sub(bytes));
        if !settled {
            let told = format!(
                "table {} changed while its rows were read: they are of no one moment",
                table.label()
            );
            warnings.push(format!("{DIRECTORY}/{number}.tsv").as_bytes(), told);
        }
    }
    Ok(warnings)
}

/// What an attempt before this one wrote is taken out first.
pub(super) async fn write(client: &Client, tree: &Path, table: &Table) -> Result<()> {
    let quoted = table.quoted();
    client.run([b"TRUNCATE TABLE ", quoted.as_slice()].concat()).await?;
    insert(client, tree, table).await
}

pub(super) async fn insert(client: &Client, tree: &Path, table: &Table) -> Result<()> {
    let path = file(tree, table.number);
    let rows =
        blocking(move || std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e)))
            .await?;
    if rows.is_empty() {
        return Ok(());
    }
    client
        .run([b"INSERT INTO ", table.quoted().as_slice(), b" FORMAT TabSeparated\n", &rows].concat())
        .await?;
    Ok(())
}
