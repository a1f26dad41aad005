use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes or changes a service to be as the file says.
    Apply {
        /// TOML: name, type, repository, [[nodes]], [settings]; `-` reads stdin.
        file: PathBuf,
    },
    List,
    Show {
        /// May be left out when there is only one.
        service: Option<String>,
    },
}

/// A service as an operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceFile {
    name: String,
    #[serde(rename = "type", default = "files")]
    engine: String,
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

#[derive(Serialize)]
struct Services {
    services: Vec<ServiceView>,
}

#[derive(Serialize)]
struct ServiceView {
    name: String,
    r#type: String,
    repository: String,
    repository_id: String,
    created: Option<String>,
    nodes: Vec<NodeSpecView>,
    settings: HashMap<String, String>,
    /// Only of one that is shown alone, and while its repository can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<BackupsView>,
}

#[derive(Serialize)]
struct BackupsView {
    total: usize,
    spoiled: usize,
}

#[derive(Serialize)]
struct NodeSpecView {
    name: String,
    zone: String,
    spare: bool,
    /// Whose places it took, the last first.
    succeeds: Vec<String>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Apply { file } => {
            let service = Some(from_file(&file)?);
            let mut client = client::connect(global).await?;
            let applied =
                client.apply_service(v1::ApplyServiceRequest { service }).await.map_err(from_status)?;
            output.data(&view(applied.into_inner()), show);
        }
        Verb::List => {
            let mut client = client::connect(global).await?;
            let reply =
                client.list_services(v1::ListServicesRequest {}).await.map_err(from_status)?.into_inner();
            output.data(&Services { services: reply.services.into_iter().map(view).collect() }, show_list);
        }
        Verb::Show { service } => {
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            let request = v1::GetServiceRequest { service: service.clone() };
            let found = client.get_service(request).await.map_err(from_status)?;
            // A repository that cannot be read must not hide the service.
            let backups = client.list_backups(v1::ListBackupsRequest { service }).await.ok();
            let backups = backups.map(|reply| known_of(&reply.into_inner().backups));
            output.data(&ServiceView { backups, ..view(found.into_inner()) }, show);
        }
    }
    Ok(Outcome::Done)
}

/// `-` is stdin.
pub(crate) fn from_file(file: &Path) -> Result<v1::Service> {
    parse(file, &read(file)?)
}

fn read(file: &Path) -> Result<String> {
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
        repository: service.repository,
        nodes: nodes.collect(),
        settings: service.settings.into_iter().map(|(key, value)| (key, value.into())).collect(),
        ..Default::default()
    })
}

fn view(service: v1::Service) -> ServiceView {
    let nodes = service.nodes.into_iter().map(|node| NodeSpecView {
        name: node.name,
        zone: node.zone,
        spare: node.spare,
        succeeds: node.succeeds,
    });
    ServiceView {
        name: service.name,
        r#type: service.r#type,
        repository: service.repository,
        repository_id: service.repository_id,
        created: human::rfc3339(service.created_ms),
        nodes: nodes.collect(),
        settings: service.settings,
        backups: None,
    }
}

fn known_of(backups: &[v1::Backup]) -> BackupsView {
    BackupsView { total: backups.len(), spoiled: backups.iter().filter(|backup| backup.spoiled).count() }
}

fn show(service: &ServiceView) -> String {
    let nodes: Vec<String> = service.nodes.iter().map(show_node).collect();
    let mut settings: Vec<String> =
        service.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    settings.sort();
    let mut pairs = vec![
        ("service", service.name.clone()),
        ("type", service.r#type.clone()),
        ("repository", service.repository.clone()),
        ("id", service.repository_id.clone()),
        ("nodes", nodes.join(", ")),
        ("settings", settings.join(", ")),
    ];
    pairs.extend(service.backups.as_ref().map(|backups| ("backups", show_backups(backups))));
    fields(&pairs)
}

fn show_backups(backups: &BackupsView) -> String {
    match backups.spoiled {
        0 => backups.total.to_string(),
        spoiled => format!(
            "{}, {spoiled} of them spoiled: `palinurus backup list` says which, `palinurus repository check` why",
            backups.total
        ),
    }
}

fn show_node(node: &NodeSpecView) -> String {
    let mut of_it: Vec<String> = Vec::new();
    if !node.zone.is_empty() {
        of_it.push(node.zone.clone());
    }
    if node.spare {
        of_it.push("spare".into());
    }
    if let Some(lost) = node.succeeds.first() {
        of_it.push(format!("in place of {lost}"));
    }
    if of_it.is_empty() { node.name.clone() } else { format!("{} ({})", node.name, of_it.join(", ")) }
}

fn show_list(services: &Services) -> String {
    let rows: Vec<Vec<String>> = services
        .services
        .iter()
        .map(|s| vec![s.name.clone(), s.r#type.clone(), s.nodes.len().to_string(), s.repository.clone()])
        .collect();
    table(&["SERVICE", "TYPE", "NODES", "REPOSITORY"], &[2], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn spoiled_backups_are_told() {
        let spoiled = v1::Backup { spoiled: true, ..Default::default() };
        let shown = |backups: &[v1::Backup]| {
            let backups = Some(known_of(backups));
            show(&ServiceView { backups, ..view(v1::Service::default()) })
        };
        assert!(shown(&[spoiled, v1::Backup::default()]).contains("2, 1 of them spoiled"));
        assert!(!shown(&[v1::Backup::default()]).contains("spoiled"));
        assert!(!show(&view(v1::Service::default())).contains("backups"));
    }
}
