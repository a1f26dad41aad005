//! What stores behind a network have in common.
use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, timeout, timeout_at};

use super::retry::slowest;
use super::{Mark, check_key, ends_early};
use crate::error::{Error, ErrorKind, Result};

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// Idle connections are given up before middleboxes forget them.
pub(super) const IDLE: Duration = Duration::from_secs(15);
/// A body that brings nothing for so long is given up.
const STALL: Duration = Duration::from_secs(15);
/// What an answer may take beside its bytes.
const ANSWER: Duration = Duration::from_secs(30);
/// No object is larger; a store that says otherwise is not believed.
pub(super) const LARGEST: u64 = 1 << 32;
/// Taken at once for a body; more is taken as it comes.
const TAKEN: u64 = 64 << 20;

/// What single requests to such a store do, and what comes of several.
#[async_trait]
pub(super) trait Remote: Sync {
    /// The object's length and mark.
    async fn head(&self, key: &str) -> Result<(u64, Option<String>)>;

    /// The object, or a range of it that is not empty and ends at [`LARGEST`] or before.
    async fn get_once(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes>;

    /// Creates the object under `mark`; a conflict may be with a request of the same mark.
    async fn create_once(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()>;

    fn exists(&self, key: &str) -> Error;

    /// Whether the object that is there came from a put with this mark; None when there is none.
    async fn bears(&self, key: &str, mark: &Mark) -> Result<Option<bool>> {
        match self.head(key).await {
            Ok((_, found)) => Ok(Some(found.as_deref() == Some(mark.text()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn create(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        check_key(key)?;
        if mark.is_again()
            && let Some(ours) = self.bears(key, mark).await?
        {
            return if ours { Ok(()) } else { Err(self.exists(key)) };
        }
        match self.create_once(key, body, mark).await {
            // The wire may have brought the request twice.
            Err(e) if e.kind() == ErrorKind::Conflict => match self.bears(key, mark).await {
                Ok(Some(true)) => Ok(()),
                Err(unknown) if unknown.kind() == ErrorKind::Unavailable => Err(unknown),
                _ => Err(e),
            },
            other => other,
        }
    }

    async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        let Some(range) = range else { return self.get_once(key, None).await };
        if range.start > range.end {
            return Err(Error::invalid(format!("range {}..{} of {key}", range.start, range.end)));
        }
        // What HTTP cannot ask for.
        if range.is_empty() || range.end > LARGEST {
            let (size, _) = self.head(key).await?;
            if range.end > size {
                return Err(ends_early(key, &range, size));
            }
            if range.is_empty() {
                return Ok(Bytes::new());
            }
        }
        self.get_once(key, Some(&range)).await
    }
}

/// Ends a request whose answer does not come, with `bytes` to move on the way. Its outcome is then unknown.
pub(super) async fn in_time<T>(
    what: &impl Display,
    bytes: u64,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout(ANSWER + slowest(bytes), request)
        .await
        .unwrap_or_else(|_| Err(Error::unavailable(format!("{what}: no answer in time"))))
}

/// A body of exactly `length` bytes: one that stalls, crawls or ends early is none.
pub(super) async fn collect<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &impl Display,
    length: u64,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Bytes> {
    if length > LARGEST {
        return Err(Error::corrupt(format!("{what}: {length} bytes are more than any object of ours has")));
    }
    let deadline = Instant::now() + ANSWER + slowest(length);
    let broken =
        |why: &str, have: usize| Error::unavailable(format!("{what}: {why} after {have} of {length} bytes"));
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    loop {
        let next = timeout_at(deadline.min(Instant::now() + STALL), body.next());
        match next.await {
            Err(_) => return Err(broken("the answer stalled", whole.len())),
            Ok(Some(Err(e))) => return Err(broken("the answer broke off", whole.len()).with_source(e)),
            Ok(None) if whole.len() as u64 == length => return Ok(whole.freeze()),
            Ok(None) => return Err(broken("the answer ended", whole.len())),
            Ok(Some(Ok(some))) if whole.len() as u64 + some.len() as u64 > length => {
                return Err(broken("the answer goes on", whole.len() + some.len()));
            }
            Ok(Some(Ok(some))) if some.len() as u64 == length => whole = BytesMut::from(some),
            Ok(Some(Ok(some))) => {
                if whole.is_empty() {
                    whole.reserve(length.min(TAKEN) as usize);
                }
                whole.extend_from_slice(&some);
            }
        }
    }
}

/// The certificates in a PEM file, proven to be some.
pub(super) fn read_ca(path: &Path) -> Result<Vec<u8>> {
    let name = path.display();
    let pem = std::fs::read(path)
        .map_err(|e| Error::io(format!("cannot read the CA certificates in {name}"), e))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added =
            certificate.map_err(|e| e.to_string()).and_then(|one| roots.add(one).map_err(|e| e.to_string()));
        added.map_err(|e| Error::invalid(format!("{name} holds a certificate that cannot be read: {e}")))?;
    }
    if roots.is_empty() {
        return Err(Error::invalid(format!("{name} holds no certificate")).with_hint("ca= names a PEM file"));
    }
    Ok(pem)
}

/// What a server said, made fit for a message: short, and nothing that moves a terminal's cursor.
pub(super) fn quoted(text: &str) -> String {
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::error::ErrorKind;

    fn parts(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, std::io::Error>> + use<> {
        stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect::<Vec<_>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_whole_or_none() {
        for whole in [&["abcdef"][..], &["ab", "", "cdef"], &["a", "b", "c", "d", "e", "f"]] {
            assert_eq!(collect(&"x", 6, parts(whole)).await.unwrap(), "abcdef");
        }
        assert_eq!(collect(&"x", 0, parts(&[])).await.unwrap(), "");
        for wrong in [&["abcde"][..], &["abcdef", "g"], &["abcdefg"], &[]] {
            assert_eq!(collect(&"x", 6, parts(wrong)).await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        let broken = parts(&["abc"]).chain(stream::iter([Err(std::io::Error::other("gone"))]));
        assert_eq!(collect(&"x", 6, broken).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(collect(&"x", LARGEST + 1, parts(&[])).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_crawls_ends() {
        let began = Instant::now();
        let stalled = parts(&["abc"]).chain(stream::pending());
        assert_eq!(collect(&"x", 6, stalled).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(began.elapsed(), STALL);
        let crawls = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"a")), ()))
        });
        let began = Instant::now();
        assert_eq!(collect(&"x", 1000, crawls).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(began.elapsed(), ANSWER);
    }

    #[test]
    fn what_servers_say_is_cut_to_a_line() {
        assert_eq!(quoted("a\u{1b}[2Jb\n"), "a [2Jb");
        assert_eq!(quoted(&"x".repeat(1000)).len(), 300);
    }
}
