//! From which backup a lost node is rebuilt, and how far it goes on along the log: decided once nobody writes in its place.
use palinurus_proto::{to_wire, v1, v1::log_target};
use palinurus_repository::ledger::State;
use palinurus_repository::log::show;
use palinurus_repository::{BackupId, Error, ErrorKind, Result, Timestamp};

use crate::failover::time;
use crate::logs::{alone, locate};
use crate::vault::Vault;

/// Takes the place of what was known when the failover began.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) manifest: v1::NodeManifest,
    pub(crate) key_epochs: Vec<v1::KeyEpoch>,
    pub(crate) logs: v1::LogRestore,
    /// That the restored data stands for.
    pub(crate) moment: Option<Timestamp>,
    pub(crate) told: String,
}

/// None: the service has no log and the node is no replica, so the backup alone it is; or it was chosen before.
pub(super) async fn choose(failover: &v1::FailoverDetail, vault: &Vault) -> Result<Option<Chosen>> {
    let follows = &failover.follows;
    let manifest = failover.manifest.clone().unwrap_or_default();
    let has_log = vault.repository.read(|state| !state.lineages().is_empty()).await;
    // A directory that holds a part of one backup is gone on with from that one.
    if failover.logs.is_some() || !has_log && follows.is_empty() {
        return Ok(None);
    }
    let writer = if follows.is_empty() { &failover.node } else { follows };
    let latest = v1::LogTarget {
        target: Some(log_target::Target::Latest(true)),
        lineage: vault.repository.read(|state| written_by(state, writer)).await.unwrap_or_default(),
    };
    let located = match has_log {
        true => locate(vault, &latest, None).await,
        false => Err(Error::not_found("the service has no log")),
    };
    let (backup, mut logs, mut told, moment) = match located {
        Ok((backup, located)) => {
            let (logs, until) = (located.restore, located.until);
            let at = until.map(|at| format!(", as of {}", time(at)));
            let told = format!(
                "the log behind backup {backup} leads to {}{}",
                show(logs.end),
                at.unwrap_or_default()
            );
            (backup, logs, told, until)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let backup: BackupId = manifest.backup_id.parse()?;
            let logs = vault.repository.read(|state| {
                let backup = state.backup(backup)?;
                alone(state, backup.nodes.first()?)
            });
            (backup, logs.await.unwrap_or_default(), format!("backup {backup} alone: {}", e.chain()), None)
        }
        Err(e) => return Err(e),
    };
    if !follows.is_empty() {
        // It goes on behind the primary, on its history and on those that come.
        logs.known.clear();
        logs.target.get_or_insert_default().target = Some(log_target::Target::Follow(true));
        told.push_str(&format!("; from there on it follows {follows}"));
    }
    vault
        .repository
        .read(|state| {
            let record =
                state.backup(backup).ok_or_else(|| Error::not_found(format!("backup {backup} is gone")))?;
            let commit = record.nodes.first().ok_or_else(|| Error::internal("a backup of no node"))?;
            Ok(Some(Chosen {
                manifest: v1::NodeManifest {
                    node: failover.node.clone(),
                    backup_id: backup.to_string(),
                    manifest: commit.manifest.encode().into(),
                },
                key_epochs: to_wire(state.sealed(record.transactions())),
                logs,
                moment,
                told,
            }))
        })
        .await
}

/// The newest history that is that node's to write.
fn written_by(state: &State, node: &str) -> Option<String> {
    let own = state.lineages().values().filter(|it| it.last_grant().is_some_and(|last| last.node == node));
    own.max_by_key(|lineage| lineage.number).map(|lineage| lineage.id.to_string())
}
