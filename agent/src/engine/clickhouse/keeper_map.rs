//! `KeeperMap`: a table whose rows are nodes of ZooKeeper, one table for the whole cluster. Every replica's backup has
//! its rows, equal ones stored once; a restore writes them once, and never over rows that ZooKeeper still has.
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use palinurus_repository::{Error, Result};

use super::aside::Aside;
use super::blocking;
use super::client::{Answer, Client, Fault};
use super::facts::Table;
use super::rows::file;

pub(super) const ENGINE: &str = "KeeperMap";

/// How often rows are read to find them twice the same.
const READS: u32 = 5;
/// An insert is one request to ZooKeeper, which takes a megabyte and hangs up on more.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_ROWS: usize = 500;
/// What ZooKeeper refuses.
const KEEPER: u32 = 999;

/// ZooKeeper knows this node's table: it was there before the node was replaced.
pub(super) fn is_taken(fault: &Fault) -> bool {
    matches!(fault, Fault::Refused(KEEPER, why) if why.contains("same UUID already exists"))
}

/// The server reads row by row: two equal readings are the rows of one moment. Also gives whether there were two.
pub(super) async fn read(
    client: &Client,
    table: &Table,
    path: &Path,
    limit: u64,
) -> Answer<((u64, u64), bool)> {
    let sql =
        [b"SELECT * FROM ", table.quoted().as_slice(), b" ORDER BY tuple(*) FORMAT TabSeparated"].concat();
    let mut read = client.copy(&sql, path, limit).await?;
    let again = path.with_extension("again");
    for _ in 1..READS {
        let other = client.copy(&sql, &again, limit).await?;
        let (first, second) = (path.to_owned(), again.clone());
        let equal = blocking(move || {
            let failed = |e| Error::io(format!("read {}", first.display()), e);
            let equal = hash(&first).map_err(failed)? == hash(&second).map_err(failed)?;
            std::fs::rename(&second, &first).map_err(failed)?;
            Ok(equal)
        });
        if equal.await? {
            return Ok((other, true));
        }
        read = other;
    }
    Ok((read, false))
}

fn hash(path: &Path) -> std::io::Result<blake3::Hash> {
    Ok(blake3::Hasher::new().update_reader(File::open(path)?)?.finalize())
}

/// Of all replicas that are restored at once the one whose first rows are there first writes all of them.
pub(super) async fn write(client: &Client, aside: &Aside, table: &Table) -> Result<()> {
    let (quoted, number) = (table.quoted(), table.number);
    let noted = aside.clone();
    let goes_on = blocking(move || Ok(noted.has_begun_rows(number))).await?;
    if !goes_on {
        let sql = [b"SELECT count() FROM ".as_slice(), &quoted].concat();
        if client.number(sql).await? > 0 {
            tracing::info!(table = table.label(), "left as it is: ZooKeeper has rows of it");
            return Ok(());
        }
        let noted = aside.clone();
        blocking(move || noted.begin_rows(number)).await?;
    }
    let path = file(&aside.backup(), number);
    let failed = move |path: &Path, e| Error::io(format!("read {}", path.display()), e);
    let mut rows = blocking(move || match File::open(&path) {
        Ok(file) => Ok((path, BufReader::new(file))),
        Err(e) => Err(failed(&path, e)),
    })
    .await?;
    let mut claims = !goes_on;
    loop {
        let (batch, rest) = blocking(move || {
            let (path, mut rows) = rows;
            let batch = batch(&mut rows).map_err(|e| failed(&path, e))?;
            Ok((batch, (path, rows)))
        })
        .await?;
        rows = rest;
        if batch.is_empty() {
            return Ok(());
        }
        let settings: &[u8] = if claims { b" SETTINGS keeper_map_strict_mode = 1" } else { b"" };
        let sql = [b"INSERT INTO ", quoted.as_slice(), settings, b" FORMAT TabSeparated\n", &batch].concat();
        match client.run(sql).await {
            Err(Fault::Refused(KEEPER, why)) if claims && why.contains("Node exists") => {
                tracing::info!(table = table.label(), "left to the replica that writes its rows already");
                let noted = aside.clone();
                return blocking(move || noted.leave_rows(number)).await;
            }
            written => written?,
        }
        claims = false;
    }
}

/// As many whole rows as one request takes. Blocks.
fn batch(rows: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut batch = Vec::new();
    for _ in 0..BATCH_ROWS {
        if batch.len() >= BATCH_BYTES || rows.read_until(b'\n', &mut batch)? == 0 {
            break;
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_in_batches_and_stay_whole() {
        let long = format!("{}\n", "x".repeat(BATCH_BYTES / 2));
        let text = [long.repeat(3), "y\n".repeat(BATCH_ROWS + 1)].concat();
        let mut rows = text.as_bytes();
        let batches: Vec<Vec<u8>> =
            std::iter::from_fn(|| Some(batch(&mut rows).unwrap()).filter(|batch| !batch.is_empty()))
                .collect();
        assert_eq!(batches.concat(), text.as_bytes());
        assert!(batches.iter().all(|batch| batch.ends_with(b"\n") && batch.len() < 2 * BATCH_BYTES));
        assert_eq!(batches.len(), 3, "two long rows, one with short ones, what is left");
    }
}
