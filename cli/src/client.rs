//! Dialling the coordinators, and finding the one that leads.
use std::time::Duration;

use palinurus_identity::Dialer;
use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::{LEADER, from_status, is_answer, to_status, v1};
use palinurus_repository::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::Global;
use crate::output::Output;

mod address;
mod credentials;
mod file;

use address::Address;
use credentials::{Bearer, Credentials};
pub(crate) use file::File;

const MESSAGE_MAX: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// Finds a connection whose other end is gone, or is paused.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// One coordinator names the next; they may disagree for a moment.
const HOPS: u32 = 3;
/// For an election to end.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Whether asking again is safe when it is not known what became of the first time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Safe,
    Unsafe,
}

/// Speaks to one of the coordinators, and goes over to the leader when it must.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    servers: Vec<Address>,
    credentials: Credentials,
    output: Output,
    at: Address,
    inner: Inner,
}

type Inner = CoordinatorClient<InterceptedService<Channel, Bearer>>;

/// Connects now, so that a wrong address is said before anything else is done.
pub(crate) async fn connect(global: &Global) -> Result<Client> {
    let output = Output::new(global.json, global.no_progress);
    Client::open(Credentials::of(global)?, output).await
}

/// A coordinator on this machine that encrypts nothing, as was asked for.
pub(crate) async fn dial(server: &str) -> Result<Client> {
    Client::open(Credentials::none(server), Output::new(true, true)).await
}

/// All that the service offers, each to whoever leads.
macro_rules! calls {
    ($($again:ident $call:ident($request:ident) -> $reply:ty;)*) => {
        #[allow(dead_code)] // what no command asks for yet
        impl Client { $(
            pub(crate) async fn $call(&mut self, request: v1::$request) -> Result<Response<$reply>, Status> {
                self.call(Again::$again, request, async |mut client, request| client.$call(request).await).await
            }
        )* }
    };
}

calls! {
    Safe apply_service(ApplyServiceRequest) -> v1::Service;
    Safe list_services(ListServicesRequest) -> v1::ListServicesReply;
    Safe get_service(GetServiceRequest) -> v1::Service;
    Safe list_nodes(ListNodesRequest) -> v1::ListNodesReply;
    Unsafe start_backup(StartBackupRequest) -> v1::Operation;
    Safe list_backups(ListBackupsRequest) -> v1::ListBackupsReply;
    Safe get_backup(GetBackupRequest) -> v1::Backup;
    Unsafe delete_backup(DeleteBackupRequest) -> v1::Operation;
    Safe plan_retention(RetentionRequest) -> v1::RetentionPlan;
    Unsafe apply_retention(RetentionRequest) -> v1::Operation;
    Safe pin_backup(PinBackupRequest) -> v1::Backup;
    Unsafe unpin_backup(UnpinBackupRequest) -> v1::Backup;
    Safe hold_backup(HoldBackupRequest) -> v1::Backup;
    Unsafe unhold_backup(UnholdBackupRequest) -> v1::Backup;
    Safe plan_restore(RestoreRequest) -> v1::RestorePlan;
    Unsafe apply_restore(RestoreRequest) -> v1::Operation;
    Unsafe start_drill(StartDrillRequest) -> v1::Operation;
    Safe plan_failover(FailoverRequest) -> v1::FailoverPlan;
    Unsafe apply_failover(FailoverRequest) -> v1::Operation;
    Unsafe check_repository(CheckRepositoryRequest) -> v1::Operation;
    Unsafe repair_repository(RepairRepositoryRequest) -> v1::Operation;
    Safe list_operations(ListOperationsRequest) -> v1::ListOperationsReply;
    Safe get_operation(GetOperationRequest) -> v1::Operation;
    Safe watch_operation(GetOperationRequest) -> Streaming<v1::Operation>;
    Safe cancel_operation(GetOperationRequest) -> v1::Operation;
    Safe list_plans(ListPlansRequest) -> v1::ListPlansReply;
    Safe get_cluster(GetClusterRequest) -> v1::Cluster;
    Safe show_logs(ShowLogsRequest) -> v1::Logs;
    Safe power_off(PowerOffRequest) -> v1::Service;
    Safe power_on(PowerOnRequest) -> v1::Service;
    Safe delete_service(DeleteServiceRequest) -> v1::Service;
    Safe set_limits(SetLimitsRequest) -> v1::ListNodesReply;
}

impl Client {
    async fn open(credentials: Credentials, output: Output) -> Result<Self> {
        let servers = Address::list(&credentials.server)?;
        let (at, inner) = first(&servers, &credentials).await?;
        Ok(Self { servers, credentials, output, at, inner })
    }

