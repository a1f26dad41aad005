//! Records as the leader writes them. Each write is a transaction that holds only while the leader key is ours.
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use futures::stream::BoxStream;
use palinurus_repository::{Epoch, Error, ErrorKind, Result};

use super::client;
use super::error::{self, Failed};
use super::lease::Validity;
use super::reader::{self, EtcdReader, revision};
use crate::state::{Change, Expect, Reader, Record, State};

/// How often a write that expects nothing is begun anew because another came between.
const AGAIN: usize = 8;
/// How many writes back an early try is looked for.
const HISTORY: usize = 16;

pub(super) struct EtcdState {
    reader: EtcdReader,
    leader_key: String,
    epoch: Epoch,
    validity: Arc<Validity>,
}

impl fmt::Debug for EtcdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdState(epoch {}, {:?})", self.epoch, self.reader)
    }
}

/// A write that is to be made once, whatever becomes of the answers.
struct Write<'a> {
    what: String,
    name: String,
    /// None: a deletion.
    value: Option<&'a Bytes>,
    /// The revision that is replaced; 0 where there must be nothing. Never just anything: a try that nobody waits
    /// for any more may land late, and must not undo what was written after it.
    replaces: u64,
}

impl EtcdState {
    pub(super) fn new(reader: EtcdReader, leader_key: String, epoch: Epoch, validity: Arc<Validity>) -> Self {
        Self { reader, leader_key, epoch, validity }
    }

    async fn write(&self, verb: &str, key: &str, value: Option<&Bytes>, expect: Expect) -> Result<u64> {
        let (what, name) = (format!("{verb} the record {key}"), self.reader.name(key));
        let mut write = Write { what, name, value, replaces: 0 };
        let replaces = match expect {
            Expect::Absent => Some(0),
            Expect::At(revision) => Some(revision),
            Expect::Any => None,
        };
        let mut again = AGAIN;
        loop {
            write.replaces = match replaces {
                Some(replaces) => replaces,
                None => {
                    self.validity.check()?;
                    let found = reader::get(self.reader.client(), &write.what, &write.name).await?;
                    found.map_or(0, |kv| revision(kv.mod_revision()))
                }
            };
            match self.try_to(&write).await {
                Err(Failed::Refused(e))
                    if e.kind() == ErrorKind::Conflict && replaces.is_none() && again > 0 =>
                {
                    again -= 1;
                }
                ended => return ended.map_err(Error::from),
            }
        }
    }

    async fn try_to(&self, write: &Write<'_>) -> Result<u64, Failed> {
        let (client, transaction) = (self.reader.client(), &self.transaction(write));
        let (mut patience, mut unknown) = (client.patience(), None);
        loop {
            if let Err(fenced) = self.validity.check() {
                return Err(unknown.map_or(Failed::Refused(fenced), |last| maybe(write, last)));
            }
            let asked = client
                .attempt(&write.what, |etcd| async move { client::kv(&etcd).txn(transaction.clone()).await });
            match asked.await {
                Ok(answer) if answer.succeeded() => {
                    let at = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                    return Ok(revision(at));
                }
                Ok(answer) => return self.refused(write, &answer, unknown).await,
                Err(Failed::Unknown(e) | Failed::OldToken(e)) => {
                    unknown = Some(error::more_telling(unknown, e));
                }
                Err(e) => return Err(e),
            }
            if !patience.wait().await
                && let Some(last) = unknown
            {
                return Err(maybe(write, last));
            }
        }
    }

    fn transaction(&self, write: &Write<'_>) -> Txn {
        // Above what etcd counts to, and so never true.
        let number = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
        let guards = [
            Compare::create_revision(&*self.leader_key, CompareOp::Equal, number(self.epoch.0)),
            Compare::mod_revision(&*write.name, CompareOp::Equal, number(write.replaces)),
        ];
        let deed = match write.value {
            Some(value) => TxnOp::put(&*write.name, &value[..], None),
            None => TxnOp::delete(&*write.name, None),
        };
        let look = [TxnOp::get(&*self.leader_key, None), TxnOp::get(&*write.name, None)];
        Txn::new().when(guards).and_then([deed]).or_else(look)
    }

    /// A guard did not hold: because of whom? With an earlier try whose end is not known, perhaps because of us.
    async fn refused(
        &self,
        write: &Write<'_>,
        answer: &TxnResponse,
        unknown: Option<Error>,
    ) -> Result<u64, Failed> {
        let mut found = answer.op_responses().into_iter().map(|op| match op {
            TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().next(),
            _ => None,
        });
        let (leader, record) = (found.next().flatten(), found.next().flatten());
        let leads = leader.is_some_and(|kv| revision(kv.create_revision()) == self.epoch.0);
        let Write { what, replaces, .. } = write;
        let refusal = if leads {
            let now = record.as_ref().map(KeyValue::mod_revision);
            Error::conflict(format!("{what}: it is at revision {now:?}, not {replaces}"))
        } else {
            self.validity.over().cancel();
            Error::fenced(format!("{what}: another coordinator leads"))
        };
        let Some(last) = unknown else { return Err(Failed::Refused(refusal)) };
        match self.landed(write, record.as_ref()).await {
            Some(Some(at)) => Ok(at),
            Some(None) => Err(Failed::Refused(refusal)),
            None => Err(maybe(write, last)),
        }
    }

    /// Whether an earlier try was carried out, and at which revision; none when that cannot be told any more.
    async fn landed(&self, write: &Write<'_>, now: Option<&KeyValue>) -> Option<Option<u64>> {
        let Some(value) = write.value else {
            // Written since, it was not deleted; gone, it was; made anew, nobody knows by whom it was deleted.
            return match now {
                None => Some(Some(0)),
                Some(kv) if revision(kv.create_revision()) <= write.replaces => Some(None),
                Some(_) => None,
            };
        };
        let mut at = now?.clone();
        for _ in 0..HISTORY {
            let written = revision(at.mod_revision());
            if written <= write.replaces {
                return Some(None);
            }
            if at.value() == &value[..] {
                return Some(Some(written));
            }
            if at.version() == 1 {
                return if write.replaces == 0 { Some(None) } else { None };
            }
            at = self.before(write, &at).await?;
        }
        None
    }

    /// The record as it was before it was written so.
    async fn before(&self, write: &Write<'_>, at: &KeyValue) -> Option<KeyValue> {
        let options = &GetOptions::new().with_revision(at.mod_revision() - 1);
        let name = &write.name;
        let asked = self.reader.client().call(&write.what, |etcd| async move {
            client::kv(&etcd).get(name.as_str(), Some(options.clone())).await
        });
        asked.await.ok()?.take_kvs().into_iter().next()
    }
}

fn maybe(write: &Write<'_>, last: Error) -> Failed {
    let hint = last.hint().unwrap_or_default().to_owned();
    let error = Error::unavailable(format!("{}: it may have been carried out", write.what));
    Failed::Unknown(error.with_source(last).with_hint(hint))
}

#[async_trait]
impl Reader for EtcdState {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.reader.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.reader.list(prefix).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.reader.follow(prefix)
    }
}

#[async_trait]
impl State for EtcdState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.write("write", key, Some(&value), expect).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.write("delete", key, None, expect).await.map(drop)
    }
}
