//! Which agent this is: a random name, made once with the state directory. Two agents that claim one node differ
//! in it.
use std::path::Path;

use palinurus_repository::{Entropy, Error, Result};

use crate::durable;

const NAME: &str = "instance";

/// The next agent with this state directory is another one.
pub(crate) fn forget(state: &Path) -> Result<()> {
    durable::remove(&state.join(NAME))
}

pub(crate) fn instance(state: &Path, entropy: &dyn Entropy) -> Result<String> {
    let path = state.join(NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let instance = text.trim();
            let fits = instance.len() == 32 && instance.bytes().all(|b| b.is_ascii_hexdigit());
            if fits {
                return Ok(instance.to_owned());
            }
            Err(Error::corrupt(format!("{} holds no instance", path.display()))
                .with_hint("remove the file: the agent is then a new one to the coordinator"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let bytes: [u8; 16] = entropy.array()?;
            let instance: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            durable::write(&path, instance.as_bytes())?;
            Ok(instance)
        }
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::entropy::SeededEntropy;

    #[test]
    fn made_once() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = SeededEntropy::new(1);
        let first = instance(dir.path(), &entropy).unwrap();
        assert_eq!(instance(dir.path(), &entropy).unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(instance(other.path(), &entropy).unwrap(), first);
        std::fs::write(dir.path().join("instance"), "zz").unwrap();
        assert!(instance(dir.path(), &entropy).is_err());
    }
}
