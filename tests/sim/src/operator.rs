//! Who asks for things while all goes wrong, and who looks, when all is well again, whether it all ends.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use palinurus_proto::from_status;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::v1::log_target::Target;
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::{Error, ErrorKind, Result};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::chance::Chance;
use crate::fleet::{Fleet, Wanted, channel};
use crate::invariant::Invariant;
use crate::log;
use crate::mover::BLOCKS;
use crate::network;
use crate::place;
use crate::store::SCHEME;
use crate::world::{self, HostId, Order, World, lock, pause, trace};

const ANSWER: Duration = Duration::from_secs(4);
/// What a fleet that is well has for ending whatever it does.
const SETTLED: u64 = 240_000;

/// What an operation that needs a node which is gone for good may take.
const FORSAKEN: u64 = 90_000;

pub(crate) struct Operator {
    pub(crate) world: Arc<World>,
    pub(crate) fleet: Arc<Fleet>,
    /// All is well from here on.
    pub(crate) healed: Arc<AtomicBool>,
    pub(crate) chance: Chance,
    failovers: Chance,
    logs: Chance,
    /// Looks at agents that are shut out and do not know it.
    pub(crate) untold: usize,
    clients: Vec<CoordinatorClient<Channel>>,
    at: usize,
}

impl Operator {
    pub(crate) fn new(
        world: &Arc<World>,
        host: HostId,
        fleet: &Arc<Fleet>,
        healed: &Arc<AtomicBool>,
    ) -> Self {
        let coordinators = fleet.coordinators();
        let channels = coordinators.iter().filter_map(|id| channel(world, host, network::address(*id)));
        Self {
            world: world.clone(),
            fleet: fleet.clone(),
            healed: healed.clone(),
            chance: world.chance.named("operator"),
            failovers: world.chance.named("failovers"),
            logs: world.chance.named("logs"),
            untold: 0,
            clients: channels.map(CoordinatorClient::new).collect(),
            at: 0,
        }
    }

    pub(crate) async fn run(mut self) -> Result<()> {
        while !self.healed.load(Ordering::SeqCst) {
            self.apply_all().await;
            let wait = self.chance.between(100, 2500);
            pause(wait).await;
            self.written();
            if let Err(e) = self.act().await {
                trace(&format!("told: {}", e.chain()));
            }
        }
        self.finale().await;
        Ok(())
    }

    /// Asks whoever leads.
    pub(crate) async fn ask<T, F>(&mut self, ask: impl Fn(CoordinatorClient<Channel>) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut last = Error::unavailable("there is no coordinator");
        for _ in 0..self.clients.len() {
            let client = self.clients[self.at % self.clients.len()].clone();
            match tokio::time::timeout(ANSWER, ask(client)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => last = from_status(status),
                Err(_) => last = Error::unavailable("no answer"),
            }
            if !matches!(last.kind(), ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Internal) {
                break;
            }
            self.at += 1;
        }
        Err(last)
    }

    /// Services that are not there, because they never were or because the state was lost.
    pub(crate) async fn apply_all(&mut self) {
        let Ok(known) = self.ask(async |mut c| c.list_services(v1::ListServicesRequest {}).await).await
        else {
            return;
        };
        let known: BTreeSet<String> = known.services.into_iter().map(|service| service.name).collect();
        for Wanted { name, nodes, spare, settings, .. } in self.fleet.services.clone() {
            if known.contains(&name) {
                continue;
            }
            let named =
                |name: &String, spare| v1::NodeSpec { name: name.clone(), spare, ..Default::default() };
            let nodes = nodes.iter().map(|node| named(node, false));
            let service = v1::Service {
                name: name.clone(),
                r#type: "files".to_owned(),
                repository: format!("{SCHEME}{name}"),
                nodes: nodes.chain(spare.iter().map(|node| named(node, true))).collect(),
                // What begins by itself would be under way when the run is judged.
                settings: settings
                    .into_iter()
                    .chain([("retention_interval".to_owned(), "off".to_owned())])
                    .collect(),
                ..Default::default()
            };
            let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
            if let Err(e) = self.ask(async |mut c| c.apply_service(request.clone()).await).await {
                trace(&format!("not applied: {}", e.chain()));
            }
        }
    }

