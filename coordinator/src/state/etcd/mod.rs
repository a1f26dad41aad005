//! The state in etcd, for several coordinators. A lease-bound key says who leads; its create revision is the epoch, and
//! every write holds only while that key is there.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use palinurus_repository::{Blocking, Clock, Entropy, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::client::Client;
use self::follow::{Follow, Range};
use self::reader::EtcdReader;
use super::{Change, Election, Leader, Lease, Reader, Record};
use crate::config::EtcdConfig;

mod campaign;
mod client;
mod error;
mod follow;
mod lease;
mod reader;
mod state;

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;

/// What the leader key holds.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    name: String,
    address: String,
    /// Which process: two may have one name by mistake.
    instance: String,
}

pub(crate) struct EtcdElection {
    client: Arc<Client>,
    prefix: String,
    cluster: String,
    lease: Duration,
    name: String,
    instance: String,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    leader: watch::Receiver<Option<Leader>>,
    _following: AbortOnDropHandle<()>,
}

impl fmt::Debug for EtcdElection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdElection({} at {:?})", self.prefix, self.client)
    }
}

impl EtcdElection {
    /// Refuses what cannot work: settings, credentials, another cluster's prefix. An etcd that does not answer is
    /// waited for later, by whoever campaigns.
    pub(crate) async fn open(
        config: &EtcdConfig,
        name: &str,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let settings = config.clone();
        let client = Blocking::Threads.run(move || Client::new(&settings)).await?;
        let client = Arc::new(client);
        let instance = entropy.array::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let (sender, leader) = watch::channel(None);
        let range = Range::one(&format!("{}leader", config.prefix));
        let following = follow_leader(Follow::new(client.clone(), range), sender, config.lease);
        let election = Self {
            client,
            prefix: config.prefix.clone(),
            cluster: config.cluster.clone(),
            lease: config.lease,
            name: name.to_owned(),
            instance,
            clock,
            entropy,
            leader,
            _following: AbortOnDropHandle::new(tokio::spawn(following)),
        };
        match election.look_at_cluster().await {
            Err(e) if e.kind() != ErrorKind::Unavailable => Err(e),
            _ => Ok(election),
        }
    }

    fn leader_key(&self) -> String {
        format!("{}leader", self.prefix)
    }

    fn cluster_key(&self) -> String {
        format!("{}cluster", self.prefix)
    }

    async fn look_at_cluster(&self) -> Result<()> {
        let found = reader::get(&self.client, "read the cluster's name", &self.cluster_key()).await?;
        found.map_or(Ok(()), |kv| self.check_cluster(kv.value()))
    }

    /// The prefix is this cluster's from now on, if it was nobody's.
    async fn claim_cluster(&self) -> Result<()> {
        let key = &*self.cluster_key();
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        let name = TxnOp::put(key, self.cluster.as_str(), None);
        let claim = &Txn::new().when([absent]).and_then([name]).or_else([TxnOp::get(key, None)]);
        let asked = self.client.call("write the cluster's name", |etcd| async move {
            client::kv(&etcd).txn(claim.clone()).await
        });
        match asked.await?.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(found)) => {
                found.kvs().first().map_or(Ok(()), |kv| self.check_cluster(kv.value()))
            }
            _ => Ok(()),
        }
    }

    fn check_cluster(&self, found: &[u8]) -> Result<()> {
        if found == self.cluster.as_bytes() {
            return Ok(());
        }
        let (found, ours, prefix) = (String::from_utf8_lossy(found), &self.cluster, &self.prefix);
        Err(Error::conflict(format!(
            "in etcd, {prefix} belongs to the cluster {found:?}, and this coordinator is of the cluster {ours:?}"
        ))
        .with_hint("give this cluster another `prefix` in [etcd], or mend `cluster`"))
    }
}

#[async_trait]
impl Election for EtcdElection {
    async fn campaign(&self, address: &str) -> Result<Lease> {
        campaign::until_won(self, address).await
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(EtcdReader::new(self.client.clone(), format!("{}state/", self.prefix)))
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.clone()
    }

    fn kind(&self) -> &'static str {
        "etcd"
    }
}

/// For as long as the election lives. What was known is forgotten when etcd has been away for longer than a lease.
async fn follow_leader(mut follow: Follow, leader: watch::Sender<Option<Leader>>, lease: Duration) {
    let tell = |now: Option<Leader>| {
        leader.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    };
    let mut forget_at = None;
    loop {
        let change = match forget_at {
            None => follow.next().await,
            Some(at) => match tokio::time::timeout_at(at, follow.next()).await {
                Ok(change) => change,
                Err(_) => {
                    tell(None);
                    forget_at = None;
                    continue;
                }
            },
        };
        forget_at = None;
        match change {
            Change::All(all) => tell(all.into_iter().next().and_then(|(_, record)| holder(&record))),
            Change::Put(_, record) => tell(holder(&record)),
            Change::Gone(_) => tell(None),
            Change::Away(_) => forget_at = Some(Instant::now() + lease),
        }
    }
}

/// The key is written once, so its revision is the one it was made at.
fn holder(record: &Record) -> Option<Leader> {
    let holder: Holder = serde_json::from_slice(&record.value).ok()?;
    Some(Leader {
        name: holder.name,
        address: holder.address,
        epoch: palinurus_repository::Epoch(record.revision),
    })
}
