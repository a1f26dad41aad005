//! The file: opened, proved to be ours, or made anew.
use std::path::Path;

use palinurus_repository::{Error, RepositoryId, Result};
use redb::{Database, ReadableTable, TableDefinition};

use super::{CHUNKS, TRANSACTIONS, failed, runs};

const REPOSITORY: TableDefinition<'_, (), &[u8; RepositoryId::LEN]> = TableDefinition::new("repository");

pub(super) fn open(path: &Path, repository: RepositoryId, cache: usize) -> Result<Database> {
    // redb may panic on a file that was changed behind its back.
    let opened = std::panic::catch_unwind(|| try_open(path, repository, cache));
    match opened {
        Ok(Ok(Some(database))) => return Ok(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => {
            return Err(Error::conflict(format!("{} is in use", path.display())));
        }
        Ok(Ok(None)) => {
            tracing::warn!(path = %path.display(), "the chunk index is another repository's: made anew")
        }
        Ok(Err(e)) => {
            tracing::warn!(path = %path.display(), error = %e, "the chunk index is damaged: made anew")
        }
        Err(_) => tracing::warn!(path = %path.display(), "the chunk index is damaged: made anew"),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("remove {}", path.display()), e));
        }
        _ => {}
    }
    match try_open(path, repository, cache) {
        Ok(Some(database)) => Ok(database),
        Ok(None) => Err(Error::internal("a new chunk index belongs to another repository")),
        Err(e) => Err(failed(e)),
    }
}

/// `None` when the file is another repository's.
fn try_open(path: &Path, repository: RepositoryId, cache: usize) -> Result<Option<Database>, redb::Error> {
    let database = Database::builder().set_cache_size(cache).create(path)?;
    Ok(make_tables(&database, repository)?.then_some(database))
}

/// Not when the file is another repository's.
pub(super) fn make_tables(database: &Database, repository: RepositoryId) -> Result<bool, redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(CHUNKS)?;
        runs::make(&transaction)?;
        transaction.open_table(TRANSACTIONS)?;
        let mut owner = transaction.open_table(REPOSITORY)?;
        let found = owner.get(())?.map(|found| *found.value());
        match found {
            Some(found) if found != repository.0 => return Ok(false),
            Some(_) => {}
            None => drop(owner.insert((), &repository.0)?),
        }
    }
    transaction.commit()?;
    Ok(true)
}
