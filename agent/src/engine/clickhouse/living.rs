//! Which files of a backup are to be fetched for one node whose peers live: all but the parts of tables that these have.
use std::path::Path;

use palinurus_repository::Result;

use super::blocking;
use super::choice::needs;
use super::client::{Answer, Client, Fault};
use super::facts::{Facts, Kept, NAME, Replica};
use super::list::{ACCESS, COLLECTIONS};
use super::replica;

/// No such node.
const KEEPER: u32 = 999;

/// `place` has the facts.
pub(super) async fn left(client: &Client, place: &Path) -> Result<Vec<String>> {
    let path = place.join(NAME);
    let mut facts = blocking(move || Facts::read(&path)).await?;
    let (mut left, mut others) = (Vec::new(), 0);
    for table in std::mem::take(&mut facts.tables) {
        let has = match &table.replica {
            Some(replica) if table.kept == Kept::Parts => has_active(client, replica).await?,
            _ => false,
        };
        if has {
            others += 1;
        } else {
            left.push(table);
        }
    }
    tracing::info!(
        tables = others,
        "their parts come from other replicas, which are active: they are not fetched"
    );
    facts.tables = left;
    let mut files = needs(&facts);
    files.extend([ACCESS, COLLECTIONS].map(str::to_owned));
    Ok(files)
}

/// Whether another replica of the table is there.
async fn has_active(client: &Client, replica: &Replica) -> Answer<bool> {
    let names = match replica::names(client, replica).await {
        // Nobody has the table.
        Err(Fault::Refused(KEEPER, _)) => return Ok(false),
        names => names?,
    };
    for name in names.iter().filter(|name| **name != replica.name) {
        if replica::is_active(client, &replica.path, name).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
