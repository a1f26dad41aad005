//! One step by one of them, and a look at what came of it.
use std::fs::File;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio::time::Instant;

use super::fleet::Fleet;
use super::peer::Peer;
use super::report::Cost;
use super::scenario::Scenario;
use super::{data, make_dir, meter, remove_dir};

pub(super) async fn ours(
    fleet: &mut Fleet<'_>,
    scenario: Scenario,
    data: &Path,
    home: &Path,
    bytes: u64,
) -> Result<(Cost, u64)> {
    match scenario {
        Scenario::Restore => {
            let cost = fleet.restore().await?;
            let target = home.join("restored");
            all_there(&target, bytes)?;
            Ok((cost, 0))
        }
        Scenario::RestoreOne => {
            let (file, target) = (data::one_of(data)?, home.join("one"));
            let cost = fleet.restore_one(&file, &target).await?;
            all_there(&target, length(&data.join(&file))?)?;
            remove_dir(&target)?;
            Ok((cost, 0))
        }
        _ => {
            let (operation, cost) = fleet.backup().await?;
            let files = operation.progress.unwrap_or_default().files_total;
            Ok((Cost { stored: Some(fleet.stored().await?), ..cost }, files))
        }
    }
}

pub(super) async fn by_peer(
    peer: &mut Peer,
    scenario: Scenario,
    data: &Path,
    home: &Path,
    bytes: u64,
) -> Result<Cost> {
    let one = if scenario == Scenario::RestoreOne { Some(data::one_of(data)?) } else { None };
    if !matches!(scenario, Scenario::Restore | Scenario::RestoreOne) {
        let cost = peer.backup(data).await?;
        return Ok(Cost { stored: Some(peer.stored()?), ..cost });
    }
    let target = home.join(format!("restored-{}", peer.tool.name()));
    make_dir(&target)?;
    let restored = peer.restore(data, one.as_deref(), &target).await;
    let restored = restored.and_then(|cost| on_the_disk(cost, &target));
    let expected = match &one {
        Some(one) => length(&data.join(one))?,
        None => bytes,
    };
    let checked = restored.and_then(|cost| all_there(&target, expected).map(|()| cost));
    remove_dir(&target)?;
    checked
}

pub(super) async fn one_after_the_other(peer: &mut Peer, places: &[PathBuf]) -> Result<Cost> {
    let mut sum = Cost::default();
    for place in places {
        let cost = peer.backup(place).await?;
        sum.seconds += cost.seconds;
        sum.cpu += cost.cpu;
        sum.uploaded = Some(sum.uploaded.unwrap_or(0) + cost.uploaded.unwrap_or(0));
        sum.memory = sum.memory.max(cost.memory);
    }
    sum.stored = Some(peer.stored()?);
    Ok(sum)
}

/// Ours ends when all is on the disk; others end sooner, and what they leave to the kernel is waited for.
fn on_the_disk(cost: Cost, target: &Path) -> Result<Cost> {
    let began = Instant::now();
    let target = File::open(target).map_err(|e| Error::io("open what was restored", e))?;
    rustix::fs::syncfs(&target).map_err(|e| Error::io("sync what was restored", e.into()))?;
    let disk = began.elapsed().as_secs_f64();
    Ok(Cost { seconds: cost.seconds + disk, disk: Some(disk), ..cost })
}

/// A restore that left something out was none.
fn all_there(target: &Path, bytes: u64) -> Result<()> {
    match meter::bytes_below(target)? {
        found if found == bytes => Ok(()),
        found => Err(Error::corrupt(format!("{found} of {bytes} bytes came back"))),
    }
}

fn length(file: &Path) -> Result<u64> {
    let meta = file.metadata().map_err(|e| Error::io(format!("look at {}", file.display()), e))?;
    Ok(meta.len())
}
