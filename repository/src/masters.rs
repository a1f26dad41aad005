//! The masters of all key epochs up to one, sealed for one operator key: the object `masters/<number>-<draw>/<key id>`.
//!
//! ```text
//! header   "PALNE" version suite 0 | repository id 16
//! sealed   for each epoch from 1 on: draw 8 | master 32
//! BLAKE3 of all that, 8 bytes
//! ```
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::crypto::{Aead, Key, RingSuite, Suite, TAG_LEN};
use crate::entropy::Entropy;
use crate::epochs::{EPOCHS_MAX, KeyEpoch};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Draw, KeyId, RepositoryId};
use crate::keyfile::KeyFile;
use crate::storage::{Storage, list_all};

const MAGIC: &[u8; 6] = b"PALNE\x01";
const HEADER_LEN: usize = 8 + RepositoryId::LEN;
const CHECKSUM_LEN: usize = 8;
const ENTRY: usize = Draw::LEN + 32;
/// Whatever is longer is none of ours: not read into memory.
pub(crate) const OBJECT_MAX: u64 = (HEADER_LEN + EPOCHS_MAX as usize * ENTRY + TAG_LEN + CHECKSUM_LEN) as u64;
pub(crate) const PREFIX: &str = "masters/";

/// What one epoch's objects are sealed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) draw: Draw,
    pub(crate) key: Key,
}

impl Master {
    pub(crate) fn draw(entropy: &dyn Entropy) -> Result<Self> {
        Ok(Self { draw: Draw(entropy.array()?), key: Key(entropy.array()?) })
    }
}

/// The object's name. Ten digits, so that a listing has the newest last.
pub(crate) fn object(epoch: KeyEpoch, key: KeyId) -> String {
    format!("{PREFIX}{:010}-{}/{key}", epoch.number, epoch.draw)
}

pub(crate) fn parse(object: &str) -> Option<(KeyEpoch, KeyId)> {
    let (epoch, key) = object.strip_prefix(PREFIX)?.split_once('/')?;
    let (number, draw) = epoch.split_once('-')?;
    let parsed = (KeyEpoch { number: number.parse().ok()?, draw: draw.parse().ok()? }, key.parse().ok()?);
    (parsed.0.number > 0 && self::object(parsed.0, parsed.1) == object).then_some(parsed)
}

/// Seals the masters of epochs 1 to the last, which is `epoch`, for that key.
///
/// Key and nonce are the same each time, which is safe because the content is the same too: a draw belongs to one place
/// in the ledger, and so does every draw before it.
pub(crate) fn seal(masters: &[Master], key: &KeyFile, repository: RepositoryId) -> Result<(String, Bytes)> {
    let number = u32::try_from(masters.len()).ok().filter(|number| (1..=EPOCHS_MAX).contains(number));
    let (Some(number), Some(last)) = (number, masters.last()) else {
        return Err(Error::internal(format!("{} masters in one object", masters.len())));
    };
    let epoch = KeyEpoch { number, draw: last.draw };
    // Never grown: a buffer that moves leaves its content behind.
    let mut sealed = Vec::with_capacity(masters.len() * ENTRY + TAG_LEN);
    for master in masters {
        sealed.extend_from_slice(master.draw.as_bytes());
        sealed.extend_from_slice(&master.key.0);
    }
    let header = header(repository);
    let tag = aead(key, repository, epoch)?.seal(0, &aad(&header, key), &mut sealed)?;
    let mut object = [&header[..], &sealed, &tag].concat();
    object.extend_from_slice(&blake3::hash(&object).as_bytes()[..CHECKSUM_LEN]);
    Ok((self::object(epoch, key.id), Bytes::from(object)))
}

