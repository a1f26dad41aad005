//! `s3://`: Amazon's S3 and what speaks its language. Asks once; [`crate::storage::Retried`] asks again.
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use tokio::sync::RwLock;
use tokio::time::Instant;

use self::config::Settings;
use self::error::{Call, answer, is_stale};
use super::counted::Counts;
use super::remote::{Remote, collect, in_time};
use super::{Locked, Mark, Object, Requests, Storage, check_key, check_prefix, ends_early};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::error::{Error, Result};

mod config;
mod error;
mod lock;
mod multipart;

type Answer<T, E> = std::result::Result<T, SdkError<E>>;

/// The metadata that keeps an object's [`Mark`].
const MARK: &str = "palinurus-put";
/// Larger objects go in parts.
const ONE_PUT: usize = 64 << 20;
/// As many objects as one DELETE or LIST takes.
const BATCH: usize = 1000;
/// Credentials that were read so recently are not read again.
const FRESH: Duration = Duration::from_secs(5);

pub(super) struct S3Storage {
    settings: Settings,
    client: RwLock<Option<(Client, Instant)>>,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    sent: Counts,
}

enum Condition<'a> {
    Absent(&'a Mark),
    None,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.name)
    }
}

impl S3Storage {
    pub(super) fn open(rest: &str, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        Ok(Self {
            settings: Settings::parse(rest)?,
            client: RwLock::default(),
            entropy,
            clock,
            sent: Counts::default(),
        })
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.settings.prefix)
    }

    /// The key of an object of ours; None for what others keep under our prefix.
    fn ours<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.settings.prefix).filter(|key| check_key(key).is_ok())
    }

    fn call<'a>(&'a self, action: &'static str, key: &'a str) -> Call<'a> {
        Call { action, key, store: &self.settings.name, bucket: &self.settings.bucket }
    }

    /// Made at the first request: that is when there is a runtime, and somebody to tell what is wrong.
    async fn client(&self) -> Result<Client> {
        if let Some((client, _)) = &*self.client.read().await {
            return Ok(client.clone());
        }
        let mut slot = self.client.write().await;
        if let Some((client, _)) = &*slot {
            return Ok(client.clone());
        }
        let client = Box::pin(self.settings.connect()).await?;
        *slot = Some((client.clone(), Instant::now()));
        Ok(client)
    }

    /// The answer to `request`, which moves `bytes`, whichever it is. Boxed at once: the client's futures are large.
    fn answer<'a, T: Send + 'a, E: Send + 'a>(
        &self,
        call: &'a Call<'_>,
        bytes: u64,
        request: impl Future<Output = Answer<T, E>> + Send + 'a,
    ) -> BoxFuture<'a, Result<Answer<T, E>>> {
        Box::pin(in_time(call, bytes, request.map(Ok)))
    }

    fn ask<'a, T: Send + 'a, E>(
        &'a self,
        call: &'a Call<'_>,
        bytes: u64,
        request: impl Future<Output = Answer<T, E>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let answer = self.answer(call, bytes, request);
        Box::pin(async move { answer.await?.map_err(|e| self.failed(call, e)) })
    }

    fn failed<E>(&self, call: &Call<'_>, e: SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let stale = answer(&e).is_some_and(|(_, code)| is_stale(code));
        let failure = error::from_sdk(call, e);
        if stale && self.forget_client() {
            return Error::unavailable(format!("{}; reading the credentials again", failure.what()))
                .with_hint(failure.hint().unwrap_or_default());
        }
        failure
    }

    /// Credentials come from files and roles that others renew. False when they were read a moment ago.
    fn forget_client(&self) -> bool {
        // Held by another: that one is about to have a new client.
        let Ok(mut slot) = self.client.try_write() else { return true };
        match &*slot {
            Some((_, since)) if since.elapsed() < FRESH => false,
            _ => {
                *slot = None;
                true
            }
        }
    }

    async fn put_once(&self, key: &str, body: Bytes, condition: &Condition<'_>) -> Result<()> {
        let length = body.len() as u64;
        if body.len() > ONE_PUT {
            Box::pin(self.put_parts(key, &body, condition)).await?;
            self.sent.bytes_put.add(length);
            return Ok(());
        }
        let call = self.call("s3:PutObject", key);
        self.sent.puts.add(1);
        let mut request = self.client().await?.put_object().bucket(&self.settings.bucket).key(self.name(key));
        request = request.set_checksum_algorithm(self.settings.checksum.clone()).body(body.into());
        if let Condition::Absent(mark) = condition {
            request = request.if_none_match("*").metadata(MARK, mark.text());
        }
        let answer = if self.settings.unsigned {
            self.answer(&call, length, request.customize().disable_payload_signing().send()).await?
        } else {
            self.answer(&call, length, request.send()).await?
        };
        match answer {
            Ok(_) => self.sent.bytes_put.add(length),
            Err(e) if answer_is(&e, 412) => return Err(self.exists(key)),
            Err(e) => return Err(self.failed(&call, e)),
        }
        Ok(())
    }

    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Object>, Option<String>)> {
        let call = self.call("s3:ListBucket", prefix);
        self.sent.lists.add(1);
        let request = self.client().await?.list_objects_v2().bucket(&self.settings.bucket);
        let request = request
            .prefix(self.name(prefix))
            .set_start_after(after.map(|after| self.name(after)))
            .max_keys(i32::try_from(limit.clamp(1, BATCH)).unwrap_or(1));
        let page = self.ask(&call, 0, request.send()).await?;
        let mut objects = Vec::new();
        for object in page.contents() {
            let (Some(name), Some(size)) = (object.key(), object.size()) else { continue };
            if let (Some(key), Ok(size)) = (self.ours(name), size.try_into()) {
                objects.push(Object { key: key.to_owned(), size });
            }
        }
        let last = page.contents().last().and_then(|last| last.key()?.strip_prefix(&self.settings.prefix));
        let more = last.filter(|_| page.is_truncated == Some(true)).map(str::to_owned);
        Ok((objects, more))
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<()> {
        let first = keys.first().map_or("", String::as_str);
        let call = self.call("s3:DeleteObject", first);
        self.sent.deletes.add(1);
        self.sent.deleted.add(keys.len() as u64);
        let unfit = |e| Error::internal("a DELETE cannot be put together").with_source(e);
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(self.name(key)).build());
        let objects = objects.collect::<std::result::Result<Vec<_>, _>>().map_err(unfit)?;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(unfit)?;
        let request = self.client().await?.delete_objects().bucket(&self.settings.bucket).delete(delete);
        let done = self.ask(&call, 0, request.send()).await?;
        let mut failed = done.errors().iter().filter(|e| e.code() != Some("NoSuchKey"));
        let Some(failure) = failed.next() else { return Ok(()) };
        let key = failure.key().and_then(|name| self.ours(name)).unwrap_or(first);
        let error = error::of_one(&self.call("s3:DeleteObject", key), failure.code(), failure.message());
        Err(match failed.count() {
            0 => error,
            more => error.with_note(format_args!("and {more} more objects")),
        })
    }
}

