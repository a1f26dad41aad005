//! How a service stands by its plan and schedule.
use palinurus_proto::v1;
use serde::Serialize;

use super::plan::exported;
use crate::human;

#[derive(Serialize)]
pub(super) struct Standing {
    /// `protected`, `late`, `failing`, `unprotected` or `unknown`.
    pub(super) health: &'static str,
    why: String,
    /// When the newest backup that is complete and whole began.
    newest: Option<String>,
    failures: u32,
    /// When the next backup begins by itself.
    pub(super) next: Option<String>,
    /// A time before that which a recent backup does for.
    passed_over: Option<String>,
    no_backups: Option<String>,
    /// The database's own tool for getting data out; no snapshot of the service.
    export: Option<String>,
}

impl Standing {
    pub(super) fn of(standing: &v1::Standing) -> Self {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            health: standing.health().name(),
            why: standing.why.clone(),
            newest: human::rfc3339(standing.newest_ms),
            failures: standing.failures,
            next: human::rfc3339(standing.next_ms),
            passed_over: human::rfc3339(standing.passed_over_ms),
            no_backups: said(&standing.no_backups),
            export: said(&standing.export),
        }
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let health = match self.why.as_str() {
            _ if self.no_backups.is_some() => self.health.to_owned(),
            "" => self.health.to_owned(),
            why => format!("{}: {why}", self.health),
        };
        let next = match (&self.next, &self.passed_over) {
            (None, _) => "none begins by itself".to_owned(),
            (Some(next), None) => next.clone(),
            (Some(next), Some(passed)) => {
                format!("{next}; a recent backup does for {passed}, so the schedule takes effect then")
            }
        };
        let mut fields = vec![("health", health)];
        match &self.no_backups {
            Some(why) => fields.push(("no backups", why.clone())),
            None => fields.push(("next backup", next)),
        }
        fields.extend(self.export.as_deref().map(|tool| ("export", exported(tool))));
        fields
    }
}
