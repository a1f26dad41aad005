//! Where objects lie. Every object but `keys/*` is written once and its name never used again.
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, SystemEntropy};
use crate::error::{Error, Result};

#[cfg(any(feature = "s3", feature = "cloud"))]
mod address;
#[cfg(feature = "cloud")]
mod cloud;
mod counted;
#[cfg(test)]
pub(crate) mod front;
mod local;
mod lock;
mod mark;
mod memory;
mod read_only;
#[cfg(any(feature = "s3", feature = "cloud"))]
mod remote;
mod retry;
#[cfg(feature = "s3")]
mod s3;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use counted::{Counted, Requests};
pub use local::LocalStorage;
pub use lock::{Locked, delete_unlocked};
pub use mark::Mark;
pub use memory::MemoryStorage;
pub use read_only::ReadOnly;
pub use retry::{Retried, put_own};

/// A flat store of named objects. Names are `/`-separated parts of `[A-Za-z0-9._-]`; see [`check_key`].
///
/// A call that ends in `Unavailable` may have been carried out: look before doing it again.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// Creates an object; durable when it returns. `Conflict` when the name exists: exactly one of any number
    /// of racing creators succeeds, and what it wrote stays. Never leaves a part of an object under its name, and
    /// keeps no hold of `body` once it has returned: callers pool their buffers.
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()>;

    /// `put_new` for a caller that may have to ask again: what an earlier try with the same mark created is no conflict.
    /// A store whose calls end with a known outcome needs no marks.
    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        let _ = mark;
        self.put_new(key, body).await
    }

    /// Creates or replaces; for `keys/*` only.
    async fn put(&self, key: &str, body: Bytes) -> Result<()>;

    /// The whole object or `range` of it. `NotFound` when absent; `Corrupt` when the object ends before `range`.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes>;

    /// The object's length; `NotFound` when absent.
    async fn size(&self, key: &str) -> Result<u64>;

    /// The first `limit` objects whose names begin with `prefix` and are greater than `after`, in the order of names;
    /// fewer only when there are no more. Some stores sort part by part, `a/x` before `a-b`; that will do, for no part
    /// of a name of ours is another with `-` or `.` behind it.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>>;

    /// Removes the objects; one that is absent is no error.
    async fn delete(&self, keys: &[String]) -> Result<()>;

    /// Which of the objects the store keeps for now, whatever is asked of it.
    async fn locked(&self, keys: &[String]) -> Result<Vec<Locked>> {
        let _ = keys;
        Ok(Vec::new())
    }

    /// Removes what writers that died left outside of any object, and says how much that was.
    async fn tidy(&self) -> Result<u64> {
        Ok(0)
    }

    /// What was asked since the store was opened, by all its users, with every retry; of a store behind a network, what
    /// went over it. None where nobody counts.
    fn sent(&self) -> Option<Requests> {
        None
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub size: u64,
}

/// How a URL becomes a store.
pub trait Stores: Send + Sync + fmt::Debug {
    fn open(&self, url: &str) -> Result<Arc<dyn Storage>>;
}

/// Every kind of store there is, by [`open`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AllStores;

impl Stores for AllStores {
    fn open(&self, url: &str) -> Result<Arc<dyn Storage>> {
        open(url)
    }
}

/// Opens the store that a URL names. Nothing is asked of it yet. See docs/operations/stores.md.
pub fn open(url: &str) -> Result<Arc<dyn Storage>> {
    open_with(url, Arc::new(SystemClock), Arc::new(SystemEntropy::new()))
}

/// `open` in a world of the caller's.
pub fn open_with(url: &str, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Arc<dyn Storage>> {
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    let _ = (&clock, &entropy); // a build without networks needs neither
    match (scheme, rest) {
        ("file", rest) => Ok(Arc::new(Counted::new(Arc::new(LocalStorage::open(rest)?)))),
        ("memory", "") => Ok(Arc::new(Counted::new(Arc::new(MemoryStorage::default())))),
        #[cfg(feature = "s3")]
        ("s3", rest) => {
            Ok(Arc::new(Retried::new(s3::S3Storage::open(rest, clock, entropy.clone())?, entropy)))
        }
        #[cfg(feature = "cloud")]
        ("gs", rest) => {
            Ok(Arc::new(Retried::new(cloud::CloudStorage::google(rest, entropy.clone())?, entropy)))
        }
        #[cfg(feature = "cloud")]
        ("az", rest) => {
            Ok(Arc::new(Retried::new(cloud::CloudStorage::azure(rest, entropy.clone())?, entropy)))
        }
        (scheme, _) if ["s3", "gs", "az"].contains(&scheme) => {
            Err(Error::invalid(format!("this build knows no {scheme}: stores"))
                .with_hint("build with the features `s3` and `cloud`, which are on by default"))
        }
        // The rest of an unknown URL may hold a password.
        _ => Err(Error::invalid(format!("repository {scheme:?} is of no kind that is known")).with_hint(
            "use file:///absolute/path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        )),
    }
}

/// Every object under `prefix`, page by page. For prefixes known to be small.
pub async fn list_all(storage: &dyn Storage, prefix: &str) -> Result<Vec<Object>> {
    const PAGE: usize = 1000;
    let mut all: Vec<Object> = Vec::new();
    loop {
        let page = storage.list(prefix, all.last().map(|object| object.key.as_str()), PAGE).await?;
        let end = page.len() < PAGE;
        all.extend(page);
        if end {
            return Ok(all);
        }
    }
}

/// Every implementation refuses other names, so that no name leaves the repository or means two things.
pub fn check_key(key: &str) -> Result<()> {
    let fits =
        key.len() <= 512 && key.split('/').all(part_fits) && key.split('/').next() != Some(local::TEMPORARY);
    if fits { Ok(()) } else { Err(Error::invalid(format!("{key:?} is not the name of an object"))) }
}

/// A prefix is the beginning of a name, and may end in the middle of a part.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    let mut parts = prefix.split('/');
    let last = parts.next_back().unwrap_or_default();
    let fits = prefix.len() <= 512 && (last.is_empty() || part_fits(last)) && parts.all(part_fits);
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(format!("{prefix:?} is not the beginning of an object's name")))
    }
}

/// Begins with a letter or digit: `..` and hidden names are none of ours.
fn part_fits(part: &str) -> bool {
    part.len() <= 255
        && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What `get` of a range answers when the object is shorter.
fn ends_early(key: &str, range: &Range<u64>, size: u64) -> Error {
    Error::corrupt(format!("{key} ends at {size}, before the bytes {}..{}", range.start, range.end))
}
