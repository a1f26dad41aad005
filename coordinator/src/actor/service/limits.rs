//! What the agents of nodes may use of their machines: kept with the node, as it is the machine's, and told at once.
use palinurus_proto::v1::{self, Limit};
use palinurus_repository::{Error, Result};

use super::Service;

impl Service {
    /// The record first: an agent that connects a moment later is told the same.
    pub(super) async fn set_limits(&mut self, request: &v1::SetLimitsRequest) -> Result<Vec<v1::Node>> {
        let names: Vec<String> = match &request.nodes[..] {
            [] => self.seats.keys().cloned().collect(),
            named => named.to_vec(),
        };
        if let Some(unknown) = names.iter().find(|name| !self.seats.contains_key(*name)) {
            return Err(Error::not_found(format!("service {} has no node {unknown}", self.name()))
                .with_hint("`palinurus node list` shows them"));
        }
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            let mut node = seat.shown();
            node.limits = changed(node.limits, request)?;
            if node.limits != seat.known().limits {
                self.shared.records.put_node(&node).await?;
                seat.set(node);
                seat.tell_limits();
            }
            nodes.push(seat.shown());
        }
        Ok(nodes)
    }
}

/// None: all are the agent's own.
fn changed(known: Option<v1::Limits>, request: &v1::SetLimitsRequest) -> Result<Option<v1::Limits>> {
    let (mut next, wanted) = (known.unwrap_or_default(), request.limits.unwrap_or_default());
    if wanted == v1::Limits::default() && request.own.is_empty() {
        return Err(Error::invalid("no limit is named"));
    }
    next.read = wanted.read.or(next.read);
    next.send = wanted.send.or(next.send);
    next.receive = wanted.receive.or(next.receive);
    next.cpu = wanted.cpu.or(next.cpu);
    for own in request.own() {
        let twice = match own {
            Limit::Read => next.read.take().and(wanted.read).is_some(),
            Limit::Send => next.send.take().and(wanted.send).is_some(),
            Limit::Receive => next.receive.take().and(wanted.receive).is_some(),
            Limit::Cpu => next.cpu.take().and(wanted.cpu).is_some(),
            Limit::Unspecified => return Err(Error::invalid("a limit that is not known here")),
        };
        if twice {
            return Err(Error::invalid(format!("{} is named twice", own.as_str_name())));
        }
    }
    Ok((next != v1::Limits::default()).then_some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let set = |limits, own: &[Limit]| v1::SetLimitsRequest {
            limits: Some(limits),
            own: own.iter().map(|own| *own as i32).collect(),
            ..Default::default()
        };
        let both = v1::Limits { read: Some(5), cpu: Some(50), ..Default::default() };
        let first = changed(None, &set(both, &[])).unwrap();
        assert_eq!(first, Some(both));
        let send = v1::Limits { send: Some(0), ..Default::default() };
        let next = changed(first, &set(send, &[Limit::Read])).unwrap();
        assert_eq!(next, Some(v1::Limits { read: None, send: Some(0), ..both }));
        let none = v1::Limits::default();
        assert_eq!(changed(next, &set(none, &[Limit::Send, Limit::Cpu])).unwrap(), None);
        for wrong in [set(none, &[]), set(both, &[Limit::Cpu]), set(none, &[Limit::Unspecified])] {
            changed(first, &wrong).unwrap_err();
        }
    }
}