    async fn act(&mut self) -> Result<()> {
        let services = self.fleet.services.clone();
        let Some(wanted) = self.chance.pick(&services).cloned() else { return Ok(()) };
        if self.failovers.percent(if wanted.mode() == "off" { 1 } else { 8 }) {
            return self.fail_over(&wanted).await;
        }
        let Wanted { name: service, nodes, .. } = wanted;
        match self.chance.below(100) {
            0..=34 => {
                let full = self.chance.percent(20);
                self.backup(&service, full).await.map(drop)
            }
            35..=42 => self.cancel(&service).await,
            43..=57 => self.delete(&service).await,
            58..=66 => {
                let read_data = self.chance.percent(40);
                self.check(&service, read_data).await.map(drop)
            }
            67..=79 => {
                let Some(node) = self.chance.pick(&nodes).cloned() else { return Ok(()) };
                let delta = self.chance.percent(40);
                if let Some(host) = self.at_work(&service, &node).filter(|_| !delta) {
                    trace(&format!("the disk of {} is emptied", self.world.hosts[host]));
                    self.world.disk(host, |disk| {
                        (disk.files.clear(), disk.half = None, disk.restored = None, disk.wal = None)
                    });
                    let look = self.chance.between(10, 7000);
                    pause(look).await;
                }
                self.restore(&service, &node, delta).await
            }
            _ => {
                let mut chance = self.chance.named("disks");
                self.chance.draw();
                for host in nodes.iter().filter_map(|node| self.at_work(&service, node)) {
                    // Somebody may use a machine that has nothing yet.
                    let used = self.world.disk(host, |disk| !disk.files.is_empty()) || chance.percent(15);
                    if used {
                        self.world.disk(host, |disk| disk.change(&mut chance, BLOCKS));
                    }
                }
                Ok(())
            }
        }
    }

    /// Databases write, whoever asks for what.
    fn written(&mut self) {
        let fleet = self.fleet.clone();
        for wanted in fleet.services.iter().filter(|wanted| wanted.logged) {
            let hosts = fleet.machines_of(&wanted.name);
            log::happens(&self.world, &wanted.name, &hosts, &mut self.logs);
        }
    }

    /// The machine that has the node's seat, as the state says; else the first.
    fn at_work(&self, service: &str, node: &str) -> Option<HostId> {
        let known = lock(&self.world.registry).value(&format!("node/{service}/{node}"));
        let known = known.and_then(|value| v1::Node::decode(value).ok());
        let machine = known.and_then(|known| self.machine(service, &known));
        machine.or_else(|| self.fleet.machines(service, node).first().copied())
    }

    async fn backup(&mut self, service: &str, full: bool) -> Result<v1::Operation> {
        let request = v1::StartBackupRequest { service: service.to_owned(), full };
        self.ask(async |mut c| c.start_backup(request.clone()).await).await
    }

    pub(crate) async fn operations(&mut self) -> Result<Vec<v1::Operation>> {
        let request = v1::ListOperationsRequest { running: true, ..Default::default() };
        Ok(self.ask(async |mut c| c.list_operations(request.clone()).await).await?.operations)
    }

    async fn cancel(&mut self, service: &str) -> Result<()> {
        let running = self.operations().await?;
        let Some(operation) = running.into_iter().find(|operation| operation.service == service) else {
            return Ok(());
        };
        let request = v1::GetOperationRequest { id: operation.id };
        self.ask(async |mut c| c.cancel_operation(request.clone()).await).await.map(drop)
    }

    async fn backups(&mut self, service: &str) -> Result<Vec<v1::Backup>> {
        let request = v1::ListBackupsRequest { service: service.to_owned() };
        Ok(self.ask(async |mut c| c.list_backups(request.clone()).await).await?.backups)
    }

    async fn delete(&mut self, service: &str) -> Result<()> {
        let backups = self.backups(service).await?;
        let Some(backup) = self.chance.pick(&backups).cloned() else { return Ok(()) };
        let request = v1::DeleteBackupRequest { service: service.to_owned(), backup: backup.id };
        self.ask(async |mut c| c.delete_backup(request.clone()).await).await.map(drop)
    }

    pub(crate) async fn check(&mut self, service: &str, read_data: bool) -> Result<v1::Operation> {
        let request = v1::CheckRepositoryRequest { service: service.to_owned(), read_data, percent: 0 };
        self.ask(async |mut c| c.check_repository(request.clone()).await).await
    }

