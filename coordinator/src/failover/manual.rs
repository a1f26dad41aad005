//! The failover that an operator asks for: what it would do, and what stands against it.
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use super::{
    Candidate, Mode, Place, Source, Verdict, View, consider, detail, from_peers, human, role, spare,
};

/// `onto` empty: the place's own agent, else a spare that is free. A request that cannot be understood is an error;
/// one that cannot be done is a plan with refusals.
pub(crate) fn plan(
    view: View<'_>,
    service: &str,
    node: &str,
    onto: &str,
    source: Option<Source>,
) -> Result<v1::FailoverPlan> {
    let lost = find(view, service, node)?;
    let mut plan = v1::FailoverPlan {
        service: service.to_owned(),
        automatic: automatic(view, node),
        failover: Some(v1::FailoverDetail { lost: node.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    if view.policy.mode == Mode::Off {
        plan.refusals.push(format!("the setting failover of service {service} is off"));
    }
    if lost.node.spare {
        plan.refusals.push(format!("{node} is a spare: it has nothing to lose"));
    }
    if let Some(running) = view.running {
        plan.refusals
            .push(format!("operation {running} runs on service {service}: wait for it, or cancel it"));
    }
    let target = match target(view, lost, service, onto)? {
        Ok(target) => Some(target),
        Err(refusal) => {
            plan.refusals.push(refusal);
            None
        }
    };
    let source = source.or_else(|| super::source(view, &lost.node).cloned());
    if source.is_none() {
        plan.refusals.push(format!("no backup has {node}"));
    }
    if let Some(source) = &source {
        (plan.files, plan.bytes) = (source.files, source.bytes);
        plan.reasons.push(source.reason());
    }
    if let (Some(target), Some(source)) = (target, &source) {
        // Whoever asks may know that what another node has is worth nothing.
        let role = role(view, &lost.node);
        plan.warnings.extend(role.as_ref().err().cloned());
        let role = role.ok();
        plan.reasons.extend(role.as_ref().and_then(|role| role.why.clone()));
        let follows = role.map(|role| role.follows).unwrap_or_default();
        let (from_peers, why) = from_peers(view, &lost.node);
        plan.reasons.extend(why);
        plan.failover =
            Some(v1::FailoverDetail { follows, from_peers, ..detail(&lost.node, target, source, false) });
        plan.reasons.push(format!("agent {} of {} is connected and empty", target.instance, target.name));
        if let Some(since) = lost.gone_since
            && view.now < since.plus(view.policy.patience)
        {
            let gone = human(view.now.since(since));
            plan.warnings.push(format!(
                "{node} is gone for {gone} only: when its agent comes back it is told to stand down"
            ));
        }
        if !target.name.eq(node) {
            plan.warnings.push(format!("{} becomes a node of {service} and {node} leaves it", target.name));
        }
    }
    Ok(plan)
}

fn find<'a>(view: View<'a>, service: &str, node: &str) -> Result<&'a Place> {
    view.places.iter().find(|place| place.node.name == node).ok_or_else(|| {
        let names: Vec<&str> = view.places.iter().map(|place| place.node.name.as_str()).collect();
        Error::not_found(format!("service {service} has no node {node:?}"))
            .with_hint(format!("its nodes are {}", names.join(", ")))
    })
}

/// Who would be restored onto, or why nobody.
fn target<'a>(
    view: View<'a>,
    lost: &'a Place,
    service: &str,
    onto: &str,
) -> Result<Result<&'a v1::Node, String>> {
    let node = &lost.node;
    let name = &node.name;
    let itself = onto.is_empty() || onto == name;
    if lost.gone_since.is_none() {
        return Ok(match (itself, node.data_empty) {
            (true, true) => Ok(node),
            (true, false) => Err(format!(
                "{name} is connected and its directory holds data: a failover never writes onto data"
            )),
            (false, _) => Err(format!("{name} is connected: stop its agent first")),
        });
    }
    if onto.is_empty() {
        return Ok(spare(view.places, node)
            .ok_or_else(|| format!("{name} has no replacement, and no spare is connected and empty")));
    }
    if itself {
        return Ok(Err(format!("no agent is connected for {name}: start one with an empty directory")));
    }
    let place = find(view, service, onto)?;
    let spare = &place.node;
    Ok(match (spare.spare, place.gone_since, spare.data_empty) {
        (false, ..) => Err(format!("{onto} is no spare")),
        (true, Some(_), _) => Err(format!("spare {onto} is not connected: start its agent")),
        (true, None, false) => {
            Err(format!("the directory of spare {onto} holds data: a failover never writes onto data"))
        }
        (true, None, true) => Ok(spare),
    })
}

/// What would become of the node without anybody asking.
fn automatic(view: View<'_>, node: &str) -> String {
    match view.policy.mode {
        Mode::Off => return "nothing: the setting failover is off".to_owned(),
        Mode::Manual => return "nothing: the setting failover is manual".to_owned(),
        Mode::Automatic => {}
    }
    let found = consider(view).into_iter().find_map(|verdict| match verdict {
        Verdict::Take(candidate) if candidate.detail.lost == node => Some(begins(&candidate)),
        Verdict::Wait { node: waiting, until, why } if waiting == node => {
            let until = until.map(|until| format!(" (looked at again at {})", super::time(until)));
            Some(format!("waits: {why}{}", until.unwrap_or_default()))
        }
        _ => None,
    });
    found.unwrap_or_else(|| format!("nothing: {node} is well"))
}

fn begins(candidate: &Candidate) -> String {
    format!("begins: onto {}", candidate.detail.node)
}
