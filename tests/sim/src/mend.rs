//! What an operator does about places that are not well, once all else is: docs/operations/failover.md.
use std::collections::BTreeSet;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use crate::fleet::Wanted;
use crate::invariant::Invariant;
use crate::mover::BLOCKS;
use crate::operator::Operator;
use crate::place::{instance, shut_out, stood_down};
use crate::world::{self, HostId, Order, lock, pause, trace};

/// A failover that could begin by itself has begun by then, in looks of a second.
const BEGINS: usize = 60;
/// An agent that is there and has lost its place knows it by then.
const TOLD: usize = 60;
/// Before machines that are gone are brought back: longer than any patience.
const WAITS: u64 = 25_000;

/// How a service stands.
struct Standing {
    service: v1::Service,
    nodes: Vec<v1::Node>,
}

impl Operator {
    /// Until every node of the service is there with its data, or with nothing because nothing is known of it.
    pub(crate) async fn mended(&mut self, wanted: &Wanted, until: u64) -> std::result::Result<(), String> {
        let back = world::now() + WAITS;
        let mut begins = 0;
        let mut last = String::new();
        while world::now() < until {
            self.apply_all().await;
            match self.mend(wanted, world::now() >= back, &mut begins).await {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => last = what,
                Err(e) => last = e.chain(),
            }
            if begins > BEGINS {
                return Err(format!("a failover that may begin does not: {last}"));
            }
            pause(1000).await;
        }
        Err(format!("a place is not well: {last}"))
    }

    /// One step, and what it was; none when all is well.
    async fn mend(&mut self, wanted: &Wanted, back: bool, begins: &mut usize) -> Result<Option<String>> {
        let Standing { service, nodes } = self.standing(&wanted.name).await?;
        if let Some(operation) = self.operations().await?.into_iter().find(|each| each.service == wanted.name)
        {
            *begins = 0;
            return Ok(Some(format!("{} runs", operation.id)));
        }
        for node in nodes.iter().filter(|node| !node.spare) {
            if let Some(what) = self.place(wanted, node, begins).await? {
                return Ok(Some(what));
            }
        }
        if let Some(what) = self.machines(wanted, &nodes, back) {
            return Ok(Some(what));
        }
        self.file(wanted, service).await
    }

    async fn standing(&mut self, name: &str) -> Result<Standing> {
        let request = v1::GetServiceRequest { service: name.to_owned() };
        let service = self.ask(async |mut c| c.get_service(request.clone()).await).await?;
        let request = v1::ListNodesRequest { service: name.to_owned() };
        let nodes = self.ask(async |mut c| c.list_nodes(request.clone()).await).await?.nodes;
        Ok(Standing { service, nodes })
    }

    /// A node that is not well.
    async fn place(
        &mut self,
        wanted: &Wanted,
        node: &v1::Node,
        begins: &mut usize,
    ) -> Result<Option<String>> {
        let machine = self.machine(&wanted.name, node);
        if let Some(host) = machine.filter(|_| node.connected)
            && node.instance == node.holder
        {
            // A half-restored disk that nobody goes on with is given up.
            let half = self.world.disk(host, |disk| disk.half.take().map(|_| disk.files.clear()));
            return Ok(half.map(|()| format!("{} gives up what was half restored", node.name)));
        }
        let request = v1::FailoverRequest {
            service: wanted.name.clone(),
            node: node.name.clone(),
            ..Default::default()
        };
        let plan = self.ask(async |mut c| c.plan_failover(request.clone()).await).await?;
        trace(&format!("{} is not well: {} {:?}", node.name, plan.automatic, plan.refusals));
        if plan.automatic.starts_with("begins") {
            *begins += 1;
            return Ok(Some(plan.automatic));
        }
        if plan.refusals.is_empty() {
            let started = self.ask(async |mut c| c.apply_failover(request.clone()).await).await?;
            return Ok(Some(format!("failover {} of {}", started.id, node.name)));
        }
        if !node.connected {
            return Ok(None);
        }
        let Some(host) = machine else {
            return Ok(Some(format!("{} is a machine that is no more", node.name)));
        };
        // No failover is to be had: whoever has data is the node, else it begins anew.
        let others = self.fleet.machines(&wanted.name, &node.name).into_iter().filter(|other| *other != host);
        let full = |other: &HostId| {
            !stood_down(&self.world, *other) && self.world.disk(*other, |disk| !disk.files.is_empty())
        };
        let others: Vec<HostId> = others.filter(full).collect();
        if let Some(other) = others.first() {
            self.world.order(Order::Retire(host));
            self.world.order(Order::Start(*other));
            return Ok(Some(format!("{} goes, for another has the data", node.name)));
        }
        let blocks = vec![self.chance.below(BLOCKS)];
        self.world.disk(host, |disk| (disk.half = None, disk.files = [("anew".to_owned(), blocks)].into()));
        Ok(Some(format!("{} begins anew: {}", node.name, plan.refusals.join("; "))))
    }

