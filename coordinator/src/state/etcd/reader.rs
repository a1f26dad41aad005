//! Records as etcd has them: one by one, all of a prefix as of one revision, and on and on.
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{GetOptions, KeyValue};
use futures::StreamExt;
use futures::stream::BoxStream;
use palinurus_repository::Result;

use super::client::{self, Client};
use super::error::Failed;
use super::follow::{Follow, Range};
use crate::state::{Change, Reader, Record};

/// Records a page; fewer where they are large.
const PAGE: i64 = 256;
/// How often a list begins anew because its revision was compacted under it.
const AGAIN: usize = 5;

/// Everything below one prefix.
#[derive(Clone)]
pub(super) struct EtcdReader {
    client: Arc<Client>,
    prefix: String,
}

impl fmt::Debug for EtcdReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdReader({} at {:?})", self.prefix, self.client)
    }
}

impl EtcdReader {
    pub(super) fn new(client: Arc<Client>, prefix: String) -> Self {
        Self { client, prefix }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Reader for EtcdReader {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        let found = get(&self.client, &format!("read the record {key}"), &self.name(key)).await?;
        Ok(found.as_ref().map(record))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        let range = Range::prefix(self.name(prefix), self.prefix.len());
        let (all, _) = list(&self.client, &format!("list the records {prefix}*"), &range).await?;
        Ok(all)
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        let range = Range::prefix(self.name(prefix), self.prefix.len());
        let follow = Follow::new(self.client.clone(), range);
        futures::stream::unfold(follow, async |mut follow| Some((follow.next().await, follow))).boxed()
    }
}

pub(super) async fn get(client: &Client, what: &str, name: &str) -> Result<Option<KeyValue>, Failed> {
    let found = client.call(what, |etcd| async move { client::kv(&etcd).get(name, None).await });
    Ok(found.await?.take_kvs().into_iter().next())
}

/// As of one revision, which is told too. A page at a time, so that no answer outgrows what is taken in.
pub(super) async fn list(
    client: &Client,
    what: &str,
    range: &Range,
) -> Result<(Vec<(String, Record)>, i64), Failed> {
    let mut again = AGAIN;
    loop {
        match list_once(client, what, range).await {
            Err(Failed::Compacted) if again > 0 => again -= 1,
            ended => return ended,
        }
    }
}

async fn list_once(
    client: &Client,
    what: &str,
    range: &Range,
) -> Result<(Vec<(String, Record)>, i64), Failed> {
    let (mut all, mut revision, mut limit) = (Vec::new(), 0, PAGE);
    let mut from = range.first().to_vec();
    loop {
        let options = GetOptions::new().with_range(range.end()).with_limit(limit).with_revision(revision);
        let (start, options) = (&from, &options);
        let asked = client.call(what, |etcd| async move {
            client::kv(&etcd).get(start.clone(), Some(options.clone())).await
        });
        let mut page = match asked.await {
            Err(Failed::TooLong(_)) if limit > 1 => {
                limit = (limit / 4).max(1);
                continue;
            }
            page => page?,
        };
        if revision == 0 {
            revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        let more = page.more();
        let found = page.take_kvs();
        if let Some(last) = found.last() {
            from = [last.key(), b"\0"].concat();
        }
        let empty = found.is_empty();
        all.extend(found.into_iter().map(|kv| (range.key(&kv), record(&kv))));
        if !more || empty {
            return Ok((all, revision));
        }
    }
}

pub(super) fn record(kv: &KeyValue) -> Record {
    Record { value: Bytes::copy_from_slice(kv.value()), revision: revision(kv.mod_revision()) }
}

/// etcd's are positive.
pub(super) fn revision(of: i64) -> u64 {
    u64::try_from(of).unwrap_or(0)
}