    async fn restore(&mut self, service: &str, node: &str, delta: bool) -> Result<()> {
        let backups = self.backups(service).await?;
        let Some(backup) = self.chance.pick(&backups).cloned() else { return Ok(()) };
        let latest = v1::LogTarget { target: Some(Target::Latest(true)), ..Default::default() };
        let target = (self.fleet.is_logged(service) && self.logs.percent(60)).then_some(latest);
        let request = v1::RestoreRequest {
            service: service.to_owned(),
            backup: backup.id,
            nodes: vec![node.to_owned()],
            delta,
            target,
            ..Default::default()
        };
        self.ask(async |mut c| c.apply_restore(request.clone()).await).await.map(drop)
    }

    /// All is well: within bounded time everything ends, a backup succeeds, and nothing stays behind (I4, I5).
    async fn finale(&mut self) {
        trace("all is well from here on");
        let until = world::now() + SETTLED;
        for service in self.fleet.services.clone() {
            let ended = match self.mended(&service, until).await {
                Ok(()) => self.ends_well(&service.name, until).await,
                Err(what) => Err(what),
            };
            if let Err(what) = ended {
                self.world.violate(Invariant::I4Ends, format!("{}: {what}", service.name));
                return;
            }
        }
        self.left_nothing(until).await;
        self.logs_stored(until).await;
        if !self.world.broken() {
            self.listed().await;
        }
        if !self.world.broken() {
            crate::check::all(&self.world, &self.fleet);
        }
        let last = self.chance.below(100);
        if !self.world.broken() && last < 30 {
            self.damaged(until).await;
        } else if !self.world.broken() && last < 50 {
            self.forsaken().await;
        }
    }

    /// A node goes for good: what needs it ends all the same, and says so (I4).
    async fn forsaken(&mut self) {
        let agents: Vec<HostId> = self
            .fleet
            .agents()
            .into_iter()
            .filter(|host| place::instance(&self.world, *host).is_some())
            .collect();
        let Some(host) = self.chance.pick(&agents).copied() else { return };
        let Some(service) = self.world.hosts[host].split('.').next().map(str::to_owned) else { return };
        self.world.order(Order::Lose(host));
        pause(1000).await;
        let until = world::now() + FORSAKEN;
        let ended = match self.backup(&service, false).await {
            Ok(started) => self.ended(&started.id, until).await,
            // With more luck than needed: it is known to be gone.
            Err(_) => return,
        };
        if let Err(what) = ended {
            self.world.violate(Invariant::I4Ends, format!("{service}, without a node: {what}"));
        }
    }

    /// A check tells of every damage by the object's name, and nobody is served any of it (I7).
    async fn damaged(&mut self, until: u64) {
        for Wanted { name: service, .. } in self.fleet.services.clone() {
            let read_data = self.chance.percent(50);
            let mut chance = self.chance.named("damage");
            let Some(key) = crate::check::damage(&self.world, &service, &mut chance, !read_data) else {
                continue;
            };
            let started = self.check(&service, read_data).await;
            let ended = match started {
                Ok(started) => self.ended(&started.id, until).await,
                Err(e) => Err(e.chain()),
            };
            let told = ended.as_ref().is_ok_and(|ended| {
                let damages = ended.verify.iter().flat_map(|verify| &verify.damages);
                ended.state() == OperationState::Failed && damages.into_iter().any(|told| told.object == key)
            });
            if !told {
                let what = format!("{service}: damage in {key} is not told: {ended:?}");
                self.world.violate(Invariant::I7Damage, what);
            }
        }
        crate::check::i7_served(&self.world);
    }

    /// Backups that succeed, once what ran before has ended; then a sweep, so that only what is needed stays.
    async fn ends_well(&mut self, service: &str, until: u64) -> std::result::Result<(), String> {
        self.succeeds(service, until, async |this| this.backup(service, false).await).await?;
        self.succeeds(service, until, async |this| this.backup(service, true).await).await?;
        let oldest = self.backups(service).await.map_err(|e| e.chain())?.into_iter().next();
        let Some(oldest) = oldest else { return Err("the backup that succeeded is not listed".to_owned()) };
        let request = v1::DeleteBackupRequest { service: service.to_owned(), backup: oldest.id };
        self.succeeds(service, until, async |this| {
            match this.ask(async |mut c| c.delete_backup(request.clone()).await).await {
                // An answer was lost, and it is deleted.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(v1::Operation::default()),
                other => other,
            }
        })
        .await
    }

