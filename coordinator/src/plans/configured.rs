//! Plans that a coordinator's settings add to the built-in ones, or put in their place:
//! `[plans.postgresql.business] schedule = "hourly"`, and whatever else the plan is to stand for.
use std::collections::{BTreeMap, HashMap};

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Type, base};
use crate::settings;

/// By type, name and setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plans(BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>>);

/// `keep_last = 7` means what `keep_last = "7"` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(i64),
}

impl Plans {
    pub(crate) fn check(&self) -> Result<()> {
        for (kind, plans) in &self.0 {
            let kind = Type::named(kind)?;
            for (name, said) in plans {
                let told = |e: Error| {
                    let hint = e.hint().unwrap_or("docs/operations/schedules.md").to_owned();
                    Error::invalid(format!("plan {name} of {}: {}", kind.name, e.what())).with_hint(hint)
                };
                if base(name) != Some(name) {
                    return Err(Error::invalid(format!("plan name {name:?} is not usable"))
                        .with_hint("small letters and digits, at most 16"));
                }
                settings::check(name, kind, &map(said)).map_err(told)?;
            }
        }
        Ok(())
    }

    /// Of that type, or of all.
    pub(crate) fn list(&self, kind: &str) -> Result<Vec<v1::Plan>> {
        let kinds = match kind {
            "" => Type::all(),
            named => std::slice::from_ref(Type::named(named)?),
        };
        Ok(kinds.iter().flat_map(|kind| self.of(kind)).collect())
    }

    /// By its name, with or without a size: `business`, `business-8`.
    pub fn find(&self, kind: &Type, name: &str) -> Result<v1::Plan> {
        let plans = self.of(kind);
        let wanted = base(name);
        plans.iter().find(|plan| Some(plan.name.as_str()) == wanted).cloned().ok_or_else(|| {
            let there: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
            Error::invalid(format!("there is no plan {name:?} for {}", kind.name))
                .with_hint(format!("there is {}; a size may follow, as in business-8", there.join(", ")))
        })
    }

    fn of(&self, kind: &Type) -> Vec<v1::Plan> {
        let configured = self.0.get(kind.name);
        let plan = |name: &str, backups: String, settings| v1::Plan {
            r#type: kind.name.to_owned(),
            name: name.to_owned(),
            backups,
            settings,
            configured: false,
            export: kind.export.unwrap_or_default().to_owned(),
            note: kind.note.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        let mut plans: Vec<v1::Plan> = kind
            .plans()
            .map(|(name, backups)| plan(name, backups.to_string(), kind.settings(name, backups)))
            .collect();
        for (name, said) in configured.into_iter().flatten() {
            let settings = map(said);
            let mut words: Vec<String> =
                settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
            words.sort();
            let own = v1::Plan { configured: true, ..plan(name, words.join(" "), settings) };
            match plans.iter_mut().find(|plan| plan.name == *name) {
                Some(built_in) => *built_in = own,
                None => plans.push(own),
            }
        }
        plans
    }
}

fn map(said: &BTreeMap<String, Value>) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Number(number) => number.to_string(),
    };
    said.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}
