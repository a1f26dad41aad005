//! When a place needs another agent, and which one takes it. Pure: asked again after whatever may change the answer.
//!
//! Never onto a directory that holds data, never without a backup, and never by itself where the policy does not say
//! so. A replacement is an agent of another instance than the holder's at the place itself; a spare is a node of its
//! own that holds nothing.
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::Timestamp;

pub(crate) mod manual;
mod past;
mod policy;
mod role;
mod sources;
#[cfg(test)]
mod tests;

use past::Ended;
pub(crate) use past::Past;
pub(crate) use policy::{Mode, Policy, Rebuild};
use role::{Role, from_peers, role, source};
pub(crate) use sources::{Source, Sources, names};

/// Between tries for a place whose failovers fail, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// One node's place as the service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: v1::Node,
    /// As patience is counted: from this coordinator's start at the earliest. None: somebody is connected.
    pub(crate) gone_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) policy: Policy,
    pub(crate) places: &'a [Place],
    pub(crate) sources: &'a Sources,
    pub(crate) past: &'a Past,
    /// The operation that has the service's slot.
    pub(crate) running: Option<&'a str>,
    pub(crate) now: Timestamp,
}

/// A failover that may begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) detail: v1::FailoverDetail,
    pub(crate) source: Source,
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Take(Box<Candidate>),
    /// Not now, and why; asked again then, or when something changes.
    Wait {
        node: String,
        until: Option<Timestamp>,
        why: String,
    },
}

/// What is to be done without anybody asking, at most one thing at a time, and what waits for what.
pub(crate) fn consider(view: View<'_>) -> Vec<Verdict> {
    if view.policy.mode != Mode::Automatic {
        return Vec::new();
    }
    let mut verdicts = Vec::new();
    let mut taken: Option<String> = None;
    for place in view.places {
        let Some(verdict) = examine(view, place) else { continue };
        verdicts.push(match (verdict, &taken, view.running) {
            (Verdict::Take(candidate), _, Some(running)) => {
                wait(&candidate.detail.lost, None, format!("operation {running} runs: it comes after"))
            }
            (Verdict::Take(candidate), Some(first), None) => {
                wait(&candidate.detail.lost, None, format!("the failover of {first} comes first"))
            }
            (Verdict::Take(candidate), None, None) => {
                taken = Some(candidate.detail.lost.clone());
                Verdict::Take(candidate)
            }
            (waiting, ..) => waiting,
        });
    }
    verdicts
}

/// None: there is nothing wrong with the place.
fn examine(view: View<'_>, place: &Place) -> Option<Verdict> {
    let node = &place.node;
    let name = &node.name;
    if node.spare || node.holder.is_empty() {
        return None;
    }
    let last = view.past.of_place(name);
    let unfinished = last.filter(|last| last.left_unfinished(node));
    let (target, mut reasons) = match place.gone_since {
        None if !node.data_empty => return None,
        None if node.instance == node.holder && unfinished.is_none() => {
            source(view, node)?;
            return Some(wait(name, None, emptied(name)));
        }
        None => (node, vec![replacement(node, unfinished)]),
        Some(since) => {
            let due = since.plus(view.policy.patience);
            let patience = human(view.policy.patience);
            if view.now < due {
                let why = format!("{name} is gone since {}: its patience of {patience} lasts", time(since));
                return Some(wait(name, Some(due), why));
            }
            let Some(spare) = spare(view.places, node) else {
                let why =
                    format!("{name} is gone since {}, and no spare is connected and empty", time(since));
                return Some(wait(name, None, why));
            };
            (
                spare,
                vec![
                    format!(
                        "node {name} is gone since {}: longer than its patience of {patience}",
                        time(since)
                    ),
                    format!("spare {} is connected and empty", spare.name),
                ],
            )
        }
    };
    // What was begun is gone on with: its directory holds a part of that backup.
    let begun = unfinished.and_then(|last| view.sources.still(&last.detail));
    let Some(source) = begun.or_else(|| source(view, node).cloned()) else {
        return Some(wait(name, None, format!("no backup has {name}")));
    };
    if let Some(waiting) = last.and_then(|last| held_back(view, last, target)) {
        return Some(waiting);
    }
    let role = match (unfinished, role(view, node)) {
        // What lies there was to be that.
        (Some(last), _) => Role { follows: last.detail.follows.clone(), why: None },
        (None, Ok(role)) => role,
        (None, Err(why)) => return Some(wait(name, None, why)),
    };
    reasons.extend(role.why);
    reasons.push(source.reason());
    let (from_peers, why) = from_peers(view, node);
    reasons.extend(why);
    let mut detail =
        v1::FailoverDetail { follows: role.follows, from_peers, ..detail(node, target, &source, true) };
    if let Some(last) = unfinished {
        (detail.gone_ms, detail.data_age_ms) = (last.detail.gone_ms, last.detail.data_age_ms);
        detail.logs.clone_from(&last.detail.logs);
    }
    Some(Verdict::Take(Box::new(Candidate { detail, source, reasons })))
}