    /// Tries until it has succeeded.
    async fn succeeds(
        &mut self,
        service: &str,
        until: u64,
        start: impl AsyncFn(&mut Self) -> Result<v1::Operation>,
    ) -> std::result::Result<(), String> {
        let mut last = String::new();
        while world::now() < until {
            self.apply_all().await;
            match start(self).await {
                Ok(started) if started.id.is_empty() => return Ok(()),
                Ok(started) => match self.ended(&started.id, until).await? {
                    ended
                        if matches!(ended.state(), OperationState::Succeeded | OperationState::Warnings) =>
                    {
                        return Ok(());
                    }
                    ended => last = format!("{:?} {:?}", ended.state(), ended.failure),
                },
                Err(e) => last = e.chain(),
            }
            pause(700).await;
        }
        Err(format!("nothing succeeds on {service}: {last}"))
    }

    async fn ended(&mut self, id: &str, until: u64) -> std::result::Result<v1::Operation, String> {
        let request = v1::GetOperationRequest { id: id.to_owned() };
        let mut last = None;
        while world::now() < until {
            match self.ask(async |mut c| c.get_operation(request.clone()).await).await {
                Ok(operation) if operation.finished_ms > 0 => return Ok(operation),
                Ok(operation) => last = Some((operation.phase, operation.tasks.len())),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(format!("{id} is not known any more"));
                }
                Err(_) => {}
            }
            pause(300).await;
        }
        Err(format!("{id} does not end: {last:?}"))
    }

    /// Owed releases are given out when a node is back, which takes a moment.
    async fn left_nothing(&mut self, until: u64) {
        loop {
            let left = crate::check::left(&self.world, &self.fleet);
            if left.is_empty() {
                return;
            }
            if world::now() >= until {
                self.world.violate(Invariant::I5NothingLeft, left.join("; "));
                return;
            }
            pause(500).await;
        }
    }

    /// What a database has written is stored, and what is shown of it is true. Then nothing begins by itself any more.
    async fn logs_stored(&mut self, until: u64) {
        for Wanted { name: service, .. } in self.fleet.services.clone().into_iter().filter(|it| it.logged) {
            let hosts = self.fleet.machines_of(&service);
            let seated = |host: &HostId| {
                !place::shut_out(&self.world, &service, *host) && !place::stood_down(&self.world, *host)
            };
            let hosts: Vec<HostId> = hosts.into_iter().filter(seated).collect();
            loop {
                let owed = hosts.iter().find_map(|host| Some((*host, log::owed(&self.world, *host)?)));
                let Some((host, (stored, end))) =
                    owed.filter(|(host, _)| !lock(&self.world.lost).contains(host))
                else {
                    break;
                };
                if world::now() >= until {
                    let what =
                        format!("{} has written {end}, and {stored} of it is stored", self.world.hosts[host]);
                    return self.world.violate(Invariant::I4Ends, what);
                }
                pause(500).await;
            }
            let request = v1::ShowLogsRequest { service: service.clone() };
            match self.ask(async |mut c| c.show_logs(request.clone()).await).await {
                Ok(logs) => log::shown(&self.world, &service, &logs),
                Err(e) => return self.world.violate(Invariant::I4Ends, format!("no logs: {}", e.chain())),
            }
        }
        while world::now() < until
            && lock(&self.world.registry).operations().iter().any(|it| it.finished_ms == 0)
        {
            pause(500).await;
        }
    }

    /// What the coordinator lists is what the ledger says (I9).
    async fn listed(&mut self) {
        for Wanted { name: service, .. } in self.fleet.services.clone() {
            let listed = match self.backups(&service).await {
                Ok(listed) => listed.into_iter().map(|backup| backup.id).collect::<Vec<_>>(),
                Err(e) => return self.world.violate(Invariant::I4Ends, format!("no list: {}", e.chain())),
            };
            let key = &self.world.key;
            let known = lock(&self.world.vaults).get_mut(&format!("{SCHEME}{service}")).and_then(|vault| {
                vault.read(key, |state| {
                    state.backups().map(|backup| backup.id.to_string()).collect::<Vec<_>>()
                })
            });
            if known.as_ref() != Some(&listed) {
                let what = format!("{service}: listed {listed:?}, there are {known:?}");
                self.world.violate(Invariant::I9Listed, what);
            }
        }
    }
}
