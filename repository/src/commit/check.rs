//! What must be in the store before a COMMIT may say that the backup exists.
use futures::future::try_join_all;

use super::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::ledger::{NodeCommit, PackSet};
use crate::manifest::ManifestReader;
use crate::pack::PackId;
use crate::storage::list_all;

/// How many manifests are checked at once.
const PARALLEL: usize = 8;

impl Repository {
    /// What the transaction wrote is there: one LIST for each thousand packs. What it reuses, earlier commits looked for.
    pub(super) async fn check_own_packs(&self, transaction: TransactionId, packs: &PackSet) -> Result<()> {
        let (own, _) = packs.split(transaction);
        if own.is_empty() {
            return Ok(());
        }
        let objects = list_all(&*self.storage, &format!("t/{transaction}/p/")).await?;
        let there: PackSet = objects.iter().filter_map(|object| PackId::from_key(&object.key).ok()).collect();
        match own.difference(&there).iter().next() {
            None => Ok(()),
            Some(pack) => Err(Error::corrupt(format!(
                "{pack}, which transaction {transaction} wrote, is not in the store"
            ))
            .with_hint("start the backup again; if it happens again, the store loses objects")),
        }
    }

    /// Every manifest is there in full, and every pack that it names is in `packs`: one left out would be swept from
    /// under the backup.
    pub(super) async fn check_manifests(&self, nodes: &[NodeCommit], packs: &PackSet) -> Result<()> {
        for some in nodes.chunks(PARALLEL) {
            try_join_all(some.iter().map(|node| self.check_manifest(node, packs))).await?;
        }
        Ok(())
    }

    async fn check_manifest(&self, node: &NodeCommit, packs: &PackSet) -> Result<()> {
        let NodeCommit { node, manifest, .. } = node;
        let mut size = 0u64;
        for key in manifest.keys() {
            let part = self.storage.size(&key).await.map_err(|e| match e.kind() {
                ErrorKind::NotFound => {
                    Error::corrupt(format!("the manifest of node {node} is incomplete: {key} is missing"))
                        .with_source(e)
                }
                _ => e,
            })?;
            size = size.saturating_add(part);
        }
        if size != manifest.size {
            return Err(Error::corrupt(format!(
                "the manifest of node {node} has {size} bytes in the store, not {}",
                manifest.size
            )));
        }
        let footer = ManifestReader::read_footer(&*self.storage, &self.keys, manifest).await?;
        match footer.packs.difference(packs).iter().next() {
            None => Ok(()),
            Some(pack) => {
                Err(Error::invalid(format!("the manifest of node {node} names {pack}, the COMMIT does not")))
            }
        }
    }
}
