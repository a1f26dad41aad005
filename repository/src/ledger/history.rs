//! The records themselves, for those who ask who wrote what and when, and not only what it came to.
use crate::error::Result;
use crate::keys::Keys;
use crate::storage::{Storage, list_all};

use super::record::{self, Record};

/// Every record from the first one on, void ones too. Each must follow the one before it.
pub async fn history(storage: &dyn Storage, keys: &Keys) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut previous = None;
    for object in list_all(storage, "ledger/").await? {
        let Some(number) = record::number(&object.key) else { continue };
        let sealed = storage.get(&object.key, None).await?;
        records.push(Record::open(keys, number, previous.as_ref(), &sealed)?);
        previous = Some(record::link(&sealed));
    }
    Ok(records)
}
