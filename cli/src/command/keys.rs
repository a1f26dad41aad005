use std::path::PathBuf;

use palinurus_repository::{Error, KeyFile, KeyId, Repository, Result, SystemEntropy};
use serde::Serialize;

use crate::command::repository::KnownPlace;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::given::{GivenKey, read_file};
use crate::human;
use crate::output::{Output, table};

mod epoch;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes an operator key. Keep a copy away from what it protects: without it the backups are lost.
    Generate {
        /// Made new, readable by its owner only; never overwritten.
        file: PathBuf,
    },
    /// Lists the keys that open a repository, and which of those given does.
    List {
        #[command(flatten)]
        place: KnownPlace,
    },
    /// Lets one more key open a repository.
    Add {
        #[command(flatten)]
        place: KnownPlace,
        /// The key to add: a file made by `keys generate`.
        #[arg(long, value_name = "FILE")]
        new: PathBuf,
        /// Whose it is, or where it is kept, for `keys list`.
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// Takes a key away: it opens the repository no longer. Open with another one.
    Remove {
        #[command(flatten)]
        place: KnownPlace,
        /// The key's id as `keys list` shows it, or a unique prefix.
        key: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Puts a new key in the place of the one given. Rewrites no data; after a failure, do it again.
    ///
    /// With --new-epoch a fresh master is drawn: who had a key that is dropped, or an old copy of what lies in the
    /// repository, cannot read what is written from then on. It takes all keys that are to stay.
    Rotate {
        #[command(flatten)]
        place: KnownPlace,
        /// The new key: a file made by `keys generate`.
        #[arg(long, value_name = "FILE", required_unless_present = "new_epoch")]
        new: Option<PathBuf>,
        /// Whose it is, or where it is kept, for `keys list`.
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// Leave the old key in force: `keys remove` takes it away once everybody has the new one.
        #[arg(long, conflicts_with = "new_epoch")]
        keep_old: bool,
        /// Draw a fresh master for all that is written from now on, for the keys given and the new one.
        #[arg(long)]
        new_epoch: bool,
        /// A key to be cut off, by its id or a unique prefix; may be repeated. Every other key must be given.
        #[arg(long, value_name = "ID", requires = "new_epoch")]
        drop: Vec<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Generated {
    key: String,
    file: PathBuf,
}

#[derive(Serialize)]
struct Listed {
    repository: String,
    /// How often a fresh master was drawn.
    key_epoch: u32,
    keys: Vec<KeyView>,
}

#[derive(Serialize)]
struct KeyView {
    key: String,
    label: String,
    added: Option<String>,
    /// Of the keys given.
    opened_by: Vec<String>,
    damage: Option<String>,
}

pub(crate) async fn run(verb: Verb, output: &Output) -> Result<Outcome> {
    let entropy = SystemEntropy::new();
    match verb {
        Verb::Generate { file } => {
            let key = KeyFile::generate(&entropy)?;
            key.write(&file)?;
            let made = Generated { key: key.id.to_string(), file };
            output.data(&made, |made| format!("{}  {}", made.key, made.file.display()));
            output.note(
                "keep a copy of this file somewhere safe: without it no backup made with it can be read",
            );
            Ok(Outcome::Done)
        }
        Verb::List { place } => {
            let given = place.given.read(output).await?;
            let repository = place.open_with(&given).await?;
            tell(&repository, &given, output).await?;
            Ok(Outcome::Done)
        }
        Verb::Add { place, new, label } => {
            let mut given = place.given.read(output).await?;
            let repository = place.open_with(&given).await?;
            let new = read_file(&new, output).await?;
            repository.add_key(&new.key, &label, &entropy).await?;
            given.push(new);
            tell(&repository, &given, output).await?;
            Ok(Outcome::Done)
        }
        Verb::Remove { place, key, yes } => {
            let given = place.given.read(output).await?;
            let repository = place.open_with(&given).await?;
            let id = find(&repository, &key).await?;
            if !sure(id, yes, output)? {
                return Ok(Outcome::Declined);
            }
            repository.remove_key(id).await?;
            tell(&repository, &given, output).await?;
            Ok(Outcome::Done)
        }
        Verb::Rotate { place, new, label, new_epoch: true, drop, yes, .. } => {
            epoch::begin(place, epoch::Wanted { new, label, drop, yes }, output).await
        }
        Verb::Rotate { place, new, label, keep_old, yes, .. } => {
            let new = new.ok_or_else(|| Error::invalid("no new key is named").with_hint("--new FILE"))?;
            let mut given = place.given.read(output).await?;
            let [old] = given.as_slice() else {
                return Err(Error::invalid(format!("{} keys are given, and one is replaced", given.len()))
                    .with_hint("give the old key alone, or use `keys add` and `keys remove`"));
            };
            let old = old.key.id;
            // Also with the new one: a rotation that died when it had removed the old key is gone on with.
            given.push(read_file(&new, output).await?);
            let repository = place.open_with(&given).await?;
            if !keep_old && !sure(old, yes, output)? {
                return Ok(Outcome::Declined);
            }
            if repository.opened_by() == old {
                repository.rotate_key(&given[1].key, &label, keep_old, &entropy).await?;
            } else if !keep_old && repository.key_ids().await?.contains(&old) {
                repository.remove_key(old).await?;
            } else {
                output.note("it was done already");
            }
            tell(&repository, &given, output).await?;
            Ok(Outcome::Done)
        }
    }
}

fn sure(removed: KeyId, yes: bool, output: &Output) -> Result<bool> {
    output.note(format!(
        "key {removed} will no longer open the repository: not for agents, coordinators and people who have no other"
    ));
    let sure = confirm(yes, "Take it away?")?;
    if !sure {
        output.note("nothing was changed");
    }
    Ok(sure)
}

async fn find(repository: &Repository, text: &str) -> Result<KeyId> {
    let ids = repository.key_ids().await?;
    let prefix = text.to_ascii_lowercase();
    let mut fits = ids.iter().filter(|id| !prefix.is_empty() && id.to_string().starts_with(&prefix));
    match (fits.next(), fits.next()) {
        (Some(id), None) => Ok(*id),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("{text:?} is the beginning of more than one key's id")))
        }
        (None, _) => Err(Error::not_found(format!("no key of this repository has an id like {text:?}"))
            .with_hint("`palinurus keys list` shows them")),
    }
}

