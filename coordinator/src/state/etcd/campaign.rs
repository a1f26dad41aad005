//! Standing for election: one transaction makes the leader key when nobody has it.
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use palinurus_repository::{Epoch, Error, Result};
use tokio::time::Instant;

use super::error::Failed;
use super::lease::{Keeper, Moment, Validity, revoke};
use super::reader::{self, EtcdReader, revision};
use super::state::EtcdState;
use super::{EtcdElection, Holder, client};
use crate::state::Lease;

/// After a try that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The same complaint is not made again sooner.
const SAID_FOR: Duration = Duration::from_secs(60);

pub(super) async fn until_won(election: &EtcdElection, address: &str) -> Result<Lease> {
    let mut complaint = Complaint::default();
    loop {
        match stand(election, address).await {
            Ok(Some(lease)) => return Ok(lease),
            Ok(None) => complaint.mended(),
            Err(e) => {
                complaint.make(&e);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// None when another leads, or has led until just now.
async fn stand(election: &EtcdElection, address: &str) -> Result<Option<Lease>> {
    election.claim_cluster().await?;
    let mut leader = election.leader.clone();
    leader.borrow_and_update();
    let held = reader::get(&election.client, "look who leads", &election.leader_key()).await?;
    let Some(held) = held else { return win(election, address).await };
    // Followed, not asked for over and over; asked again now and then, should what is followed be a frozen member.
    let epoch = Epoch(revision(held.create_revision()));
    let ended = async {
        while leader.changed().await.is_ok() {
            if leader.borrow_and_update().as_ref().is_none_or(|leader| leader.epoch > epoch) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(election.lease / 5, ended).await;
    Ok(None)
}

async fn win(election: &EtcdElection, address: &str) -> Result<Option<Lease>> {
    let client = &election.client;
    let from = Moment::now(&*election.clock);
    let lease = grant(election).await?;
    let won = match take_key(election, lease, address).await {
        Ok(won) => won,
        Err(e) => {
            revoke(client, lease).await;
            return Err(e.into());
        }
    };
    let validity = Arc::new(Validity::new(election.clock.clone(), from, election.lease));
    let (Some(epoch), Ok(())) = (won, validity.check()) else {
        revoke(client, lease).await;
        return Ok(None);
    };
    let reader = EtcdReader::new(client.clone(), format!("{}state/", election.prefix));
    let state = EtcdState::new(reader, election.leader_key(), epoch, validity.clone());
    let over = validity.over().clone();
    let keeper = Keeper::start(client.clone(), lease, epoch, validity, election.leader.clone());
    Ok(Some(Lease { state: Arc::new(state), over, resign: Box::new(keeper) }))
}

/// Its number is ours to choose, so that a lost answer does not leave a second lease behind.
async fn grant(election: &EtcdElection) -> Result<i64, Error> {
    let chosen = i64::from_le_bytes(election.entropy.array()?) & i64::MAX | 1;
    let seconds = i64::try_from(election.lease.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
    let granted = election.client.call("take a lease", |etcd| async move {
        let options = LeaseGrantOptions::new().with_id(chosen);
        match etcd.lease_client().grant(seconds, Some(options)).await {
            // By an earlier try of this very call.
            Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("already exists") => {
                Ok(())
            }
            granted => granted.map(drop),
        }
    });
    granted.await?;
    Ok(chosen)
}

/// The epoch, if the key is now ours: also when it was an earlier try that made it so.
async fn take_key(election: &EtcdElection, lease: i64, address: &str) -> Result<Option<Epoch>, Failed> {
    let key = &*election.leader_key();
    let holder = Holder {
        name: election.name.clone(),
        address: address.to_owned(),
        instance: election.instance.clone(),
    };
    let value = serde_json::to_vec(&holder)
        .map_err(|e| Failed::Refused(Error::internal("write who leads").with_source(e)))?;
    let absent = Compare::create_revision(key, CompareOp::Equal, 0);
    let take = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
    let transaction = &Txn::new().when([absent]).and_then([take]).or_else([TxnOp::get(key, None)]);
    let asked = election
        .client
        .call("take the leader key", |etcd| async move { client::kv(&etcd).txn(transaction.clone()).await });
    let answer = asked.await?;
    if answer.succeeded() {
        return Ok(answer.header().map(|header| Epoch(revision(header.revision()))));
    }
    let held = answer.op_responses().into_iter().find_map(|op| match op {
        TxnOpResponse::Get(mut found) => found.take_kvs().into_iter().next(),
        _ => None,
    });
    Ok(held.filter(|kv| kv.lease() == lease).map(|kv| Epoch(revision(kv.create_revision()))))
}

/// Says once what keeps a standby from campaigning, and again only after a while or when it is something else.
#[derive(Default)]
struct Complaint {
    last: Option<(String, Instant)>,
}

impl Complaint {
    fn make(&mut self, error: &Error) {
        let hint = error.hint().unwrap_or_default();
        if self.is_new(&format!("{}: {hint}", error.what()), Instant::now()) {
            tracing::warn!(error = error.chain(), hint, "cannot stand for election, trying again");
        }
    }

    fn is_new(&mut self, text: &str, now: Instant) -> bool {
        let known = self.last.as_ref().is_some_and(|(said, at)| said == text && now < *at + SAID_FOR);
        if !known {
            self.last = Some((text.to_owned(), now));
        }
        !known
    }

    fn mended(&mut self) {
        if self.last.take().is_some() {
            tracing::info!("stands for election again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_made_once_in_a_while() {
        let (mut complaint, mut now, mut said) = (Complaint::default(), Instant::now(), 0);
        for _ in 0..120 {
            said += u32::from(complaint.is_new("etcd is away", now));
            now += Duration::from_secs(1);
        }
        assert_eq!(said, 2);
        assert!(complaint.is_new("the password is wrong", now));
        complaint.mended();
        assert!(complaint.is_new("the password is wrong", now));
    }
}
