//! What checks have found damaged, as far as the ledger has been told: nothing new may be built on it.
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::pack_set::{PackSet, wire as pack_wire};
use super::state::BackupRecord;
use crate::error::{Error, Result};
use crate::manifest::ManifestRef;
use crate::pack::PackId;
use crate::storage::check_key;

/// The most manifests in one record.
const MANIFESTS_MAX: usize = 10_000;

/// Packs, and manifests by their names without the part: `t/<transaction>/m/<node>-<writer>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub packs: PackSet,
    pub manifests: BTreeSet<String>,
}

impl Objects {
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.manifests.is_empty()
    }

    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let w = wire::Objects::decode(bytes)
            .map_err(|e| Error::corrupt("a list of damaged objects does not decode").with_source(e))?;
        Self::from_wire(w)
    }

    pub fn extend(&mut self, other: &Self) {
        self.packs.extend(&other.packs);
        self.manifests.extend(other.manifests.iter().cloned());
    }

    pub(super) fn to_wire(&self) -> wire::Objects {
        wire::Objects {
            packs: Some(self.packs.to_wire()),
            manifests: self.manifests.iter().cloned().collect(),
        }
    }

    pub(super) fn from_wire(w: wire::Objects) -> Result<Self> {
        if w.manifests.len() > MANIFESTS_MAX {
            return Err(Error::corrupt(format!("{} manifests in one DAMAGE", w.manifests.len())));
        }
        w.manifests.iter().try_for_each(|name| check_key(name))?;
        Ok(Self {
            packs: PackSet::from_wire(&w.packs.unwrap_or_default())?,
            manifests: w.manifests.into_iter().collect(),
        })
    }
}

/// The name of a manifest without the part.
pub(crate) fn manifest_stem(manifest: &ManifestRef) -> String {
    let (transaction, node, writer) = (manifest.transaction, &manifest.node, manifest.writer);
    format!("t/{transaction}/m/{node}-{writer}")
}

/// Damaged as of now, by the number of the DAMAGE that said so first.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    packs: BTreeMap<u64, PackSet>,
    manifests: BTreeMap<String, u64>,
}

impl Known {
    pub(super) fn apply(&mut self, number: u64, found: &Objects, whole: &Objects) {
        self.gone(&whole.packs);
        self.manifests.retain(|name, _| !whole.manifests.contains(name));
        let new = found.packs.difference(&self.packs());
        if !new.is_empty() {
            self.packs.insert(number, new);
        }
        for name in &found.manifests {
            self.manifests.entry(name.clone()).or_insert(number);
        }
    }

    /// These packs are no part of the repository any more, or whole again.
    pub(super) fn gone(&mut self, packs: &PackSet) {
        for damaged in self.packs.values_mut() {
            damaged.remove(packs);
        }
        self.packs.retain(|_, packs| !packs.is_empty());
    }

    pub(super) fn packs(&self) -> PackSet {
        let mut all = PackSet::new();
        self.packs.values().for_each(|packs| all.extend(packs));
        all
    }

    pub(super) fn manifests(&self) -> BTreeSet<String> {
        self.manifests.keys().cloned().collect()
    }

    pub(super) fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.values().any(|packs| packs.contains(pack))
    }

    pub(super) fn has_manifest(&self, manifest: &ManifestRef) -> bool {
        !self.manifests.is_empty() && self.manifests.contains_key(&manifest_stem(manifest))
    }

    pub(super) fn spoils(&self, backup: &BackupRecord) -> bool {
        self.packs.values().any(|packs| packs.intersects(&backup.packs))
            || backup.nodes.iter().any(|node| self.has_manifest(&node.manifest))
    }

    pub(super) fn to_wire(&self) -> wire::Known {
        let packs = self.packs.iter();
        let manifests = self.manifests.iter();
        wire::Known {
            packs: packs
                .map(|(since, packs)| wire::Packs { since: *since, packs: Some(packs.to_wire()) })
                .collect(),
            manifests: manifests
                .map(|(name, since)| wire::Manifest { since: *since, name: name.clone() })
                .collect(),
        }
    }

    pub(super) fn from_wire(w: wire::Known) -> Result<Self> {
        let mut known = Self::default();
        for each in w.packs {
            known.packs.insert(each.since, PackSet::from_wire(&each.packs.unwrap_or_default())?);
        }
        for each in w.manifests {
            check_key(&each.name)?;
            known.manifests.insert(each.name, each.since);
        }
        Ok(known)
    }

    /// Of `packs`, those that a transaction that began with that number could know of.
    pub(super) fn packs_before(&self, number: u64, packs: &PackSet) -> PackSet {
        let mut before = PackSet::new();
        self.packs.range(..number).for_each(|(_, damaged)| before.extend(&damaged.intersection(packs)));
        before
    }

    pub(super) fn manifest_before(&self, number: u64, manifest: &ManifestRef) -> bool {
        self.manifests.get(&manifest_stem(manifest)).is_some_and(|since| *since < number)
    }
}

pub(super) mod wire {
    use super::pack_wire::PackSet;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Objects {
        #[prost(message, optional, tag = "1")]
        pub(in crate::ledger) packs: Option<PackSet>,
        #[prost(string, repeated, tag = "2")]
        pub(in crate::ledger) manifests: Vec<String>,
    }

    /// All that a checkpoint keeps; `since` is the number of the DAMAGE that said so first.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Known {
        #[prost(message, repeated, tag = "1")]
        pub(in crate::ledger) packs: Vec<Packs>,
        #[prost(message, repeated, tag = "2")]
        pub(in crate::ledger) manifests: Vec<Manifest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Packs {
        #[prost(uint64, tag = "1")]
        pub(in crate::ledger) since: u64,
        #[prost(message, optional, tag = "2")]
        pub(in crate::ledger) packs: Option<PackSet>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Manifest {
        #[prost(uint64, tag = "1")]
        pub(in crate::ledger) since: u64,
        #[prost(string, tag = "2")]
        pub(in crate::ledger) name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Damage {
        #[prost(message, optional, tag = "1")]
        pub(in crate::ledger) found: Option<Objects>,
        #[prost(message, optional, tag = "2")]
        pub(in crate::ledger) whole: Option<Objects>,
    }
}