/// The keys as they are now.
async fn tell(repository: &Repository, given: &[GivenKey], output: &Output) -> Result<()> {
    let keys: Vec<KeyFile> = given.iter().map(|given| given.key.clone()).collect();
    let wrapped = repository.wrapped_keys(&keys).await?;
    for given in given {
        if !wrapped.iter().any(|wrapped| wrapped.opens_with(&given.key)) {
            output.warn(format!("the key {} in {} does not open this repository", given.key.id, given.from));
        }
    }
    let views = wrapped.into_iter().map(|wrapped| KeyView {
        key: wrapped.id.to_string(),
        added: wrapped.label.as_ref().and_then(|label| human::rfc3339(label.added.0)),
        opened_by: (given.iter().filter(|given| wrapped.opens_with(&given.key)))
            .map(|given| given.from.clone())
            .collect(),
        damage: wrapped.damage.map(|error| error.chain()),
        label: wrapped.label.map(|label| label.text).unwrap_or_default(),
    });
    let key_epoch = repository.read(|state| state.key_epoch()).await.map_or(0, |epoch| epoch.number);
    let listed = Listed { repository: repository.id().to_string(), key_epoch, keys: views.collect() };
    output.data(&listed, show);
    Ok(())
}

fn show(listed: &Listed) -> String {
    let row = |key: &KeyView| {
        vec![
            key.key.clone(),
            key.added.clone().map_or_else(|| "-".into(), |added| added.replacen('T', " ", 1)),
            key.damage.as_ref().map_or_else(|| key.opened_by.join(" "), |damage| format!("nobody: {damage}")),
            key.label.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = listed.keys.iter().map(row).collect();
    table(&["KEY", "ADDED", "OPENED BY", "LABEL"], &[], &rows)
}
