use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use palinurus_proto::v1::DrillState;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::power::{self, Power};
use super::standing::Standing;
use crate::exit::Outcome;
use crate::output::{Output, fields, table};
use crate::{Global, client, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes or changes a service to be as the file says.
    Apply {
        /// TOML: name, type, plan, repository, [[nodes]], [settings]; `-` reads stdin.
        file: PathBuf,
        /// Also where the plan then keeps fewer of the backups that there are.
        #[arg(long)]
        accept_forget: bool,
    },
    List,
    Show {
        /// May be left out when there is only one.
        service: Option<String>,
    },
    /// Takes a last backup; then nothing of the service begins by itself, and its backups stay whatever their age.
    PowerOff(power::Off),
    /// Restores the latest backup onto the nodes that register, and goes on with schedule and retention.
    PowerOn(power::On),
    /// Deletes a service that is off, with all of its backups.
    Delete(power::Delete),
}

/// A service as an operator writes it.
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

#[derive(Serialize)]
struct Services {
    services: Vec<ServiceView>,
}

#[derive(Serialize)]
pub(super) struct ServiceView {
    name: String,
    r#type: String,
    plan: String,
    repository: String,
    repository_id: String,
    created: Option<String>,
    nodes: Vec<NodeSpecView>,
    settings: HashMap<String, String>,
    /// What the plan stands for; `settings` go over them.
    plan_settings: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    power: Power,
    /// To which moments it can be restored, of one that is shown alone and has a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    /// Only of one that is shown alone, and while its repository can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<BackupsView>,
}

/// The first and the last of those moments; `logs show` says what lies between.
#[derive(Serialize)]
struct Window {
    from: Option<String>,
    to: Option<String>,
    windows: usize,
}

#[derive(Serialize)]
struct BackupsView {
    total: usize,
    spoiled: usize,
    drills: Option<DrillsView>,
}

/// What the drills say of a service.
#[derive(Serialize)]
struct DrillsView {
    /// `none`, `passed`, `failed`, `never` or `late`.
    state: &'static str,
    /// That failed, or else passed last.
    operation: String,
    at: Option<String>,
    why: String,
    last_passed: Option<String>,
}

impl DrillsView {
    fn of(standing: &v1::DrillStanding) -> Self {
        let state = match standing.state() {
            DrillState::Unspecified => "none",
            DrillState::DrillPassed => "passed",
            DrillState::DrillFailed => "failed",
            DrillState::DrillNever => "never",
            DrillState::DrillLate => "late",
        };
        Self {
            state,
            operation: standing.operation.clone(),
            at: human::rfc3339(standing.at_ms),
            why: standing.why.clone(),
            last_passed: human::rfc3339(standing.passed_ms),
        }
    }

    fn show(&self) -> String {
        let at = self.at.as_deref().unwrap_or("-");
        match self.state {
            "failed" => format!("FAILED {at}: {} (palinurus drill show {})", self.why, self.operation),
            "never" => "NONE has passed yet, and the setting drill asks for them".to_owned(),
            "late" => format!("LATE: none has passed since {at}"),
            "passed" => format!("passed {at}"),
            other => other.to_owned(),
        }
    }
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
        Verb::Apply { file, accept_forget } => {
            let service = Some(from_file(&file)?);
            let mut client = client::connect(global).await?;
            let applied = client
                .apply_service(v1::ApplyServiceRequest { service, accept_forget })
                .await
                .map_err(from_status)?;
            output.data(&view(applied.into_inner()), show);
        }
        Verb::List => {
            let mut client = client::connect(global).await?;
            let reply =
                client.list_services(v1::ListServicesRequest {}).await.map_err(from_status)?.into_inner();
            output.data(&Services { services: reply.services.into_iter().map(view).collect() }, show_list);
        }
        Verb::PowerOff(off) => return power::off(off, global, output).await,
        Verb::PowerOn(on) => return power::on(on, global, output).await,
        Verb::Delete(delete) => return power::delete(delete, global, output).await,
        Verb::Show { service } => {
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            let request = v1::GetServiceRequest { service: service.clone() };
            let found = client.get_service(request).await.map_err(from_status)?;
            // A repository that cannot be read must not hide the service.
            let backups = client.list_backups(v1::ListBackupsRequest { service: service.clone() }).await.ok();
            let backups = backups.map(|reply| known_of(&reply.into_inner()));
            let logs = client.show_logs(v1::ShowLogsRequest { service }).await.ok();
            let window = logs.and_then(|reply| window_of(&reply.into_inner()));
            output.data(&ServiceView { backups, window, ..view(found.into_inner()) }, show);
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
        plan: service.plan,
        repository: service.repository,
        nodes: nodes.collect(),
        settings: service.settings.into_iter().map(|(key, value)| (key, value.into())).collect(),
        ..Default::default()
    })
}

