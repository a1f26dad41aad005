//! How services are shown.
use std::collections::HashMap;

use palinurus_proto::v1;
use palinurus_proto::v1::DrillState;
use serde::Serialize;

use crate::command::power::Power;
use crate::command::standing::Standing;
use crate::human;
use crate::output::{fields, table};

#[derive(Serialize)]
pub(super) struct Services {
    pub(super) services: Vec<ServiceView>,
}

#[derive(Serialize)]
pub(crate) struct ServiceView {
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

impl ServiceView {
    /// Of one that is shown alone.
    pub(super) fn with(self, backups: Option<BackupsView>, window: Option<Window>) -> Self {
        Self { backups, window, ..self }
    }
}

/// The first and the last of those moments; `logs show` says what lies between.
#[derive(Serialize)]
pub(super) struct Window {
    from: Option<String>,
    to: Option<String>,
    windows: usize,
}

#[derive(Serialize)]
pub(super) struct BackupsView {
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

pub(crate) fn view(service: v1::Service) -> ServiceView {
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

pub(super) fn window_of(logs: &v1::Logs) -> Option<Window> {
    let from = logs.windows.iter().map(|window| window.from_ms).min()?;
    let to = logs.windows.iter().map(|window| window.to_ms).max()?;
    let windows = logs.windows.len();
    Some(Window { from: human::rfc3339(from), to: human::rfc3339(to), windows })
}

pub(super) fn known_of(reply: &v1::ListBackupsReply) -> BackupsView {
    let backups = &reply.backups;
    BackupsView {
        total: backups.len(),
        spoiled: backups.iter().filter(|backup| backup.spoiled).count(),
        drills: reply.drills.first().map(DrillsView::of),
    }
}

pub(crate) fn show(service: &ServiceView) -> String {
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

pub(super) fn show_list(services: &Services) -> String {
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