fn answer_is<E: ProvideErrorMetadata>(error: &SdkError<E>, status: u16) -> bool {
    answer(error).is_some_and(|(found, _)| found == status)
}

/// `bytes 0-9/100`: the range, its end exclusive, and the object's length.
fn parse_range(header: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?, size.parse().ok()?))
}

#[async_trait]
impl Remote for S3Storage {
    async fn head(&self, key: &str) -> Result<(u64, Option<String>)> {
        let call = self.call("s3:GetObject", key);
        self.sent.sizes.add(1);
        let request = self.client().await?.head_object().bucket(&self.settings.bucket).key(self.name(key));
        let found = self.ask(&call, 0, request.send()).await?;
        let length = found.content_length.and_then(|length| length.try_into().ok());
        let length = length.ok_or_else(|| Error::unavailable(format!("{call}: no length came")))?;
        Ok((length, found.metadata.and_then(|mut all| all.remove(MARK))))
    }

    async fn get_once(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes> {
        let call = self.call("s3:GetObject", key);
        self.sent.gets.add(1);
        let request = self.client().await?.get_object().bucket(&self.settings.bucket).key(self.name(key));
        let request =
            request.set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)));
        let found = match (self.answer(&call, 0, request.send()).await?, range) {
            (Ok(found), _) => found,
            (Err(e), Some(range)) if answer_is(&e, 416) => {
                return Err(ends_early(key, range, self.head(key).await?.0));
            }
            (Err(e), _) => return Err(self.failed(&call, e)),
        };
        let length: Option<u64> = found.content_length.and_then(|length| length.try_into().ok());
        let mut length = length.ok_or_else(|| Error::unavailable(format!("{call}: no length came")))?;
        if let Some(range) = range {
            let (first, size) = found
                .content_range
                .as_deref()
                .and_then(parse_range)
                .ok_or_else(|| Error::invalid(format!("{call}: the store does not read ranges")))?;
            if size < range.end {
                return Err(ends_early(key, range, size));
            }
            if first != *range {
                return Err(Error::unavailable(format!("{call}: another range came: {first:?}")));
            }
            length = range.end - range.start;
        }
        let body =
            stream::unfold(found.body, |mut body| async move { body.next().await.map(|some| (some, body)) });
        let body = collect(&call, length, body).await?;
        self.sent.bytes_got.add(body.len() as u64);
        Ok(body)
    }

    async fn create_once(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.put_once(key, body, &Condition::Absent(mark)).await
    }

    fn exists(&self, key: &str) -> Error {
        Error::conflict(format!("{key} exists already in {}", self.settings.name))
    }
}

#[async_trait]
impl Storage for S3Storage {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.put_marked(key, body, &Mark::draw(&*self.entropy)?).await
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.create(key, body, mark).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        self.put_once(key, body, &Condition::None).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.read(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        Ok(self.head(key).await?.0)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let mut found: Vec<Object> = Vec::new();
        let first = after;
        let mut after = after.map(str::to_owned);
        while found.len() < limit {
            let (page, more) = self.page(prefix, after.as_deref(), limit - found.len()).await?;
            for object in page {
                // A page that begins behind the wrong name would leave others out.
                let last = found.last().map(|last| last.key.as_str()).or(first);
                if let Some(last) = last.filter(|last| *last >= object.key.as_str()) {
                    return Err(Error::invalid(format!(
                        "{}: {} comes behind {last}",
                        self.settings.name, object.key
                    ))
                    .with_hint("the store sorts names part by part: remove what is not palinurus's there"));
                }
                found.push(object);
            }
            match more {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| check_key(key))?;
        for batch in keys.chunks(BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    async fn locked(&self, keys: &[String]) -> Result<Vec<Locked>> {
        keys.iter().try_for_each(|key| check_key(key))?;
        self.locked_of(keys).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.tidy_parts(self.clock.now()).await
    }

    fn sent(&self) -> Option<Requests> {
        Some(self.sent.requests())
    }
}
