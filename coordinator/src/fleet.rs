//! What agents call: their session, their claims and their logs.
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use palinurus_proto::v1::fleet_server::Fleet;
use palinurus_proto::v1::{self, agent_message, claim_request, coordinator_message, log_reply, log_request};
use palinurus_proto::{PROTOCOL, failure, from_status, to_status};
use palinurus_repository::{Error, ErrorKind, Result, TransactionId};
use ractor::ActorRef;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::access::Caller;
use crate::actor::agent::{AgentMsg, IN_FLIGHT, OUTBOUND, Outbound};
use crate::actor::ask;
use crate::actor::coordinator::CoordinatorMsg;
use crate::actor::service::{Admission, Connect, ServiceMsg};
use crate::bound;
use crate::claim::stream;
use crate::door::{Door, Elsewhere, Lead};
use crate::logs;

/// Who has connected says at once who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Answers to claims that wait for their agent to read them.
const REPLIES: usize = 4;

#[derive(Clone, Debug)]
pub(crate) struct FleetService {
    pub(crate) door: Door,
    pub(crate) cancel: CancellationToken,
}

#[tonic::async_trait]
impl Fleet for FleetService {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;
    type ClaimStream = ReceiverStream<Result<v1::ClaimReply, Status>>;
    type LogStream = ReceiverStream<Result<v1::LogReply, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, outgoing) = mpsc::channel(OUTBOUND);
        let (fleet, caller) = (self.clone(), caller(&request)?);
        tokio::spawn(async move { fleet.serve_session(caller, request.into_inner(), outbound).await });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn claim(
        &self,
        request: Request<Streaming<v1::ClaimRequest>>,
    ) -> Result<Response<Self::ClaimStream>, Status> {
        let (fleet, caller) = (self.clone(), caller(&request)?);
        // When the node is gone, what it said before is still taken in.
        Ok(self.replying(|replies| async move {
            fleet.serve_claim(&caller, request.into_inner(), &replies).await
        }))
    }

    async fn log(
        &self,
        request: Request<Streaming<v1::LogRequest>>,
    ) -> Result<Response<Self::LogStream>, Status> {
        let (fleet, caller) = (self.clone(), caller(&request)?);
        Ok(self.replying(
            |replies| async move { fleet.serve_log(&caller, request.into_inner(), &replies).await },
        ))
    }
}