/// `Denied` when it was sealed for another key, repository or epoch, `Corrupt` when it is damaged.
pub(crate) fn open(
    object: &[u8],
    key: &KeyFile,
    repository: RepositoryId,
    epoch: KeyEpoch,
) -> Result<Vec<Master>> {
    let name = self::object(epoch, key.id);
    let damaged = |why: &str| {
        Error::corrupt(format!("{name} cannot be used: {why}"))
            .with_hint("open with another key, then `palinurus keys remove` this one and add it again")
    };
    let body = intact(object, epoch).map_err(|e| match e.kind() {
        ErrorKind::Corrupt => damaged(e.what()),
        _ => e,
    })?;
    let (given, sealed) = body.split_at(HEADER_LEN);
    if given != header(repository) {
        return Err(damaged("it is another repository's, or of an unknown format"));
    }
    let mut sealed = sealed.to_vec();
    let plain = aead(key, repository, epoch)?.open(0, &aad(given, key), &mut sealed).map_err(|e| {
        Error::new(ErrorKind::Denied, format!("the key {} does not open {name}", key.id))
            .with_hint("the key file belongs to another repository, or was changed")
            .with_source(e)
    })?;
    let master = |entry: &[u8]| {
        let mut master = Master { draw: Draw::from_slice(&entry[..Draw::LEN])?, key: Key([0; 32]) };
        master.key.0.copy_from_slice(&entry[Draw::LEN..]);
        Ok(master)
    };
    let masters: Result<Vec<Master>> = plain.chunks_exact(ENTRY).map(master).collect();
    sealed.fill(0);
    masters.and_then(|masters| match masters.last() {
        Some(last) if last.draw == epoch.draw => Ok(masters),
        _ => Err(damaged("it holds another draw's masters")),
    })
}

/// Needs no key.
pub(crate) fn whole(object: &[u8], repository: RepositoryId, epoch: KeyEpoch) -> Result<()> {
    match intact(object, epoch)?.starts_with(&header(repository)) {
        true => Ok(()),
        false => Err(Error::corrupt("it is another repository's")),
    }
}

/// All before the checksum.
fn intact(object: &[u8], epoch: KeyEpoch) -> Result<&[u8]> {
    let (body, checksum) =
        object.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(|| Error::corrupt("its length is wrong"))?;
    if blake3::hash(body).as_bytes()[..CHECKSUM_LEN] != *checksum {
        return Err(Error::corrupt("its checksum is wrong"));
    }
    let version = body.strip_prefix(&MAGIC[..5]).and_then(<[u8]>::first);
    if let Some(version) = version.filter(|version| **version > MAGIC[5]) {
        return Err(Error::invalid(format!("masters of version {version}")).with_hint("update palinurus"));
    }
    if body.len() != HEADER_LEN + epoch.number as usize * ENTRY + TAG_LEN {
        return Err(Error::corrupt("its length is wrong"));
    }
    Ok(body)
}

/// What that key has of the masters up to `epoch`: its object, or that of a later epoch, which has them too.
pub(crate) async fn read(
    storage: &dyn Storage,
    key: &KeyFile,
    repository: RepositoryId,
    epoch: KeyEpoch,
) -> Result<Option<Vec<Master>>> {
    if let Some(masters) = get(storage, key, repository, epoch).await? {
        return Ok(Some(masters));
    }
    let mut later: Vec<KeyEpoch> = list_all(storage, PREFIX)
        .await?
        .iter()
        .filter_map(|object| parse(&object.key))
        .filter(|(later, id)| *id == key.id && later.number > epoch.number)
        .map(|(later, _)| later)
        .collect();
    later.sort_unstable();
    let mut failure = None;
    for later in later.into_iter().rev() {
        match get(storage, key, repository, later).await {
            // One drawn after another history was never in force.
            Ok(Some(masters)) => {
                if masters.get(epoch.number as usize - 1).is_some_and(|master| master.draw == epoch.draw) {
                    return Ok(Some(masters));
                }
            }
            Ok(None) => {}
            Err(e) => failure = Some(e),
        }
    }
    failure.map_or(Ok(None), Err)
}

/// The keys that have a list of that epoch or a later one.
pub(crate) async fn reaching(storage: &dyn Storage, epoch: KeyEpoch) -> Result<Vec<KeyId>> {
    let listed = list_all(storage, PREFIX).await?;
    let of = listed.iter().filter_map(|object| parse(&object.key));
    let reaches = |of: KeyEpoch| of == epoch || of.number > epoch.number;
    let ids: BTreeSet<KeyId> = of.filter(|(of, _)| reaches(*of)).map(|(_, id)| id).collect();
    Ok(ids.into_iter().collect())
}

