//! A fresh master: what is written from then on opens with the keys that stay, and with no other.
use std::path::Path;

use palinurus_repository::{KeyFile, KeyId, Repository, Result, SystemEntropy};

use super::{find, tell};
use crate::command::repository::KnownPlace;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::given::read_file;
use crate::output::Output;

pub(super) struct Wanted {
    pub(super) new: Option<std::path::PathBuf>,
    pub(super) label: String,
    pub(super) drop: Vec<String>,
    pub(super) yes: bool,
}

pub(super) async fn begin(place: KnownPlace, wanted: Wanted, output: &Output) -> Result<Outcome> {
    let entropy = SystemEntropy::new();
    let mut given = place.given.read(output).await?;
    let new = match wanted.new.as_deref() {
        Some(path) => Some(add(path, &mut given, output).await?),
        None => None,
    };
    let repository = place.open_with(&given).await?;
    let mut drop = Vec::new();
    for text in &wanted.drop {
        drop.push(dropped(&repository, text).await?);
    }
    // A key that is dropped may be what the repository was opened with.
    let mut stay: Vec<KeyFile> = Vec::new();
    for given in &given {
        let is_new = new.as_ref().is_some_and(|new| new.id == given.key.id);
        if !is_new && !drop.contains(&given.key.id) && stay.iter().all(|key| key.id != given.key.id) {
            stay.push(given.key.clone());
        }
    }
    for id in &drop {
        output
            .note(format!("key {id} will open nothing here any more, and never what is written from now on"));
    }
    if !confirm(wanted.yes, "Draw a fresh master?")? {
        output.note("nothing was changed");
        return Ok(Outcome::Declined);
    }
    let new = new.as_ref().map(|key| (key, wanted.label.as_str()));
    let begun = repository.begin_key_epoch(&stay, new, &drop, &entropy).await?;
    let number = begun.epoch.number;
    output.note(match begun.fresh {
        true => format!("key epoch {number} has begun"),
        false => format!("key epoch {number} had begun already without what is dropped"),
    });
    for id in begun.open {
        output.warn(format!(
            "backup {id} began before and ends under the master before: cancel and start it again if it must not"
        ));
    }
    for id in begun.left_out {
        output.warn(format!("key {id} was added at the same moment and is left out: `keys add` it again"));
    }
    given.retain(|given| !drop.contains(&given.key.id));
    tell(&repository, &given, output).await?;
    Ok(Outcome::Done)
}

async fn add(path: &Path, given: &mut Vec<crate::given::GivenKey>, output: &Output) -> Result<KeyFile> {
    let new = read_file(path, output).await?;
    let key = new.key.clone();
    given.push(new);
    Ok(key)
}

/// A whole id may be of a key that went when this was tried before.
async fn dropped(repository: &Repository, text: &str) -> Result<KeyId> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => find(repository, text).await,
    }
}