/// After failures, longer each time; after an operator's no, until an operator says otherwise.
fn held_back(view: View<'_>, last: &Ended, target: &v1::Node) -> Option<Verdict> {
    let lost = &last.place;
    if last.was_cancelled() && last.detail.instance == target.instance {
        let why = format!("operation {} was cancelled: palinurus failover apply begins another", last.id);
        return Some(wait(lost, None, why));
    }
    let failures = last.failures.checked_sub(1)?;
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    let due = last.ended.plus(pause);
    let why = || {
        format!(
            "{} failover{} of {lost} failed, last {}: {}; not again before {}",
            last.failures,
            if last.failures == 1 { "" } else { "s in a row" },
            last.id,
            last.why,
            time(due)
        )
    };
    (view.now < due).then(|| wait(lost, Some(due), why()))
}

/// A spare that may take the place: one of the same zone before others.
fn spare<'a>(places: &'a [Place], lost: &v1::Node) -> Option<&'a v1::Node> {
    let fit = |place: &&Place| {
        let node = &place.node;
        node.spare && place.gone_since.is_none() && node.data_empty && node.name != lost.name
    };
    let near = places.iter().filter(fit).find(|place| place.node.zone == lost.zone);
    near.or_else(|| places.iter().find(fit)).map(|place| &place.node)
}

fn detail(lost: &v1::Node, onto: &v1::Node, source: &Source, automatic: bool) -> v1::FailoverDetail {
    let gone_ms = if lost.holder_gone_ms > 0 { lost.holder_gone_ms } else { lost.last_seen_ms };
    v1::FailoverDetail {
        lost: lost.name.clone(),
        node: onto.name.clone(),
        instance: onto.instance.clone(),
        fenced: if lost.holder == onto.instance { String::new() } else { lost.holder.clone() },
        node_epoch: lost.node_epoch.max(onto.node_epoch).saturating_add(1),
        manifest: Some(v1::NodeManifest {
            node: onto.name.clone(),
            backup_id: source.backup_id.clone(),
            manifest: source.manifest.clone(),
        }),
        automatic,
        gone_ms,
        backup_ms: source.moment.0,
        rto_ms: 0,
        key_epochs: source.key_epochs.clone(),
        data_age_ms: gone_ms.saturating_sub(source.moment.0),
        ..Default::default()
    }
}

fn replacement(node: &v1::Node, unfinished: Option<&Ended>) -> String {
    let (name, instance) = (&node.name, &node.instance);
    match unfinished {
        Some(last) => format!("failover {} onto {name} did not get to its end: it is begun again", last.id),
        None => format!(
            "agent {instance} has connected for {name} with an empty directory, and {} is gone",
            node.holder
        ),
    }
}

fn emptied(name: &str) -> String {
    format!(
        "{name} is connected with its own agent and an empty directory: somebody may have emptied it on purpose, \
         so only palinurus failover apply restores it"
    )
}

fn wait(node: &str, until: Option<Timestamp>, why: String) -> Verdict {
    Verdict::Wait { node: node.to_owned(), until, why }
}

fn human(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs().max(1))).to_string()
}

pub(crate) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(at.0)).to_string()
}
