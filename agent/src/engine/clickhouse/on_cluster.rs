//! Statements `ON CLUSTER`: ZooKeeper has a queue of them, and each node runs those that name it, when it comes to it.
//!
//! ```text
//! <queue>/query-0000000007   query: .. , hosts: ['10%2E0%2E0%2E1:9000', ..]
//! <queue>/query-0000000007/finished/10%2E0%2E0%2E1:9000
//! ```
//! A node that shall run what another one has run already is behind it: their backups would be of two schemas.
use std::collections::HashSet;
use std::time::Duration;

use palinurus_repository::Result;
use tokio::time::Instant;

use super::client::{Answer, Client, Fault};
use super::config::Config;
use super::server::string;
use super::text::Text;

/// How long a statement that other nodes have run may take here before a freeze is made all the same.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(200);
/// Nodes run them in their order: behind so many that this one has run there is none that it has not.
const RUN: usize = 8;

/// Waits a while for such statements. Whoever looks again when all nodes have frozen sees what is left.
pub(super) async fn settle(client: &Client, config: &Config) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && behind(client, config).await?.is_some() {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The newest statement that other nodes have run, and this one shall and has not.
pub(super) async fn behind(client: &Client, config: &Config) -> Result<Option<String>> {
    match find(client, config).await {
        // No ZooKeeper, or no such queue in it: nothing was ever run so.
        Err(Fault::Refused(code, why)) => {
            tracing::debug!(code, why, "statements ON CLUSTER are not looked at");
            Ok(None)
        }
        found => Ok(found?),
    }
}

async fn find(client: &Client, config: &Config) -> Answer<Option<String>> {
    let sql = "SELECT DISTINCT host_name, toString(port) FROM system.clusters WHERE is_local";
    let own: HashSet<String> = client
        .rows(sql, 2)
        .await?
        .iter()
        // Old versions take each address of this machine for their own, whatever its port.
        .filter(|row| config.tcp_port.is_none_or(|port| string(&row[1]) == port.to_string()))
        .map(|row| format!("{}:{}", row[0].file_name(), string(&row[1])))
        .collect();
    if own.is_empty() {
        return Ok(None);
    }
    let queue = config.ddl_zookeeper_path.trim_end_matches('/');
    let sql = [
        b"SELECT name, value FROM system.zookeeper WHERE path = ".as_slice(),
        &Text::from(queue).literal(),
        b" AND name LIKE 'query-%' ORDER BY name DESC",
    ];
    let mut run = 0;
    for entry in client.rows(sql.concat(), 2).await? {
        let (name, hosts) = (string(&entry[0]), hosts(&string(&entry[1])));
        if !hosts.iter().any(|host| own.contains(host)) {
            continue;
        }
        let path = format!("{queue}/{name}/finished");
        let sql =
            [b"SELECT name FROM system.zookeeper WHERE path = ".as_slice(), &Text::from(&*path).literal()];
        let finished: Vec<String> =
            client.rows(sql.concat(), 1).await?.iter().flatten().map(string).collect();
        match finished.iter().any(|host| own.contains(host)) {
            true => run += 1,
            false if finished.is_empty() => {}
            false => return Ok(Some(name)),
        }
        if run == RUN {
            break;
        }
    }
    Ok(None)
}

/// Who shall run it.
fn hosts(entry: &str) -> HashSet<String> {
    let list = entry.lines().find_map(|line| line.strip_prefix("hosts: [")).unwrap_or_default();
    let list = list.trim_end().trim_end_matches(']');
    list.split(',').map(|host| host.trim().trim_matches('\'').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shall_run_a_statement_is_in_its_entry() {
        let entry = "version: 1\nquery: DROP TABLE `hosts: [` ON CLUSTER c\\nhosts: [\\'x\\']\n\
                     hosts: ['10%2E0%2E0%2E1:9000','b%2Dc:9440']\ninitiator: a:9000\n";
        let want = ["10%2E0%2E0%2E1:9000", "b%2Dc:9440"].map(str::to_owned);
        assert_eq!(hosts(entry), want.into());
        assert!(!hosts("version: 1\n").contains("a:9000"));
    }
}
