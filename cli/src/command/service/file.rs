//! A service as an operator writes it.
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFile {
    name: String,
    #[serde(rename = "type", default = "files")]
    engine: String,
    #[serde(default)]
    plan: String,
    repository: String,
    nodes: Vec<NodeFile>,
    #[serde(default)]
    settings: HashMap<String, Setting>,
}

/// `keep_last = 7` means what `keep_last = "7"` does.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Setting {
    Text(String),
    Number(i64),
}

impl From<Setting> for String {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::Text(text) => text,
            Setting::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: String,
    #[serde(default)]
    zone: String,
    /// Holds no data, and takes the place of a node that is lost.
    #[serde(default)]
    spare: bool,
}

fn files() -> String {
    "files".into()
}

/// `-` is stdin.
pub(crate) fn read(file: &Path) -> Result<v1::Service> {
    parse(file, &text(file)?)
}

fn text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| Error::io(format!("read the service from {}", file.display()), error))?;
    Ok(text)
}

fn parse(file: &Path, text: &str) -> Result<v1::Service> {
    let service: ServiceFile = toml::from_str(text).map_err(|error| {
        Error::invalid(format!("{} does not describe a service", file.display()))
            .with_source(error)
            .with_hint("docs/operations/install.md shows one")
    })?;
    let nodes = service.nodes.into_iter().map(|node| v1::NodeSpec {
        name: node.name,
        zone: node.zone,
        spare: node.spare,
        ..Default::default()
    });
    Ok(v1::Service {
        name: service.name,
        r#type: service.engine,
        plan: service.plan,
        repository: service.repository,
        nodes: nodes.collect(),
        settings: service.settings.into_iter().map(|(key, value)| (key, value.into())).collect(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::service::view::{show, view};

    #[test]
    fn a_file_describes_a_service_and_an_unknown_key_is_refused() {
        let text = "name = 'a'\nrepository = 'file:///r'\n[[nodes]]\nname = 'n1'\nzone = 'z'\n[[nodes]]\nname = 's1'\nspare = true\n";
        let service = parse(Path::new("s.toml"), text).unwrap();
        assert_eq!((service.name.as_str(), service.r#type.as_str(), service.nodes.len()), ("a", "files", 2));
        let shown = show(&view(service));
        assert!(shown.contains("n1 (z), s1 (spare)"), "{shown}");
        let error = parse(Path::new("s.toml"), &format!("nodse = 1\n{text}")).unwrap_err();
        assert!(error.chain().contains("nodse"), "{}", error.chain());
    }
}
