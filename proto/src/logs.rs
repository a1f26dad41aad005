//! Lineages, grants and chains, on the wire.
use palinurus_repository::log::{Grant, Lineage, Section};
use palinurus_repository::{Draw, Error, KeyEpoch, LineageId, Result};

use crate::v1;

/// An agent is told at most so many lineages, and of each so many grants.
const LINEAGES_MAX: usize = 1000;
const GRANTS_MAX: usize = 100_000;

pub fn lineage_to_wire(lineage: &Lineage) -> v1::LogLineage {
    let key_epoch = |epoch: KeyEpoch| v1::KeyEpoch {
        number: epoch.number,
        draw: epoch.draw.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let grants = lineage.grants.iter().map(|grant| v1::LogWriter {
        epoch: grant.epoch,
        node: grant.node.clone(),
        from: grant.from,
        key_epoch: grant.key_epoch.map(key_epoch),
    });
    v1::LogLineage {
        id: lineage.id.as_bytes().to_vec().into(),
        parent: lineage.parent.map(|parent| parent.as_bytes().to_vec()).unwrap_or_default().into(),
        from: lineage.from,
        kind: lineage.kind.clone(),
        identity: lineage.identity.clone().into(),
        segment: lineage.segment,
        grants: grants.collect(),
        floor: lineage.floor,
        to: 0,
    }
}

pub fn lineage(wire: &v1::LogLineage) -> Result<Lineage> {
    if wire.grants.len() > GRANTS_MAX {
        return Err(Error::invalid(format!("a lineage with {} grants", wire.grants.len())));
    }
    let grant = |wire: &v1::LogWriter| {
        let key_epoch = wire.key_epoch.as_ref().map(|epoch| {
            Ok::<_, Error>(KeyEpoch { number: epoch.number, draw: Draw::from_slice(&epoch.draw)? })
        });
        Ok(Grant {
            epoch: wire.epoch,
            node: wire.node.clone(),
            from: wire.from,
            key_epoch: key_epoch.transpose()?,
        })
    };
    let parent = Some(&wire.parent).filter(|parent| !parent.is_empty());
    let lineage = Lineage {
        id: LineageId::from_slice(&wire.id)?,
        parent: parent.map(|parent| LineageId::from_slice(parent)).transpose()?,
        from: wire.from,
        kind: wire.kind.clone(),
        identity: wire.identity.to_vec(),
        segment: wire.segment,
        grants: wire.grants.iter().map(grant).collect::<Result<_>>()?,
        floor: wire.floor,
        number: 0,
    };
    lineage.check()?;
    Ok(lineage)
}

pub fn chain_to_wire(chain: &[Section]) -> Vec<v1::LogLineage> {
    let section = |section: &Section| v1::LogLineage {
        to: section.to.unwrap_or_default(),
        ..lineage_to_wire(&section.lineage)
    };
    chain.iter().map(section).collect()
}

pub fn section(wire: &v1::LogLineage) -> Result<Section> {
    Ok(Section { lineage: lineage(wire)?, to: Some(wire.to).filter(|to| *to > 0) })
}

/// Ancestors first, and each follows from the one before.
pub fn chain(wire: &[v1::LogLineage]) -> Result<Vec<Section>> {
    if wire.len() > LINEAGES_MAX {
        return Err(Error::invalid(format!("a chain of {} lineages", wire.len())));
    }
    let chain = wire.iter().map(section).collect::<Result<Vec<_>>>()?;
    Section::check_chain(&chain)?;
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_nothing_else() {
        let grant = |epoch, from, key_epoch| Grant { epoch, node: "n1".into(), from, key_epoch };
        let parent = Lineage {
            id: LineageId([1; 16]),
            parent: None,
            from: 16,
            kind: "postgresql".into(),
            identity: vec![1, 2],
            segment: 16,
            grants: vec![grant(1, 16, None), grant(3, 32, Some(KeyEpoch { number: 1, draw: Draw([5; 8]) }))],
            floor: 20,
            number: 0,
        };
        let child = Lineage {
            id: LineageId([2; 16]),
            parent: Some(parent.id),
            from: 40,
            grants: Vec::new(),
            ..parent.clone()
        };
        let sections = vec![Section { lineage: parent, to: Some(40) }, Section { lineage: child, to: None }];
        let wire = chain_to_wire(&sections);
        assert_eq!(chain(&wire).ok(), Some(sections));
        let bad = |change: fn(&mut Vec<v1::LogLineage>)| {
            let mut wire = wire.clone();
            change(&mut wire);
            chain(&wire).is_err()
        };
        assert!(bad(Vec::clear) && bad(|all| all.swap(0, 1)) && bad(|all| all[0].to = 41));
        assert!(bad(|all| all[0].id = vec![1; 15].into()) && bad(|all| all[0].grants[0].epoch = 3));
        assert!(bad(|all| all[0].segment = 0) && bad(|all| all[0].identity = vec![0; 257].into()));
        assert!(bad(|all| all[0].grants[0].node = "../etc".into()) && bad(|all| all[0].kind.clear()));
    }
}
