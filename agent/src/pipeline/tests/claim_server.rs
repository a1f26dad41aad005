//! The coordinator's half of the claim stream, for tests: forgets on demand and breaks connections.
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use palinurus_proto::v1::claim_request::Message;
use palinurus_proto::v1::fleet_server::{Fleet, FleetServer};
use palinurus_proto::v1::{AgentMessage, ClaimAsk, ClaimReply, ClaimRequest, CoordinatorMessage};
use palinurus_repository::ChunkId;
use palinurus_repository::pack::{ChunkAt, PackSummary};
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Default)]
pub(super) struct ClaimServer {
    state: Arc<State>,
    address: Option<std::net::SocketAddr>,
}

#[derive(Default)]
struct State {
    /// By transaction.
    known: Mutex<HashMap<Vec<u8>, Known>>,
    break_after: AtomicUsize,
    streams: AtomicUsize,
}

#[derive(Default)]
struct Known {
    claimed: HashMap<ChunkId, Option<ChunkAt>>,
}

impl ClaimServer {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Some(listener.local_addr().unwrap());
        let server = Self { state: Arc::default(), address };
        let service = FleetServer::new(server.clone()).max_decoding_message_size(64 << 20);
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        server
    }

    pub(super) fn leader(&self) -> watch::Receiver<Option<Channel>> {
        let channel = Endpoint::new(format!("http://{}", self.address.unwrap())).unwrap().connect_lazy();
        watch::channel(Some(channel)).1
    }

    pub(super) fn forget(&self) {
        self.state.known.lock().unwrap().clear();
    }

    /// Each stream breaks after so many questions, and what was claimed and not stored is forgotten with it.
    pub(super) fn break_after(&self, asks: usize) {
        self.state.break_after.store(asks, Ordering::SeqCst);
    }

    pub(super) fn streams(&self) -> usize {
        self.state.streams.load(Ordering::SeqCst)
    }

    /// What is claimed and not stored is free again: its claimant is lost.
    pub(super) fn lose(&self) {
        for known in self.state.known.lock().unwrap().values_mut() {
            known.claimed.retain(|_, at| at.is_some());
        }
    }

    /// Claims in the name of nobody, who never stores.
    pub(super) fn claim(&self, transaction: u8, id: ChunkId) {
        let mut known = self.state.known.lock().unwrap();
        known.entry(vec![transaction; 16]).or_default().claimed.insert(id, None);
    }

    fn answer(&self, transaction: &[u8], ask: &ClaimAsk) -> ClaimReply {
        let mut known = self.state.known.lock().unwrap();
        let claimed = &mut known.entry(transaction.to_vec()).or_default().claimed;
        let (mut verdicts, mut places) = (Vec::new(), Vec::new());
        for id in ask.ids.chunks(32) {
            let id = ChunkId::from_slice(id).unwrap();
            match claimed.get(&id) {
                Some(Some(at)) => {
                    verdicts.push(3);
                    places.push(at.encode().into());
                }
                Some(None) if !ask.settle => verdicts.push(2),
                _ => {
                    if !ask.look {
                        claimed.insert(id, None);
                    }
                    verdicts.push(1);
                }
            }
        }
        ClaimReply { sequence: ask.sequence, verdicts: verdicts.into(), places }
    }
}

#[tonic::async_trait]
impl Fleet for ClaimServer {
    type SessionStream = Pin<Box<dyn futures::Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;
    type ClaimStream = ReceiverStream<Result<ClaimReply, Status>>;
    type LogStream =
        Pin<Box<dyn futures::Stream<Item = Result<palinurus_proto::v1::LogReply, Status>> + Send>>;

    async fn session(
        &self,
        _: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("only claims"))
    }

    async fn log(
        &self,
        _: Request<Streaming<palinurus_proto::v1::LogRequest>>,
    ) -> Result<Response<Self::LogStream>, Status> {
        Err(Status::unimplemented("only claims"))
    }

    async fn claim(
        &self,
        request: Request<Streaming<ClaimRequest>>,
    ) -> Result<Response<Self::ClaimStream>, Status> {
        self.state.streams.fetch_add(1, Ordering::SeqCst);
        let (out, replies) = tokio::sync::mpsc::channel(16);
        let mut requests = request.into_inner();
        let server = self.clone();
        tokio::spawn(async move {
            let mut transaction = Vec::new();
            let mut asks = 0;
            while let Ok(Some(request)) = requests.message().await {
                match request.message {
                    Some(Message::Open(open)) => transaction = open.transaction.to_vec(),
                    Some(Message::Stored(stored)) => {
                        let summary = PackSummary::decode(&stored.pack).unwrap();
                        let mut known = server.state.known.lock().unwrap();
                        let claimed = &mut known.entry(transaction.clone()).or_default().claimed;
                        claimed.extend(summary.chunks().map(|(id, at)| (id, Some(at))));
                    }
                    Some(Message::Ask(ask)) => {
                        asks += 1;
                        let limit = server.state.break_after.load(Ordering::SeqCst);
                        if limit > 0 && asks > limit {
                            let mut known = server.state.known.lock().unwrap();
                            known
                                .entry(transaction.clone())
                                .or_default()
                                .claimed
                                .retain(|_, at| at.is_some());
                            break;
                        }
                        let reply = server.answer(&transaction, &ask);
                        if out.send(Ok(reply)).await.is_err() {
                            break;
                        }
                    }
                    None => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}
