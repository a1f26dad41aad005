//! What lies around a scratch server: its settings beside its data, and the backup within that, as for any restore.
//!
//! ```text
//! server/palinurus-restore/backup/   config.xml  users.xml  password  output.log  tmp/  files/  schemas/
//! ```
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use palinurus_repository::{Entropy, Error, Result};

use super::CHECK;
use crate::drill::Owner;
use crate::durable;
use crate::engine::ProofOrder;
use crate::engine::clickhouse::aside::Aside;
use crate::engine::clickhouse::config::Config;
use crate::engine::clickhouse::facts::{Disk, Facts};
use crate::engine::clickhouse::text::Text;

#[derive(Clone, Debug)]
pub(super) struct Scratch {
    /// Of an agent beside it.
    pub(super) config: Config,
    pub(super) aside: Aside,
    /// The server's settings.
    pub(super) file: PathBuf,
    pub(super) log: PathBuf,
}

/// Everything but the server. Blocks.
pub(super) fn lay_out(
    config: &Config,
    order: &ProofOrder,
    facts: &Facts,
    owner: Owner,
    entropy: &dyn Entropy,
) -> Result<Scratch> {
    let below = |name: &str| order.place.join(name);
    let failed = |e| Error::io(format!("lay out {}", order.place.display()), e);
    for name in ["server", "tmp", "files", "schemas", "disks"] {
        durable::create_dir(&below(name))?;
        owner.give(&below(name))?;
    }
    let aside = Aside::new(&below("server"));
    durable::create_dir(aside.path())?;
    fs::rename(&order.data, aside.backup()).map_err(failed)?;
    // Whoever takes the port first hears this password, which is nobody's.
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(failed)?;
    let password: String = entropy.array::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    durable::write(&below("password"), password.as_bytes())?;
    let scratch = Scratch {
        config: Config {
            root: below("server"),
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: port.port(),
            user: "default".into(),
            password_file: Some(below("password")),
            access_zookeeper_path: None,
            query_timeout: CHECK,
            ..config.clone()
        },
        aside,
        file: below("config.xml"),
        log: below("output.log"),
    };
    let place = order.place.to_str().filter(|place| !place.contains(['<', '&']));
    let place = place.ok_or_else(|| Error::invalid("drill.scratch has a name that no settings can hold"))?;
    let users = users(&password, order)?;
    for (name, text) in [("config.xml", settings(place, port.port(), facts)), ("users.xml", users)] {
        durable::write(&below(name), text.as_bytes())?;
        owner.give(&below(name))?;
    }
    File::create(&scratch.log).map_err(failed)?;
    Ok(scratch)
}

/// One port, on this machine alone; no ZooKeeper, no cluster, no replication. Every disk is a directory beside the first.
fn settings(place: &str, port: u16, facts: &Facts) -> String {
    let storage = storage(place, facts);
    format!(
        "<yandex><logger><level>warning</level><console>1</console></logger>\
         <listen_host>127.0.0.1</listen_host><http_port>{port}</http_port>\
         <path>{place}/server/</path><tmp_path>{place}/tmp/</tmp_path>\
         <user_files_path>{place}/files/</user_files_path>\
         <format_schema_path>{place}/schemas/</format_schema_path>\
         <users_config>{place}/users.xml</users_config><default_profile>default</default_profile>\
         <default_database>default</default_database><mark_cache_size>268435456</mark_cache_size>\
         {storage}</yandex>\n"
    )
}

/// The backup's disks and policies, as far as they have names that settings can hold: a table's TTL may name them. A table
/// of another policy lies on the first disk.
fn storage(place: &str, facts: &Facts) -> String {
    let (mut disks, mut policies) = (String::new(), String::new());
    let fits = |disk: &&Disk| disk.local || disk.objects;
    for name in facts.disks.iter().filter(fits).filter_map(|disk| element(&disk.name)) {
        if name != "default" {
            let _ = write!(disks, "<{name}><path>{place}/disks/{name}/</path></{name}>"); // a String takes everything
        }
    }
    for (name, policy) in facts.policies.iter().filter_map(|policy| Some((element(&policy.name)?, policy))) {
        let mut volumes = String::new();
        for volume in &policy.volumes {
            let known = |disk: &&Text| facts.disks.iter().filter(fits).any(|known| known.name == **disk);
            let names = volume.disks.iter().filter(known).filter_map(element);
            let names: String = names.map(|name| format!("<disk>{name}</disk>")).collect();
            if let Some(name) = element(&volume.name).filter(|_| !names.is_empty()) {
                let _ = write!(volumes, "<{name}>{names}</{name}>");
            }
        }
        // Those that begin so the server makes by itself.
        if name != "default" && !name.starts_with("__") && !volumes.is_empty() {
            let _ = write!(policies, "<{name}><volumes>{volumes}</volumes></{name}>");
        }
    }
    format!(
        "<storage_configuration><disks>{disks}</disks><policies>{policies}</policies></storage_configuration>"
    )
}

/// It becomes an element's name.
fn element(name: &Text) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = std::str::from_utf8(&name.0).ok()?;
    (name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_plain))
        .then_some(name)
}

/// `drill.settings` are those of its only user.
fn users(password: &str, order: &ProofOrder) -> Result<String> {
    let mut profile = String::new();
    for (name, value) in &order.settings.settings {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !plain || value.contains(['<', '&', '\0']) {
            return Err(Error::invalid(format!(
                "drill.settings {name:?} = {value:?} is no setting of ClickHouse's"
            )));
        }
        let _ = write!(profile, "<{name}>{value}</{name}>"); // a String takes everything
    }
    Ok(format!(
        "<yandex><profiles><default>{profile}</default></profiles><quotas><default/></quotas><users><default>\
         <password>{password}</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>\
         <quota>default</quota></default></users></yandex>\n"
    ))
}
