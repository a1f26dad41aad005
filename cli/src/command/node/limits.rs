//! What agents may use of their machines: bytes a second and processor time.
use std::str::FromStr;

use palinurus_proto::v1::Limit;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::exit::Outcome;
use crate::output::{Output, table};
use crate::{Global, client, human};

#[derive(Debug, clap::Args)]
pub(crate) struct SetLimits {
    /// Of these nodes; of all, if none is named.
    nodes: Vec<String>,
    #[arg(long, short)]
    service: Option<String>,
    /// Read from the disk in a second: 50MiB, none, or default (the agent's own settings).
    #[arg(long)]
    read: Option<Given<u64>>,
    /// Sent to the store in a second.
    #[arg(long)]
    send: Option<Given<u64>>,
    /// Received from the store in a second.
    #[arg(long)]
    receive: Option<Given<u64>>,
    /// Of one processor: 50%, 150%, none or default.
    #[arg(long)]
    cpu: Option<Given<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given<T> {
    /// 0: no limit, whatever the agent's settings say.
    Limit(T),
    Own,
}

impl FromStr for Given<u64> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
        let parse = |(unit, size): &(&str, u64)| {
            let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
            number.checked_mul(*size).filter(|bytes| *bytes > 0)
        };
        given(text, UNITS.iter().find_map(parse)).ok_or_else(|| "such as 50MiB, none or default".to_owned())
    }
}

impl FromStr for Given<u32> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let number = number.filter(|number: &u32| *number > 0);
        given(text, number).ok_or_else(|| "such as 50%, 150%, none or default".to_owned())
    }
}

fn given<T: Default>(text: &str, number: Option<T>) -> Option<Given<T>> {
    match text {
        "none" => Some(Given::Limit(T::default())),
        "default" => Some(Given::Own),
        _ => number.map(Given::Limit),
    }
}

/// In a second; 0: no limit; null: as the agent's own settings say.
#[derive(Debug, Serialize)]
pub(crate) struct LimitsView {
    read: Option<u64>,
    send: Option<u64>,
    receive: Option<u64>,
    /// Percent of one processor.
    cpu: Option<u32>,
}

impl LimitsView {
    pub(crate) fn of(limits: &v1::Limits) -> Self {
        let v1::Limits { read, send, receive, cpu } = *limits;
        Self { read, send, receive, cpu }
    }
}

#[derive(Serialize)]
struct Limited {
    nodes: Vec<LimitedNode>,
}

#[derive(Serialize)]
struct LimitedNode {
    service: String,
    name: String,
    limits: LimitsView,
}

pub(super) async fn run(set: SetLimits, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let service = client::service(&mut client, set.service.clone()).await?;
    let request = request(&set, service);
    let nodes = if request.limits == Some(v1::Limits::default()) && request.own.is_empty() {
        let listed = v1::ListNodesRequest { service: request.service.clone() };
        let nodes = client.list_nodes(listed).await.map_err(from_status)?.into_inner().nodes;
        if let Some(unknown) = set.nodes.iter().find(|name| !nodes.iter().any(|node| node.name == **name)) {
            return Err(Error::not_found(format!("service {} has no node {unknown}", request.service))
                .with_hint("`palinurus node list` shows them"));
        }
        let wanted = |node: &v1::Node| set.nodes.is_empty() || set.nodes.contains(&node.name);
        nodes.into_iter().filter(wanted).collect()
    } else {
        client.set_limits(request).await.map_err(from_status)?.into_inner().nodes
    };
    let view = |node: v1::Node| LimitedNode {
        service: node.service,
        name: node.name,
        limits: LimitsView::of(&node.limits.unwrap_or_default()),
    };
    output.data(&Limited { nodes: nodes.into_iter().map(view).collect() }, show);
    Ok(Outcome::Done)
}

fn request(set: &SetLimits, service: String) -> v1::SetLimitsRequest {
    let mut own = Vec::new();
    let mut bytes = |given: Option<Given<u64>>, limit: Limit| match given {
        Some(Given::Limit(number)) => Some(number),
        Some(Given::Own) => {
            own.push(limit as i32);
            None
        }
        None => None,
    };
    let read = bytes(set.read, Limit::Read);
    let send = bytes(set.send, Limit::Send);
    let receive = bytes(set.receive, Limit::Receive);
    let cpu = match set.cpu {
        Some(Given::Limit(percent)) => Some(percent),
        Some(Given::Own) => {
            own.push(Limit::Cpu as i32);
            None
        }
        None => None,
    };
    let limits = Some(v1::Limits { read, send, receive, cpu });
    v1::SetLimitsRequest { service, nodes: set.nodes.clone(), limits, own }
}

fn show(limited: &Limited) -> String {
    let bytes = |rate: Option<u64>| match rate {
        None => "default".to_owned(),
        Some(0) => "none".to_owned(),
        Some(rate) => format!("{}/s", human::size(rate)),
    };
    let cpu = |percent: Option<u32>| match percent {
        None => "default".to_owned(),
        Some(0) => "none".to_owned(),
        Some(percent) => format!("{percent}%"),
    };
    let row = |node: &LimitedNode| {
        let LimitsView { read, send, receive, cpu: percent } = node.limits;
        let cells = [node.service.clone(), node.name.clone(), bytes(read), bytes(send), bytes(receive)];
        cells.into_iter().chain([cpu(percent)]).collect()
    };
    let rows: Vec<Vec<String>> = limited.nodes.iter().map(row).collect();
    table(&["SERVICE", "NODE", "READ", "SEND", "RECEIVE", "CPU"], &[2, 3, 4, 5], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_none_or_the_agents_own() {
        assert_eq!("50MiB".parse(), Ok(Given::Limit(50u64 << 20)));
        assert_eq!("none".parse(), Ok(Given::Limit(0u64)));
        assert_eq!("default".parse::<Given<u64>>(), Ok(Given::Own));
        assert_eq!("150%".parse(), Ok(Given::Limit(150u32)));
        for wrong in ["", "0", "0MiB", "5MB", "off"] {
            assert!(wrong.parse::<Given<u64>>().is_err(), "{wrong}");
        }
        assert!("50".parse::<Given<u32>>().is_err());
    }

    #[test]
    fn what_is_not_named_is_not_asked_for() {
        let set = SetLimits {
            nodes: vec!["n1".into()],
            service: None,
            read: Some(Given::Limit(0)),
            send: Some(Given::Own),
            receive: None,
            cpu: Some(Given::Own),
        };
        let asked = request(&set, "shop".into());
        assert_eq!(asked.limits, Some(v1::Limits { read: Some(0), ..Default::default() }));
        assert_eq!(asked.own, [Limit::Send as i32, Limit::Cpu as i32]);
    }
}
