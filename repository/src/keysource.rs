//! Where an operator key comes from: a file, or a command that prints one, such as a vault's client.
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::keyfile::KeyFile;

mod command;

/// In settings: a string is a file, `{ command = ["program", "argument"], timeout = "10s" }` a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    Command(KeyCommand),
}

/// A program whose output is a key file's text. Run without a shell, and given nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCommand {
    pub command: Vec<String>,
    #[serde(default = "time_limit", with = "human")]
    pub timeout: Duration,
}

fn time_limit() -> Duration {
    KeyCommand::TIMEOUT
}

impl KeyCommand {
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

impl KeySource {
    pub fn command(argv: Vec<String>, timeout: Duration) -> Self {
        Self::Command(KeyCommand { command: argv, timeout })
    }

    /// What no key can come from, whatever lies there.
    pub fn check(&self) -> Result<()> {
        let wrong = match self {
            Self::File(path) if path.as_os_str().is_empty() => "a key file without a name",
            Self::Command(KeyCommand { command, .. }) if command.first().is_none_or(String::is_empty) => {
                "a key command without a program"
            }
            Self::Command(KeyCommand { timeout, .. }) if timeout.is_zero() => {
                "a key command whose time-out is zero"
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(wrong).with_hint(
            "keys = [\"/etc/palinurus/operator.key\", { command = [\"/usr/bin/vault-read\", \"palinurus\"], timeout = \"10s\" }]",
        ))
    }

    /// The key, and what is wrong with the place it lies in.
    pub async fn read(&self) -> Result<(KeyFile, Option<String>)> {
        match self {
            Self::File(path) => KeyFile::read(path),
            Self::Command(from) => {
                let mut text = command::run(&from.command, from.timeout).await?;
                KeyFile::from_text(&format!("what {self} printed"), &mut text).map(|key| (key, None))
            }
        }
    }
}

/// Without a command's arguments: they belong to another program, whose secrets we do not know.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Command(from) => {
                write!(f, "the command {}", from.command.first().map_or("", String::as_str))
            }
        }
    }
}

impl<P: Into<PathBuf>> From<P> for KeySource {
    fn from(path: P) -> Self {
        Self::File(path.into())
    }
}

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => path.serialize(to),
            Self::Command(command) => command.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for KeySource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = KeySource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key file's path, or { command = [\"program\"], timeout = \"10s\" }")
            }

            fn visit_str<E>(self, path: &str) -> Result<KeySource, E> {
                Ok(KeySource::from(path))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySource, A::Error> {
                KeyCommand::deserialize(MapAccessDeserializer::new(map)).map(KeySource::Command)
            }
        }

        from.deserialize_any(Either)
    }
}

mod human {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text)
            .map_err(|e| serde::de::Error::custom(format!("{text:?} is no duration: {e}")))
    }
}

#[cfg(test)]
mod tests;
