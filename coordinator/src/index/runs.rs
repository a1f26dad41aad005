//! The runs of what the open transaction has stored, in the file: sorted tables, from small to large.
use palinurus_repository::TransactionId;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::filter::Filter;
use super::{Entry, Id, Place, append};

/// The runs, by number: the later, the greater. Of how many merges each has come, and its entries.
pub(super) const RUNS: TableDefinition<'_, u64, (u32, u64)> = TableDefinition::new("runs");
/// The packs that the runs are made of.
pub(super) const PACKS: TableDefinition<'_, &str, ()> = TableDefinition::new("run packs");
/// Of versions that kept the open transaction in a tree.
const FORMER: [TableDefinition<'_, &str, ()>; 2] =
    [TableDefinition::new("open"), TableDefinition::new("packs")];

pub(super) struct Run {
    pub(super) number: u64,
    pub(super) merges: u32,
    pub(super) entries: u64,
    pub(super) filter: Option<Filter>,
}

pub(super) fn name(run: u64) -> String {
    format!("run {run}")
}

/// The tables that there always are.
pub(super) fn make(write: &WriteTransaction) -> Result<(), redb::Error> {
    for former in FORMER {
        write.delete_table(former)?;
    }
    write.open_table(RUNS)?;
    write.open_table(PACKS)?;
    Ok(())
}

pub(super) fn clear(write: &WriteTransaction) -> Result<(), redb::Error> {
    let mut runs = write.open_table(RUNS)?;
    while let Some((number, _)) = runs.pop_first()? {
        write.delete_table(TableDefinition::<Id, Place>::new(&name(number.value())))?;
    }
    drop(runs);
    write.delete_table(PACKS)?;
    write.open_table(PACKS)?;
    Ok(())
}

pub(super) fn open_transactions(
    table: &impl ReadableTable<&'static [u8; TransactionId::LEN], bool>,
) -> Result<Vec<[u8; TransactionId::LEN]>, redb::Error> {
    let mut open = Vec::new();
    for entry in table.iter()? {
        let (id, whole) = entry?;
        if !whole.value() {
            open.push(*id.value());
        }
    }
    Ok(open)
}

pub(super) fn tables(
    read: &ReadTransaction,
    runs: &[u64],
) -> Result<Vec<ReadOnlyTable<Id, Place>>, redb::Error> {
    let table = |run: &u64| Ok(read.open_table(TableDefinition::new(&name(*run)))?);
    runs.iter().map(table).collect()
}

/// The entries are sorted.
pub(super) fn put_run(
    write: &WriteTransaction,
    merges: u32,
    mut filter: Option<Filter>,
    entries: impl Iterator<Item = Result<Entry, redb::Error>>,
) -> Result<Run, redb::Error> {
    let mut runs = write.open_table(RUNS)?;
    let number = runs.last()?.map_or(0, |(last, _)| last.value() + 1);
    let mut count = 0;
    {
        let mut table = write.open_table(TableDefinition::new(&name(number)))?;
        let entries = entries.inspect(|entry| {
            if let Ok((id, _)) = entry {
                count += 1;
                filter.iter_mut().for_each(|filter| filter.insert(id));
            }
        });
        append(&mut table, entries)?;
    }
    runs.insert(number, (merges, count))?;
    Ok(Run { number, merges, entries: count, filter })
}
