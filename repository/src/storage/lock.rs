//! Objects that a store keeps for a time whatever is asked of it (S3's Object Lock). Nothing of ours asks it to delete
//! one of them before its time: who sweeps leaves them, and finds them again the next time.
use super::Storage;
use crate::clock::Timestamp;
use crate::error::Result;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    pub key: String,
    /// None: until somebody lifts a legal hold.
    pub until: Option<Timestamp>,
}

/// Deletes all that are not locked, and says which are.
pub async fn delete_unlocked(storage: &dyn Storage, mut keys: Vec<String>) -> Result<Vec<Locked>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let locked = storage.locked(&keys).await?;
    keys.retain(|key| locked.iter().all(|locked| locked.key != *key));
    if !keys.is_empty() {
        storage.delete(&keys).await?;
    }
    Ok(locked)
}