impl FleetService {
    /// Serves a stream beside the session until it ends or this leader does; the error that ends it is the last reply.
    fn replying<T, F>(
        &self,
        serve: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Response<ReceiverStream<Result<T, Status>>>
    where
        T: Send + 'static,
        F: Future<Output = palinurus_repository::Result<()>> + Send + 'static,
    {
        let (replies, outgoing) = mpsc::channel(REPLIES);
        let (served, cancel) = (serve(replies.clone()), self.cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                ended = served => {
                    if let Err(e) = ended {
                        tracing::info!(error = e.chain(), "a stream beside a session ends");
                        let _ = replies.send(Err(to_status(&e))).await;
                    }
                }
            }
        });
        Response::new(ReceiverStream::new(outgoing))
    }

    async fn serve_session(
        &self,
        caller: Caller,
        mut inbound: Streaming<v1::AgentMessage>,
        outbound: Outbound,
    ) {
        let over = CancellationToken::new();
        let hello = hello(&mut inbound).await;
        // Before anything else is said: also who leads is not for everybody.
        if let Ok(hello) = &hello
            && let Err(e) = caller.speaks_for(&hello.service, &hello.node)
        {
            tracing::warn!(error = e.chain(), "refused an agent");
            let _ = outbound.send(refusal(&e)).await;
            return;
        }
        // Asked after the hello: who leads may have changed meanwhile.
        let lead = match self.door.lead() {
            Ok(lead) => lead,
            Err(elsewhere) => {
                let _ = outbound.send(follow(&elsewhere)).await;
                return;
            }
        };
        let admitted = async {
            let hello = hello?;
            let service = service(&lead, &hello.service).await?;
            let connect = Box::new(Connect {
                hello,
                spare: caller.is_spare(),
                outbound: outbound.clone(),
                over: over.clone(),
            });
            ask(&service, |to| ServiceMsg::Connect(connect, to)).await
        };
        let agent = match admitted.await {
            Ok(Admission::Seated(agent)) => agent,
            Ok(Admission::StandDown { epoch, why }) => {
                let _ = outbound.send(Ok(stand_down(epoch, &why))).await;
                return;
            }
            Err(e) => {
                tracing::info!(error = e.chain(), "refused an agent");
                let _ = outbound.send(refusal(&e)).await;
                return;
            }
        };
        drop(outbound); // the actor's is the last: when it ends, so does the stream
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        loop {
            let next = async {
                // What is being handled comes first: an agent that says more than is taken in has to wait.
                let permit = room.clone().acquire_owned().await;
                (permit, inbound.message().await)
            };
            let (permit, heard) = tokio::select! {
                biased;
                () = lead.shared.cancel.cancelled() => return,
                () = over.cancelled() => return,
                next = next => next,
            };
            let Ok(permit) = permit else { return };
            let message = match heard {
                Ok(Some(mut message)) => match bound::message(&mut message) {
                    Ok(()) => AgentMsg::Heard(Box::new(message), permit),
                    Err(e) => AgentMsg::Ended(format!("it does not keep to the protocol: {}", e.chain())),
                },
                // Not a goodbye: a broken connection may end like this too.
                Ok(None) => AgentMsg::Ended("its stream ended".to_owned()),
                Err(e) => AgentMsg::Ended(format!("its stream broke: {}", from_status(e).chain())),
            };
            let last = matches!(message, AgentMsg::Ended(_));
            if agent.cast(message).is_err() || last {
                return;
            }
        }
    }

    async fn serve_claim(
        &self,
        caller: &Caller,
        mut requests: Streaming<v1::ClaimRequest>,
        replies: &stream::Replies,
    ) -> Result<()> {
        let first = tokio::time::timeout(HELLO_WITHIN, requests.message()).await;
        let first = first.map_err(|_| Error::unavailable("the claim stream was not opened in time"))?;
        let Some(claim_request::Message::Open(open)) =
            first.map_err(from_status)?.and_then(|first| first.message)
        else {
            return Err(Error::invalid("a claim stream begins with `open`"));
        };
        caller.speaks_for(&open.service, &open.node)?;
        // A claim stream follows its session: while nobody leads here, there is nobody to ask.
        let lead = self.door.lead().map_err(|elsewhere| {
            Error::unavailable("this coordinator does not lead").with_source(elsewhere.error().chain())
        })?;
        let answering = async {
            let service = service(&lead, &open.service).await?;
            let transaction = TransactionId::from_slice(&open.transaction)?;
            let node = open.node.clone();
            let vault = ask(&service, |to| ServiceMsg::Claim(open, to)).await?;
            let (claims, _) = vault.claims(transaction).await?;
            stream::run(claims.join(&node), requests, replies, vault.blocking).await
        };
        tokio::select! {
            biased;
            () = lead.shared.cancel.cancelled() => Err(Error::unavailable("this coordinator leads no longer")),
            answered = answering => answered,
        }
    }
}

