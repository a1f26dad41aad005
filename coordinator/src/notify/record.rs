//! What is recorded of a service's notices.
use std::collections::BTreeMap;

use palinurus_repository::Timestamp;
use serde::Serialize;

use super::{Kind, Notice};
use crate::failover::time;

/// The version of the body that receivers get.
pub(super) const VERSION: u32 = 1;

/// One record a service: what was told last and what is still owed change together.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Outbox {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) told: Vec<Told>,
    /// The oldest first.
    #[prost(message, repeated, tag = "3")]
    pub(super) owed: Vec<Owed>,
}

/// What was told last, of each kind.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Told {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Owed {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) service: String,
    #[prost(string, tag = "3")]
    pub(super) kind: String,
    #[prost(string, tag = "4")]
    pub(super) key: String,
    /// The key before it, of this kind.
    #[prost(string, tag = "5")]
    pub(super) was: String,
    #[prost(uint64, tag = "6")]
    pub(super) at_ms: u64,
    #[prost(string, tag = "7")]
    pub(super) what: String,
    #[prost(string, tag = "8")]
    pub(super) why: String,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(super) details: BTreeMap<String, String>,
    /// Which channels have not had it.
    #[prost(string, repeated, tag = "10")]
    pub(super) channels: Vec<String>,
}

impl Outbox {
    pub(super) fn told(&self, kind: &str) -> Option<&str> {
        self.told.iter().find(|told| told.kind == kind).map(|told| told.key.as_str())
    }
}

/// What receivers get; docs/operations/notifications.md says what each field means.
#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    id: &'a str,
    kind: &'a str,
    service: &'a str,
    at: String,
    at_ms: u64,
    what: &'a str,
    why: &'a str,
    /// Of health.
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<&'a str>,
    details: &'a BTreeMap<String, String>,
}

impl Owed {
    pub(super) fn new(notice: &Notice, id: String, was: &str, channels: Vec<String>) -> Self {
        Self {
            id,
            service: notice.service.clone(),
            kind: notice.kind.as_str().to_owned(),
            key: notice.key.clone(),
            was: was.to_owned(),
            at_ms: notice.at.0,
            what: notice.what.clone(),
            why: notice.why.clone(),
            details: notice.details.clone(),
            channels,
        }
    }

    pub(super) fn at(&self) -> Timestamp {
        Timestamp(self.at_ms)
    }

    /// The same bytes at every try.
    pub(super) fn json(&self) -> Vec<u8> {
        let health = self.kind == Kind::Health.as_str();
        let body = Body {
            version: VERSION,
            id: &self.id,
            kind: &self.kind,
            service: &self.service,
            at: time(self.at()),
            at_ms: self.at_ms,
            what: &self.what,
            why: &self.why,
            is: health.then_some(&self.key),
            was: health.then_some(&self.was),
            details: &self.details,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        let Self { id, service, kind, what, why, .. } = self;
        let why = if why.is_empty() { String::new() } else { format!("Why: {why}\n") };
        let details: String = self.details.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let at = time(self.at());
        format!("{what}\n\n{why}Service: {service}\nKind: {kind}\nAt: {at}\n{details}Id: {id}\n")
    }

    /// The channel that there always is.
    pub(super) fn log(&self, notice: &Notice) {
        let (service, kind, id, was) = (&self.service, &self.kind, &self.id, &self.was);
        let (is, what, why) = (&self.key, &self.what, &self.why);
        if notice.urgent {
            tracing::warn!(service, kind, is, was, why, id, "{what}");
        } else {
            tracing::info!(service, kind, is, was, why, id, "{what}");
        }
    }
}
