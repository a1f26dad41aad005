//! What the `[engine]` tables have in common.
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use palinurus_repository::{Error, Result};
use serde::de::DeserializeOwned;

/// `engine` names the page that has every key.
pub(super) fn read<T: DeserializeOwned>(table: toml::Table, engine: &str) -> Result<T> {
    table.try_into().map_err(|e: toml::de::Error| {
        Error::invalid(format!("engine: {}", e.to_string().trim_end()))
            .with_hint(format!("see docs/engines/{engine}.md for every key"))
    })
}

pub(super) fn absolute<'a>(paths: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>) -> Result<()> {
    let relative = |path: &Option<&Path>| path.is_some_and(|path| !path.is_absolute());
    match paths.into_iter().find(|(_, path)| relative(path)) {
        Some((name, path)) => Err(Error::invalid(format!(
            "engine.{name} {:?} is not an absolute path",
            path.unwrap_or(Path::new(""))
        ))),
        None => Ok(()),
    }
}

/// Names are not looked up: what they lead to may change.
pub(super) fn loopback(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback),
    }
}
