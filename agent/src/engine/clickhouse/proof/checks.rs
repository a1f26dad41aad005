//! What is asked of a scratch server, and of what was restored for it.
use std::collections::HashMap;
use std::path::Path;

use palinurus_repository::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::engine::Check;
use crate::engine::clickhouse::attach::Filling;
use crate::engine::clickhouse::blocking;
use crate::engine::clickhouse::checksums::hold;
use crate::engine::clickhouse::client::{Client, SYNTAX};
use crate::engine::clickhouse::facts::{Facts, Kept, Table};
use crate::engine::clickhouse::list::{DISKS, measured, parts};
use crate::engine::clickhouse::load::Loader;
use crate::engine::clickhouse::server::Server;

/// Versions that cannot check a table of the MergeTree family, or not so: no such query, no such setting.
const CANNOT: [u32; 3] = [48, 115, SYNTAX];

/// What says something about the backup is kept, anything else ends the proof.
fn found<T>(findings: &mut Vec<String>, tried: Result<T>) -> Result<Option<T>> {
    match tried {
        Ok(done) => Ok(Some(done)),
        Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::NotFound) => {
            findings.push(e.chain());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Parts, rows and bytes as they were restored, held against what was written down when they were frozen. Blocks.
pub(super) fn recorded(backup: &Path, facts: &Facts) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "recorded".into(), ..Check::default() };
    let (mut parts, mut rows, mut bytes) = (0, 0, 0);
    for table in facts.tables.iter().filter(|table| table.kept == Kept::Parts) {
        let mut now = (0, 0, 0);
        for place in &table.places {
            let disk = backup.join(DISKS).join(facts.disks[place.disk].name.file_name());
            for (_, rows, bytes) in measured(&disk.join(&place.path))? {
                now = (now.0 + 1, now.1 + rows.unwrap_or(0), now.2 + bytes);
            }
        }
        let had = (table.parts, table.rows - table.told.min(table.rows), table.bytes);
        if now != had {
            check.findings.push(format!(
                "table {} has {} parts, {} rows, {} bytes, and had {}, {}, {} when it was frozen",
                table.label(),
                now.0,
                now.1,
                now.2,
                had.0,
                had.1,
                had.2
            ));
        }
        (parts, rows, bytes) = (parts + now.0, rows + now.1, bytes + now.2);
    }
    check.told = format!("{parts} parts with {rows} rows in {bytes} bytes");
    check.took = began.elapsed();
    Ok(check)
}

/// Each file of each part held against what the server wrote down of it when it wrote the part, also of tables that the
/// server of a drill cannot be given. Blocks.
pub(super) fn checksums(backup: &Path, facts: &Facts) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "checksums".into(), ..Check::default() };
    let (mut files, mut bytes, mut without) = (0, 0, 0);
    for table in facts.tables.iter().filter(|table| table.kept == Kept::Parts) {
        for place in &table.places {
            let disk = backup.join(DISKS).join(facts.disks[place.disk].name.file_name()).join(&place.path);
            for part in parts(&disk)? {
                let failed = |e| Error::io(format!("read part {}", disk.join(&part).display()), e);
                let Some(held) = hold(&disk.join(&part)).map_err(failed)? else {
                    without += 1;
                    continue;
                };
                (files, bytes) = (files + held.files, bytes + held.bytes);
                if !held.findings.is_empty() {
                    let findings = held.findings.join(", ");
                    check.findings.push(format!("table {}, part {part}: {findings}", table.label()));
                }
            }
        }
    }
    check.told = format!("{files} files of parts with {bytes} bytes");
    if without > 0 {
        check.told += &format!("; {without} parts have no checksums.txt that is known here");
    }
    check.took = began.elapsed();
    Ok(check)
}