async fn get(
    storage: &dyn Storage,
    key: &KeyFile,
    repository: RepositoryId,
    epoch: KeyEpoch,
) -> Result<Option<Vec<Master>>> {
    let name = object(epoch, key.id);
    let read = match storage.size(&name).await {
        Ok(size) if size <= OBJECT_MAX => storage.get(&name, None).await,
        Ok(size) => return Err(Error::corrupt(format!("{name} has {size} bytes"))),
        Err(e) => Err(e),
    };
    match read {
        Ok(object) => open(&object, key, repository, epoch).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn header(repository: RepositoryId) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..6].copy_from_slice(MAGIC);
    header[6] = RingSuite.id();
    header[8..].copy_from_slice(repository.as_bytes());
    header
}

fn aead(key: &KeyFile, repository: RepositoryId, epoch: KeyEpoch) -> Result<Box<dyn Aead>> {
    let label = [b"masters", repository.as_bytes(), &epoch.number.to_le_bytes(), epoch.draw.as_bytes()];
    RingSuite.aead(&RingSuite.derive(&key.key, &label)?)
}

fn aad(header: &[u8], key: &KeyFile) -> Vec<u8> {
    [header, key.id.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::storage::MemoryStorage;

    const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

    fn key(seed: u64) -> KeyFile {
        KeyFile::generate(&SeededEntropy::new(seed)).unwrap()
    }

    fn drawn(count: u64) -> Vec<Master> {
        (0..count).map(|n| Master::draw(&SeededEntropy::new(100 + n)).unwrap()).collect()
    }

    fn epoch(masters: &[Master]) -> KeyEpoch {
        KeyEpoch { number: masters.len() as u32, draw: masters.last().unwrap().draw }
    }

    #[test]
    fn only_the_same_key_repository_and_epoch_open() {
        let masters = drawn(3);
        let (name, object) = seal(&masters, &key(1), REPOSITORY).unwrap();
        let own = epoch(&masters);
        assert_eq!(parse(&name), Some((own, key(1).id)));
        assert_eq!(open(&object, &key(1), REPOSITORY, own).unwrap(), masters);
        assert_eq!(seal(&masters, &key(1), REPOSITORY).unwrap().1, object, "the same again");
        for secret in masters.iter().map(|master| master.key.0) {
            assert!(!object.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
        }
        assert_eq!(open(&object, &key(2), REPOSITORY, own).unwrap_err().kind(), ErrorKind::Denied);
        let other = KeyEpoch { draw: Draw([7; 8]), ..own };
        assert_eq!(open(&object, &key(1), REPOSITORY, other).unwrap_err().kind(), ErrorKind::Denied);
        open(&object, &key(1), RepositoryId([8; 16]), own).unwrap_err();
        open(&object, &key(1), REPOSITORY, epoch(&masters[..2])).unwrap_err();
        for i in 0..object.len() {
            let mut flipped = object.to_vec();
            flipped[i] ^= 4;
            let error = open(&flipped, &key(1), REPOSITORY, own).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {i}");
            open(&object[..i], &key(1), REPOSITORY, own).unwrap_err();
        }
        assert!(seal(&[], &key(1), REPOSITORY).is_err());
        for bad in
            ["masters/", "masters/1-00/x", &name.replace("masters/", "keys/"), &name.replace("00003", "3")]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_later_object_has_the_earlier_masters_if_it_is_of_the_same_history() {
        let storage = MemoryStorage::default();
        let masters = drawn(3);
        let first = epoch(&masters[..1]);
        let strange = [Master::draw(&SeededEntropy::new(1)).unwrap(), masters[1].clone()];
        for list in [&strange[..], &masters] {
            let (name, object) = seal(list, &key(1), REPOSITORY).unwrap();
            storage.put_new(&name, object).await.unwrap();
        }
        assert_eq!(read(&storage, &key(1), REPOSITORY, first).await.unwrap().unwrap(), masters);
        assert_eq!(read(&storage, &key(2), REPOSITORY, first).await.unwrap(), None);
        let never = KeyEpoch { number: 1, draw: Draw([3; 8]) };
        assert_eq!(read(&storage, &key(1), REPOSITORY, never).await.unwrap(), None);
    }
}