    async fn call<Q: Clone, A>(
        &mut self,
        again: Again,
        request: Q,
        send: impl AsyncFn(Inner, Q) -> Result<Response<A>, Status>,
    ) -> Result<Response<A>, Status> {
        let mut hops = 0;
        let mut until = None;
        loop {
            let status = match send(self.inner.clone(), request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if let Some(unwanted) = self.unwanted(&status) {
                return Err(to_status(&unwanted));
            }
            let leader =
                status.metadata().get(LEADER).map(|named| named.to_str().unwrap_or_default().to_owned());
            match leader.as_deref() {
                Some(named) if !named.is_empty() && hops < HOPS => {
                    hops += 1;
                    let leader = self.at.leader(named).map_err(|e| to_status(&e))?;
                    if let Ok(inner) = reach(&leader, &self.credentials).await {
                        (self.at, self.inner) = (leader, inner);
                        continue;
                    }
                }
                Some(_) => {}
                None if !is_broken(&status) => return Err(status),
                None if again == Again::Unsafe => return Err(in_doubt(status)),
                None => {}
            }
            // Nobody leads, or the leader is only just gone: whoever is next will say so.
            let until = *until.get_or_insert_with(|| {
                self.output.note("waiting for a coordinator that leads");
                Instant::now() + PATIENCE
            });
            if Instant::now() >= until {
                return Err(status);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            hops = 0;
            self.next().await;
        }
    }

    /// Asking again would not help: they do not want us, or one of us speaks TLS and the other does not.
    fn unwanted(&self, status: &Status) -> Option<Error> {
        if is_answer(status) {
            return None;
        }
        let refused = self.credentials.tls.as_ref().and_then(Dialer::refusal);
        let encrypted = || {
            status_says(status, "speaks TLS").then(|| {
                Error::invalid(format!("the coordinator at {} encrypts what it says", self.at)).with_hint(
                    "write https://, and say who you are with --ca, --cert and --cert-key, or --token-file",
                )
            })
        };
        refused.or_else(encrypted)
    }

    /// Another one of those that the operator named, or the same if no other answers.
    async fn next(&mut self) {
        let at = self.servers.iter().position(|server| *server == self.at);
        let turn = at.map_or(0, |at| (at + 1) % self.servers.len());
        self.servers.rotate_left(turn);
        if let Ok((at, inner)) = first(&self.servers, &self.credentials).await {
            (self.at, self.inner) = (at, inner);
        }
    }

    /// Goes over to the leader where that can be reached: others see less of what runs.
    pub(crate) async fn find_leader(&mut self) -> Result<()> {
        let cluster = self.get_cluster(v1::GetClusterRequest {}).await.map_err(from_status)?.into_inner();
        if cluster.leader == cluster.answered_by || cluster.address.is_empty() {
            return Ok(());
        }
        let leader = self.at.leader(&cluster.address)?;
        let inner = reach(&leader, &self.credentials).await?;
        (self.at, self.inner) = (leader, inner);
        Ok(())
    }
}

fn status_says(status: &Status, text: &str) -> bool {
    from_status(status.clone()).chain().contains(text)
}

/// The connection broke, whatever became of the call.
fn is_broken(status: &Status) -> bool {
    !is_answer(status) && from_status(status.clone()).kind() == ErrorKind::Unavailable
}

/// What was asked for may have begun: asking again is the operator's to decide.
fn in_doubt(status: Status) -> Status {
    let error = Error::unavailable("no answer came, and it may have begun all the same")
        .with_source(from_status(status).chain())
        .with_hint("see `palinurus operation list` before you ask again");
    to_status(&error)
}

/// The first that answers.
async fn first(servers: &[Address], credentials: &Credentials) -> Result<(Address, Inner)> {
    let mut last = None;
    for server in servers {
        match reach(server, credentials).await {
            Ok(client) => return Ok((server.clone(), client)),
            Err(e) => last = Some(e),
        }
    }
    match (servers, last) {
        ([_], Some(e)) => Err(e),
        (all, _) => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            Err(Error::unavailable(format!("no coordinator answers at {}", all.join(", ")))
                .with_hint("see whether they run, or name others with --server"))
        }
    }
}

async fn reach(server: &Address, credentials: &Credentials) -> Result<Inner> {
    let tune = |endpoint: Endpoint| {
        endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE)
    };
    let channel = match &credentials.tls {
        Some(tls) if server.is_encrypted() => {
            tls.connect(&server.uri, tune).await.map_err(|e| match e.hint() {
                Some(_) => e,
                None => e.with_hint("see whether it runs (`palinurus up`?), or name another with --server"),
            })?
        }
        _ => tune(Endpoint::from(server.uri.clone())).connect().await.map_err(|error| {
            Error::unavailable(format!("no coordinator answers at {server}"))
                .with_source(error)
                .with_hint("start one with `palinurus up --data DIR`, or name another with --server")
        })?,
    };
    // What is not encrypted sees no token.
    let bearer =
        if server.is_encrypted() { credentials.bearer()? } else { Credentials::none("").bearer()? };
    let client = CoordinatorClient::with_interceptor(channel, bearer);
    Ok(client.max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
}

/// The named service, or the only one there is.
pub(crate) async fn service(client: &mut Client, named: Option<String>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name);
    }
    let reply = client.list_services(v1::ListServicesRequest {}).await.map_err(from_status)?.into_inner();
    let mut names = reply.services.into_iter().map(|service| service.name);
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::not_found("the coordinator has no service yet")
            .with_hint("describe one in a file and run `palinurus service apply FILE`")),
        (Some(_), Some(_)) => Err(Error::invalid("the coordinator has several services")
            .with_hint("say which with --service; `palinurus service list` shows them")),
    }
}

#[cfg(test)]
mod tests;