/// Makes the tables as a restore would, and gives them what they had: rows are counted, and no table keeps another from it.
pub(super) async fn load(loader: &Loader<'_>, facts: &Facts) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "load".into(), ..Check::default() };
    let aside = loader.aside.clone();
    blocking(move || aside.begin()).await?;
    // For good: rows are held against the backup's, and some engines' merges make them fewer.
    loader.client.run("SYSTEM STOP MERGES").await?;
    found(&mut check.findings, loader.functions(facts).await)?;
    found(&mut check.findings, loader.databases(facts).await)?;
    found(&mut check.findings, loader.tables(facts, false).await)?;
    let now = Server::look(loader.client, loader.config).await?.facts().await?;
    let stand: HashMap<_, &Table> =
        now.tables.iter().map(|table| ((&table.database, &table.name), table)).collect();
    for table in &facts.tables {
        let Some(made) = stand.get(&(&table.database, &table.name)) else {
            check.findings.push(format!("table {} was not made", table.label()));
            continue;
        };
        let filled = match table.kept {
            Kept::Parts => loader.bring(Filling { table, facts, made, now: &now }).await,
            _ => rows(loader, table).await,
        };
        found(&mut check.findings, filled.map_err(|e| e.with_note(format!("table {}", table.label()))))?;
    }
    check.told = format!("{} tables", facts.tables.len());
    check.took = began.elapsed();
    Ok(check)
}

async fn rows(loader: &Loader<'_>, table: &Table) -> Result<()> {
    loader.write(table).await?;
    let sql = [b"SELECT count() FROM ".as_slice(), &table.quoted()].concat();
    let rows = loader.client.number(sql).await?;
    match rows == table.rows {
        true => Ok(()),
        false => Err(Error::corrupt(format!("it has {rows} rows and had {} in the backup", table.rows))),
    }
}

/// Every part of every table.
pub(super) async fn check_tables(client: &Client, facts: &Facts) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "CHECK TABLE".into(), ..Check::default() };
    let (mut tables, mut read) = (0, 0);
    for table in facts.tables.iter().filter(|table| table.kept == Kept::Parts && table.parts > 0) {
        let label = table.label();
        let quoted = table.quoted();
        let sql = [
            b"CHECK TABLE ".as_slice(),
            &quoted,
            b" FORMAT TabSeparated SETTINGS check_query_single_value_result = 0",
        ];
        tables += 1;
        match client.answer(sql.concat(), 3).await {
            Ok(rows) => {
                let bad = rows.iter().filter(|row| row[1].0 != b"1");
                check.findings.extend(bad.map(|row| format!("table {label}, part {}: {}", row[0], row[2])));
            }
            Err(fault) if fault.code().is_some_and(|code| CANNOT.contains(&code)) => {
                read += 1;
                // Each block that is read has a checksum.
                let sql = [b"SELECT count() FROM ".as_slice(), &quoted, b" WHERE NOT ignore(*)"].concat();
                let counted = client.number(sql).await.map_err(Error::from);
                let counted = counted.map_err(|e| e.with_note(format!("reading table {label}")));
                found(&mut check.findings, counted)?;
            }
            Err(fault) => {
                let failed = Err::<(), _>(Error::from(fault).with_note(format!("table {label}")));
                found(&mut check.findings, failed)?;
            }
        }
    }
    check.told = match read {
        0 => format!("{tables} tables"),
        _ => format!("{tables} tables, of which {read} were read as this version cannot check them"),
    };
    check.took = began.elapsed();
    Ok(check)
}

/// It fails, or its first value is false, and the drill fails.
pub(super) async fn probe(client: &Client, sql: &str) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "probe".into(), told: sql.to_owned(), ..Check::default() };
    let asked = client.first(sql).await.map_err(Error::from);
    if let Some(first) = found(&mut check.findings, asked.map_err(|e| e.with_note(sql)))? {
        if ["0", "false"].contains(&first.as_str()) {
            check.findings.push(format!("{sql}: false"));
        }
        check.told = format!("{sql}: {first}");
    }
    check.took = began.elapsed();
    Ok(check)
}
