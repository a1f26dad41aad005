//! For tests: a coordinator that hands its sessions to the test.
use std::net::SocketAddr;
use std::pin::Pin;

use palinurus_proto::v1::agent_message::Message as FromAgent;
use palinurus_proto::v1::coordinator_message::Message as ToAgent;
use palinurus_proto::v1::fleet_server::{Fleet, FleetServer};
use palinurus_proto::v1::{self, AgentMessage, CoordinatorMessage, TaskState};
use palinurus_repository::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Outgoing = Pin<Box<dyn futures::Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

pub(crate) struct Coordinator {
    address: SocketAddr,
    sessions: mpsc::Receiver<Far>,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

/// The far end of a session.
pub(crate) struct Far {
    incoming: Streaming<AgentMessage>,
    out: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    pub(crate) hello: v1::Hello,
}

struct Service(mpsc::Sender<Far>);

#[tonic::async_trait]
impl Fleet for Service {
    type SessionStream = Outgoing;
    type ClaimStream = Pin<Box<dyn futures::Stream<Item = Result<v1::ClaimReply, Status>> + Send>>;
    type LogStream = Pin<Box<dyn futures::Stream<Item = Result<v1::LogReply, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Outgoing>, Status> {
        let mut incoming = request.into_inner();
        let Some(FromAgent::Hello(hello)) = incoming.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (out, outgoing) = mpsc::channel(16);
        self.0
            .send(Far { incoming, out, hello })
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn claim(
        &self,
        _: Request<Streaming<v1::ClaimRequest>>,
    ) -> Result<Response<Self::ClaimStream>, Status> {
        Err(Status::unimplemented("no claims here"))
    }

    async fn log(&self, _: Request<Streaming<v1::LogRequest>>) -> Result<Response<Self::LogStream>, Status> {
        Err(Status::unimplemented("no logs here"))
    }
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(4);
        let server = tonic::transport::Server::builder()
            .add_service(FleetServer::new(Service(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, sessions, _server: tokio_util::task::AbortOnDropHandle::new(server) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn session(&mut self) -> Far {
        self.sessions.recv().await.unwrap()
    }

    pub(crate) async fn welcomed(&mut self, epoch: u64) -> Far {
        let far = self.session().await;
        far.say(epoch, ToAgent::Welcome(v1::Welcome { heartbeat_seconds: 1, ..Default::default() })).await;
        far
    }
}

impl Far {
    pub(crate) async fn say(&self, epoch: u64, message: ToAgent) {
        self.out.send(Ok(CoordinatorMessage { epoch, message: Some(message) })).await.unwrap();
    }

    pub(crate) async fn refuse(&self, error: &Error, leader: &str) {
        let failure = Some(palinurus_proto::failure(error));
        self.say(0, ToAgent::Refused(v1::Refused { failure, leader: leader.into(), ..Default::default() }))
            .await;
    }

    pub(crate) async fn send_away(&self, epoch: u64) {
        let failure = Some(palinurus_proto::failure(&Error::fenced("another agent is n1")));
        let refused = v1::Refused { failure, stand_down: true, ..Default::default() };
        self.say(epoch, ToAgent::Refused(refused)).await;
    }

    /// As a coordinator that stands by while nobody leads.
    pub(crate) async fn leaderless(&self) {
        let mut status = palinurus_proto::to_status(&Error::unavailable("nobody leads"));
        status
            .metadata_mut()
            .insert(palinurus_proto::LEADER, tonic::metadata::MetadataValue::from_static(""));
        self.out.send(Err(status)).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Option<FromAgent> {
        self.incoming.message().await.ok().flatten().and_then(|message| message.message)
    }

    /// The next report in one of the states.
    pub(crate) async fn report(&mut self, states: &[TaskState]) -> v1::TaskReport {
        loop {
            match self.hear().await.expect("the session ended") {
                FromAgent::Report(report) if states.contains(&report.state()) => return report,
                _ => {}
            }
        }
    }
}