    /// Machines that have lost their place are used again, those that are gone come back, and of two for one node one
    /// goes.
    fn machines(&mut self, wanted: &Wanted, nodes: &[v1::Node], back: bool) -> Option<String> {
        for host in self.fleet.machines_of(&wanted.name) {
            if stood_down(&self.world, host) {
                let frozen = self.world.disk(host, |disk| disk.frozen.is_some());
                let order =
                    if self.fleet.roles[host].is_stored() { Order::Retire(host) } else { Order::Renew(host) };
                if !frozen {
                    self.world.order(order);
                }
                return Some(format!("{} has stood down; frozen: {frozen}", self.world.hosts[host]));
            }
        }
        let lost = lock(&self.world.lost).clone();
        if let Some(host) = self.fleet.machines_of(&wanted.name).into_iter().find(|host| lost.contains(host))
        {
            if back {
                self.world.order(Order::Start(host));
            }
            return Some(format!("{} is gone", self.world.hosts[host]));
        }
        if let Some(node) = nodes.iter().find(|node| !node.connected) {
            if back {
                let machines = self.fleet.machines(&wanted.name, &node.name);
                machines.iter().take(1).for_each(|host| self.world.order(Order::Start(*host)));
            }
            return Some(format!("{} is not connected", node.name));
        }
        let idle = |host: &HostId| {
            let here = instance(&self.world, *host);
            here.is_some() && !nodes.iter().any(|node| Some(&node.instance) == here.as_ref())
        };
        let named = |host: &HostId| {
            nodes.iter().any(|node| self.fleet.machines(&wanted.name, &node.name).contains(host))
        };
        let machines = self.fleet.machines_of(&wanted.name);
        let idle: Vec<HostId> = machines.into_iter().filter(|host| named(host) && idle(host)).collect();
        let host = *idle.first()?;
        if shut_out(&self.world, &wanted.name, host) {
            self.untold += 1;
            if self.untold > TOLD {
                let what = format!("{} is shut out, and is not told to stand down", self.world.hosts[host]);
                self.world.violate(Invariant::OnePlace, what);
            }
            return Some(format!("{} has not stood down", self.world.hosts[host]));
        }
        self.world.order(Order::Retire(host));
        Some(format!("{} is one too many", self.world.hosts[host]))
    }

    /// What took a place is no spare any more, and what has lost one may be.
    async fn file(&mut self, wanted: &Wanted, mut service: v1::Service) -> Result<Option<String>> {
        let known: BTreeSet<String> = service.nodes.iter().map(|node| node.name.clone()).collect();
        let Some(lost) = wanted.nodes.iter().find(|node| !known.contains(*node)).cloned() else {
            return Ok(None);
        };
        service.nodes.push(v1::NodeSpec { name: lost.clone(), spare: true, ..Default::default() });
        let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
        self.ask(async |mut c| c.apply_service(request.clone()).await).await?;
        for host in self.fleet.machines(&wanted.name, &lost) {
            let order =
                if self.fleet.roles[host].is_stored() { Order::Retire(host) } else { Order::Start(host) };
            self.world.order(order);
        }
        Ok(Some(format!("{lost} is a spare from now on")))
    }

    /// Whose agent is the node's.
    pub(crate) fn machine(&self, service: &str, node: &v1::Node) -> Option<HostId> {
        let machines = self.fleet.machines(service, &node.name);
        machines.into_iter().find(|host| instance(&self.world, *host).as_deref() == Some(&node.instance))
    }

    /// An operator orders a failover: mostly of a node that needs one.
    pub(crate) async fn fail_over(&mut self, wanted: &Wanted) -> Result<()> {
        let Standing { nodes, .. } = self.standing(&wanted.name).await?;
        let unwell: Vec<&v1::Node> = nodes.iter().filter(|node| !node.connected || node.data_empty).collect();
        let any: Vec<&v1::Node> = nodes.iter().collect();
        let of = if unwell.is_empty() || self.chance.percent(10) { any } else { unwell };
        let node = self.chance.pick(&of).ok_or_else(|| Error::not_found("a node"))?.name.clone();
        let request = v1::FailoverRequest { service: wanted.name.clone(), node, ..Default::default() };
        self.ask(async |mut c| c.apply_failover(request.clone()).await).await.map(drop)
    }
}
