//! Whether the masters of the newest key epoch are there for the keys that open the repository.
use super::{Check, DamageKind};
use crate::masters;

impl Check<'_> {
    pub(super) async fn masters(&mut self) {
        let Some(epoch) = self.repository.read(|state| state.key_epoch()).await else { return };
        let all = self.all();
        let storage = self.repository.storage();
        // That they could not be listed was found already.
        let Ok(keys) = self.repository.key_ids().await else { return };
        let mut damaged = Vec::new();
        for key in &keys {
            let object = masters::object(epoch, *key);
            let read = storage.get(&object, None).await;
            if let Err(error) = read.and_then(|read| masters::whole(&read, epoch)) {
                damaged.push((object, error));
            }
        }
        // As long as one key has them, somebody can open everything.
        let lost = if damaged.len() == keys.len() { all } else { Vec::new() };
        if keys.is_empty() {
            return;
        }
        for (object, error) in damaged {
            self.found.add(&object, DamageKind::of(&error), error.chain(), lost.clone());
        }
    }
}
