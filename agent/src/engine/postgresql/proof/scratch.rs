//! What lies around a scratch server: its settings, its socket, its tablespaces, all beside the data.
//!
//! ```text
//! data/   s/ the socket   t/<oid>/ tablespaces   postgresql.conf  pg_hba.conf  pg_ident.conf  server.log
//! ```
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::programs::Settings;
use super::{Owner, below};
use crate::durable;
use crate::engine::ProofOrder;
use crate::engine::postgresql::{recovery, restored};

/// Of the socket's name only: nothing listens elsewhere.
pub(super) const PORT: u16 = 5432;
/// What reaches out, or would change what is proved. Nobody may set these.
const FIXED: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("hot_standby", "off"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("external_pid_file", ""),
    ("restart_after_crash", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("lc_messages", "C"),
    ("autovacuum", "off"),
    ("huge_pages", "off"),
    ("wal_level", "replica"),
];
/// These may be set otherwise.
const USUAL: &[(&str, &str)] = &[("shared_buffers", "128MB"), ("jit", "off"), ("max_wal_size", "1GB")];

#[derive(Clone, Debug)]
pub(super) struct Scratch {
    pub(super) sockets: PathBuf,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
}

/// Everything but the server. Blocks.
pub(super) fn lay_out(order: &ProofOrder, owner: Owner, control: &Settings) -> Result<Scratch> {
    let place = &order.place;
    let scratch = Scratch {
        sockets: below(place, "s"),
        config: below(place, "postgresql.conf"),
        log: below(place, "server.log"),
    };
    let spaces = below(place, "t");
    for path in [&scratch.sockets, &spaces] {
        durable::create_dir(path)?;
        owner.give(path)?;
    }
    restored::place_tablespaces(&order.data, &elsewhere(&order.data, &spaces)?)?;
    // What was set by `alter system` is not for this server: a library of its, or a command.
    let auto = order.data.join("postgresql.auto.conf");
    durable::write(&auto, b"")?;
    owner.give(&auto)?;
    if let Some((plan, command)) = &order.recovery {
        recovery::prepare(&order.data, plan, command)?;
    }
    // Who can pass through a directory of mode 0700 is the server's user or root.
    let hba = below(place, "pg_hba.conf");
    let ident = below(place, "pg_ident.conf");
    let text = settings(order, control, &scratch.sockets, &hba, &ident)?;
    for (path, text) in [(&hba, "local all all trust\n"), (&ident, ""), (&scratch.config, &*text)] {
        durable::write(path, text.as_bytes())?;
        owner.give(path)?;
    }
    File::create(&scratch.log).map_err(|e| Error::io(format!("make {}", scratch.log.display()), e))?;
    Ok(scratch)
}

/// Every tablespace into the scratch, whatever the settings say of real restores.
fn elsewhere(data: &Path, spaces: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut places = BTreeMap::new();
    let Ok(names) = fs::read_dir(data.join("pg_tblspc")) else { return Ok(places) };
    for entry in names {
        let entry = entry.map_err(|e| Error::io("list the restored tablespaces", e))?;
        if let Some(oid) = entry.file_name().to_str() {
            places.insert(oid.to_owned(), spaces.join(oid));
        }
    }
    Ok(places)
}

fn settings(
    order: &ProofOrder,
    control: &Settings,
    sockets: &Path,
    hba: &Path,
    ident: &Path,
) -> Result<String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    all.extend(USUAL.iter().map(own));
    all.extend(order.settings.settings.clone());
    // A recovery needs no less than the original had.
    for (name, least) in &control.limits {
        let given = all.get(*name).and_then(|given| given.parse::<u64>().ok()).unwrap_or_default();
        all.insert((*name).to_owned(), given.max(*least).to_string());
    }
    let path = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::invalid(format!("{} is no UTF-8", path.display())))
    };
    let places = [("unix_socket_directories", sockets), ("hba_file", hba), ("ident_file", ident)];
    let mut fixed: Vec<(String, String)> = FIXED.iter().map(own).collect();
    fixed.push(("data_directory".into(), path(&order.data)?));
    fixed.push(("port".into(), PORT.to_string()));
    for (name, place) in places {
        fixed.push((name.to_owned(), path(place)?));
    }
    for (name, value) in fixed {
        if order.settings.settings.contains_key(&name) {
            return Err(Error::invalid(format!("drill.settings may not say {name}"))
                .with_hint("a scratch server reaches nobody and nobody reaches it: leave it out"));
        }
        all.insert(name, value);
    }
    let line = |(name, value): (&String, &String)| match plain(name) && !value.contains(['\n', '\r', '\0']) {
        true => Ok(format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))),
        false => Err(Error::invalid(format!("drill.settings {name:?} = {value:?} is no setting"))),
    };
    all.iter().map(line).collect()
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}

/// Closed to everybody but its owner.
pub(super) fn close(data: &Path) -> Result<()> {
    fs::set_permissions(data, Permissions::from_mode(0o700))
        .map_err(|e| Error::io(format!("close {}", data.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn nothing_opens_the_scratch_server_to_the_world() {
        let text = |drill: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let order = ProofOrder {
                data: "/p/data".into(),
                place: "/p".into(),
                settings: config::Drill { settings: drill.iter().map(own).collect(), ..Default::default() },
                recovery: None,
                guard: Vec::new(),
                began: tokio::time::Instant::now(),
            };
            let control = Settings { limits: vec![("max_connections", 250)], checksums: true };
            settings(&order, &control, Path::new("/p/s"), Path::new("/p/h"), Path::new("/p/i"))
        };
        let plain =
            text(&[("shared_buffers", "1GB"), ("max_connections", "50"), ("a.b", "it's \\")]).unwrap();
        for line in [
            "listen_addresses = ''",
            "archive_mode = 'off'",
            "max_logical_replication_workers = '0'",
            "unix_socket_directories = '/p/s'",
            "shared_buffers = '1GB'",
            "max_connections = '250'",
            "a.b = 'it''s \\\\'",
        ] {
            assert!(plain.lines().any(|each| each == line), "{line}: {plain}");
        }
        for wrong in [("listen_addresses", "*"), ("hba_file", "/x"), ("a = 1\nb", "x"), ("a", "b\nc")] {
            assert!(text(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
