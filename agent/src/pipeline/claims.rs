//! Asks the coordinator who uploads which chunk, and tells it what is durable. Survives a lost connection: what
//! was asked is asked again and what is durable is told again, so both ends may forget at any time.
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, claim_request::Message};
use palinurus_repository::pack::ChunkAt;
use palinurus_repository::{Blocking, ChunkId, Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::journal::PackJournal;
use super::stop::stopped;

/// The most ids in one question.
pub const ASK_MAX: usize = 8192;
const MESSAGE_MAX: usize = 64 << 20;
const ENDING: Duration = Duration::from_secs(10);
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has it: upload it.
    Yours,
    /// Another node of this transaction uploads it; `settle` will say where.
    Another,
    Stored(ChunkAt),
}

/// How a question is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// What is nobody's becomes ours.
    Claim,
    /// What is nobody's stays so: [`Verdict::Yours`] says no more than that it is free.
    Look,
    /// All nodes have uploaded: the answer is never [`Verdict::Another`].
    Settle,
}

/// Where the question goes. Cheap to clone, used by all workers.
#[derive(Clone, Debug)]
pub struct Claims(mpsc::Sender<Request>);

#[derive(Debug)]
pub enum Request {
    Ask { ids: Vec<ChunkId>, how: How, reply: oneshot::Sender<Result<Vec<Verdict>>> },
    Stored(Bytes),
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Result<Vec<Verdict>>>);

impl Answer {
    /// Blocks the calling thread.
    pub(crate) fn wait(self) -> Result<Vec<Verdict>> {
        self.0.blocking_recv().map_err(|_| stopped())?
    }
}

impl Claims {
    pub fn channel(bound: usize) -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(bound);
        (Self(sender), receiver)
    }

    /// From a thread outside the runtime.
    pub(crate) fn ask(&self, ids: Vec<ChunkId>, how: How) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.0.blocking_send(Request::Ask { ids, how, reply }).map_err(|_| stopped())?;
        Ok(Answer(answer))
    }

    /// From within the runtime.
    pub async fn asked(&self, ids: Vec<ChunkId>, how: How) -> Result<Vec<Verdict>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Request::Ask { ids, how, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub async fn stored(&self, summary: Bytes) -> Result<()> {
        self.0.send(Request::Stored(summary)).await.map_err(|_| stopped())
    }
}

/// The connection behind [`Claims`].
#[derive(Debug)]
pub struct ClaimStream {
    pub leader: watch::Receiver<Option<Channel>>,
    pub open: v1::ClaimOpen,
    /// Holds the journal whose packs are told again at each connection.
    pub spool: PathBuf,
    pub blocking: Blocking,
}

struct Waiting {
    sequence: u64,
    ids: Vec<ChunkId>,
    how: How,
    reply: oneshot::Sender<Result<Vec<Verdict>>>,
}

impl ClaimStream {
    /// Runs until the last [`Claims`] is dropped, the run is cancelled, or the coordinator refuses for good.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>, cancel: CancellationToken) -> Result<()> {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut sequence = 0;
        loop {
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                ended = self.connection(&mut requests, &mut waiting, &mut sequence) => ended,
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Unavailable => {
                    tracing::info!(error = %e.chain(), waiting = waiting.len(), "claim stream broke, connecting again");
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn connection(
        &self,
        requests: &mut mpsc::Receiver<Request>,
        waiting: &mut VecDeque<Waiting>,
        sequence: &mut u64,
    ) -> Result<()> {
        let channel =
            self.leader.clone().wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        let channel = channel.ok_or_else(|| Error::internal("the agent is ending"))?;
        let (out, outgoing) = mpsc::channel(16);
        let lost = || Error::unavailable("the claim stream is closed");
        let send =
            async |message| out.send(v1::ClaimRequest { message: Some(message) }).await.map_err(|_| lost());
        send(Message::Open(self.open.clone())).await?;
        let mut client = FleetClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let status = palinurus_proto::from_status;
        let mut replies = client.claim(ReceiverStream::new(outgoing)).await.map_err(status)?.into_inner();

        for summary in self.journaled().await? {
            send(Message::Stored(v1::ClaimStored { pack: summary })).await?;
        }
        for asked in waiting.iter() {
            send(ask(asked)).await?;
        }
        loop {
            tokio::select! {
                biased;
                reply = replies.message() => {
                    let reply = reply.map_err(status)?.ok_or_else(lost)?;
                    let Some(asked) = waiting.pop_front() else {
                        return Err(Error::internal("an answer to nothing asked"));
                    };
                    if asked.sequence != reply.sequence {
                        return Err(Error::internal("an answer out of order"));
                    }
                    let _ = asked.reply.send(verdicts(&reply, asked.ids.len()));
                }
                request = requests.recv() => match request {
                    None => break,
                    Some(Request::Stored(pack)) => send(Message::Stored(v1::ClaimStored { pack })).await?,
                    Some(Request::Ask { ids, how, reply }) => {
                        *sequence += 1;
                        waiting.push_back(Waiting { sequence: *sequence, ids, how, reply });
                        if let Some(asked) = waiting.back() {
                            send(ask(asked)).await?;
                        }
                    }
                },
            }
        }
        // What was said last counts only when the coordinator has heard it: it answers our end with its own.
        drop(out);
        let ended = async {
            while replies.message().await.map_err(status)?.is_some() {}
            Ok(())
        };
        tokio::time::timeout(ENDING, ended).await.unwrap_or_else(|_| Err(lost()))
    }

    async fn journaled(&self) -> Result<Vec<Bytes>> {
        let journal = PackJournal::in_spool(&self.spool, self.blocking);
        let read = move || {
            let mut summaries = Vec::new();
            journal.read(|encoded, _| {
                summaries.push(Bytes::copy_from_slice(encoded));
                Ok(())
            })?;
            Ok(summaries)
        };
        self.blocking.run(read).await
    }
}

fn ask(asked: &Waiting) -> Message {
    let mut ids = Vec::with_capacity(asked.ids.len() * ChunkId::LEN);
    asked.ids.iter().for_each(|id| ids.extend_from_slice(id.as_bytes()));
    let (settle, look) = (asked.how == How::Settle, asked.how == How::Look);
    Message::Ask(v1::ClaimAsk { sequence: asked.sequence, ids: ids.into(), settle, look })
}

fn verdicts(reply: &v1::ClaimReply, asked: usize) -> Result<Vec<Verdict>> {
    if reply.verdicts.len() != asked {
        return Err(Error::internal(format!("{} verdicts for {asked} chunks", reply.verdicts.len())));
    }
    let mut places = reply.places.iter();
    let verdict = |verdict: &u8| match verdict {
        1 => Ok(Verdict::Yours),
        2 => Ok(Verdict::Another),
        3 => {
            let place = places.next().ok_or_else(|| Error::internal("stored, and no place told"))?;
            ChunkAt::decode(place).map(Verdict::Stored)
        }
        other => Err(Error::internal(format!("verdict {other}"))),
    };
    reply.verdicts.iter().map(verdict).collect()
}
