//! The records themselves, for those who ask who wrote what and when, and not only what it came to.
use crate::error::Result;
use crate::keys::Keys;
use crate::storage::{Storage, list_all};

use super::record::{self, Body, Record};
use super::{State, follow};

/// Every record from the first one on, void ones too. Each must follow the one before it.
pub async fn history(storage: &dyn Storage, keys: &Keys) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut previous = None;
    // Where key epochs begin: void records begin none.
    let (mut keys, mut state) = (keys.clone(), State::default());
    for object in list_all(storage, "ledger/").await? {
        let Some(number) = record::number(&object.key) else { continue };
        let sealed = storage.get(&object.key, None).await?;
        let record = Record::open(&keys, number, previous.as_ref(), &sealed)?;
        if state.apply(number, &record).is_ok() {
            if let Body::KeyEpoch(epoch) = record.body {
                keys.load(storage, epoch).await?;
            }
            follow(&mut keys, &state, &record)?;
        }
        records.push(record);
        previous = Some(record::link(&sealed));
    }
    Ok(records)
}