pub(super) fn view(service: v1::Service) -> ServiceView {
    let power = Power::of(&service);
    let nodes = service.nodes.into_iter().map(|node| NodeSpecView {
        name: node.name,
        zone: node.zone,
        spare: node.spare,
        succeeds: node.succeeds,
    });
    ServiceView {
        name: service.name,
        r#type: service.r#type,
        plan: service.plan,
        repository: service.repository,
        repository_id: service.repository_id,
        created: human::rfc3339(service.created_ms),
        nodes: nodes.collect(),
        settings: service.settings,
        plan_settings: service.plan_settings,
        standing: service.standing.as_ref().map(Standing::of),
        power,
        window: None,
        backups: None,
    }
}

fn window_of(logs: &v1::Logs) -> Option<Window> {
    let from = logs.windows.iter().map(|window| window.from_ms).min()?;
    let to = logs.windows.iter().map(|window| window.to_ms).max()?;
    let windows = logs.windows.len();
    Some(Window { from: human::rfc3339(from), to: human::rfc3339(to), windows })
}

fn known_of(reply: &v1::ListBackupsReply) -> BackupsView {
    let backups = &reply.backups;
    BackupsView {
        total: backups.len(),
        spoiled: backups.iter().filter(|backup| backup.spoiled).count(),
        drills: reply.drills.first().map(DrillsView::of),
    }
}

pub(super) fn show(service: &ServiceView) -> String {
    let nodes: Vec<String> = service.nodes.iter().map(show_node).collect();
    let listed = |settings: &HashMap<String, String>| {
        let mut listed: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        listed.sort();
        listed.join(", ")
    };
    let mut pairs = vec![
        ("service", service.name.clone()),
        ("type", service.r#type.clone()),
        ("repository", service.repository.clone()),
        ("id", service.repository_id.clone()),
        ("nodes", nodes.join(", ")),
        ("settings", listed(&service.settings)),
    ];
    if !service.plan.is_empty() {
        pairs.push(("plan", format!("{}: {}", service.plan, listed(&service.plan_settings))));
    }
    pairs.extend(service.power.field());
    pairs.extend(service.standing.iter().flat_map(Standing::fields));
    pairs.extend(service.window.as_ref().map(|window| ("any moment", show_window(window))));
    pairs.extend(service.backups.as_ref().map(|backups| ("backups", show_backups(backups))));
    let drills = service.backups.as_ref().and_then(|backups| backups.drills.as_ref());
    pairs.extend(drills.map(|drills| ("drills", drills.show())));
    fields(&pairs)
}

fn show_window(window: &Window) -> String {
    let of = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
    let gaps = match window.windows {
        1 => "",
        _ => "; `palinurus logs show` says which",
    };
    format!("from {} to {}{gaps}", of(&window.from), of(&window.to))
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
        .map(|s| {
            let standing = s.standing.as_ref();
            let or = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
            vec![
                s.name.clone(),
                s.r#type.clone(),
                or(Some(&s.plan)),
                s.nodes.len().to_string(),
                or(standing.map(|it| it.health)) + if s.power.in_review() { ", review" } else { "" },
                or(standing.and_then(|it| it.next.as_deref())),
                s.repository.clone(),
            ]
        })
        .collect();
    table(&["SERVICE", "TYPE", "PLAN", "NODES", "HEALTH", "NEXT BACKUP", "REPOSITORY"], &[3], &rows)
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
            let reply = v1::ListBackupsReply { backups: backups.to_vec(), drills: Vec::new() };
            let backups = Some(known_of(&reply));
            show(&ServiceView { backups, ..view(v1::Service::default()) })
        };
        assert!(shown(&[spoiled, v1::Backup::default()]).contains("2, 1 of them spoiled"));
        assert!(!shown(&[v1::Backup::default()]).contains("spoiled"));
        assert!(!show(&view(v1::Service::default())).contains("backups"));
    }
}