impl FleetService {
    async fn serve_log(
        &self,
        caller: &Caller,
        mut requests: Streaming<v1::LogRequest>,
        replies: &logs::stream::Replies,
    ) -> Result<()> {
        let first = tokio::time::timeout(HELLO_WITHIN, requests.message()).await;
        let first = first.map_err(|_| Error::unavailable("the log stream was not opened in time"))?;
        let Some(log_request::Message::Open(open)) =
            first.map_err(from_status)?.and_then(|first| first.message)
        else {
            return Err(Error::invalid("a log stream begins with `open`"));
        };
        bound::log_open(&open)?;
        caller.speaks_for(&open.service, &open.node)?;
        // As a claim stream, it follows its session.
        let lead = self.door.lead().map_err(|elsewhere| {
            Error::unavailable("this coordinator does not lead").with_source(elsewhere.error().chain())
        })?;
        let serving = async {
            let service = service(&lead, &open.service).await?;
            let place = match ask(&service, |to| ServiceMsg::Log(open.clone(), to)).await {
                // It is off: what was granted before is over too.
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    let message = Some(log_reply::Message::Revoked(failure(&e)));
                    let _ = replies.send(Ok(v1::LogReply { epoch: 0, message })).await;
                    return Ok(());
                }
                place => place?,
            };
            let backup = |why| drop(service.cast(ServiceMsg::WantBackup(why)));
            let may = |open: v1::LogOpen| {
                let service = service.clone();
                async move {
                    bound::log_open(&open)?;
                    Ok(ask(&service, |to| ServiceMsg::Log(open, to)).await?.node_epoch)
                }
                .boxed()
            };
            let stream = logs::stream::Stream {
                desk: place.vault.logs.clone(),
                number: place.vault.logs.begins(),
                epoch: place.vault.epoch.0,
                repository: place.repository,
                clock: lead.shared.world.clock.clone(),
                replies,
                backup: &backup,
                may: &may,
            };
            Box::pin(stream.run(open, requests)).await
        };
        tokio::select! {
            biased;
            () = lead.shared.cancel.cancelled() => Err(Error::unavailable("this coordinator leads no longer")),
            served = serving => served,
        }
    }
}

/// Whom the guard let in.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let known = request.extensions().get::<Caller>().cloned();
    known.ok_or_else(|| to_status(&Error::internal("a call that no guard has seen")))
}

async fn service(lead: &Lead, name: &str) -> Result<ActorRef<ServiceMsg>> {
    ask(&lead.root, |to| CoordinatorMsg::Find(name.to_owned(), to)).await
}

/// The agent dials the leader it is told of, or, where none is known, the next coordinator.
fn follow(elsewhere: &Elsewhere) -> Result<v1::CoordinatorMessage, Status> {
    let Some(leader) = &elsewhere.leader else { return Err(elsewhere.clone().into()) };
    let refused = v1::Refused {
        failure: Some(failure(&elsewhere.error())),
        leader: leader.address.clone(),
        ..Default::default()
    };
    Ok(v1::CoordinatorMessage { epoch: 0, message: Some(coordinator_message::Message::Refused(refused)) })
}

/// Under the leader's epoch: a coordinator whose time is over must not send an agent away for good.
fn stand_down(epoch: u64, why: &Error) -> v1::CoordinatorMessage {
    let refused = v1::Refused { failure: Some(failure(why)), stand_down: true, ..Default::default() };
    v1::CoordinatorMessage { epoch, message: Some(coordinator_message::Message::Refused(refused)) }
}

/// A refusal is for the operator to mend; what passes by itself is a broken stream, and the agent redials.
fn refusal(error: &Error) -> Result<v1::CoordinatorMessage, Status> {
    if error.kind() == ErrorKind::Unavailable {
        return Err(to_status(error));
    }
    let refused = v1::Refused { failure: Some(failure(error)), ..Default::default() };
    Ok(v1::CoordinatorMessage { epoch: 0, message: Some(coordinator_message::Message::Refused(refused)) })
}

async fn hello(inbound: &mut Streaming<v1::AgentMessage>) -> Result<v1::Hello> {
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await;
    let first = first.map_err(|_| Error::unavailable("it did not say who it is in time"))?;
    match first.map_err(from_status)?.and_then(|first| first.message) {
        Some(agent_message::Message::Hello(mut hello)) => {
            bound::hello(&mut hello)?;
            speaks(&hello)?;
            Ok(hello)
        }
        _ => Err(Error::invalid("a session begins with `hello`")),
    }
}

fn speaks(hello: &v1::Hello) -> Result<()> {
    if hello.protocol >= PROTOCOL {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "agent {} of version {:?} speaks version {} of the protocol, and this coordinator needs {PROTOCOL}",
        hello.instance, hello.version, hello.protocol
    ))
    .with_hint("install the agent of the coordinator's version on this node"))
}
