//! One claim stream: questions in, answers out in the same order. The lookups run off the async runtime, one batch
//! at a time for each stream, and the next question is not read before there is room for its answer.
use std::sync::Arc;

use palinurus_proto::v1::{self, claim_request::Message};
use palinurus_repository::pack::PackSummary;
use palinurus_repository::{Blocking, ChunkId, Error, Result};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{ASK_MAX, Asked, Claimant};

pub(crate) type Replies = mpsc::Sender<Result<v1::ClaimReply, Status>>;

/// Runs until the node closes the stream; when it has closed its half, everything that it said has been taken in
/// before ours is closed.
pub(crate) async fn run(
    claimant: Claimant,
    mut requests: Streaming<v1::ClaimRequest>,
    replies: &Replies,
    blocking: Blocking,
) -> Result<()> {
    let claimant = Arc::new(claimant);
    while let Some(request) = requests.message().await.map_err(palinurus_proto::from_status)? {
        match request.message {
            Some(Message::Ask(ask)) => {
                let Ok(room) = replies.reserve().await else { return Ok(()) };
                room.send(Ok(answer(claimant.clone(), ask, blocking).await?));
            }
            Some(Message::Stored(stored)) => {
                let claimant = claimant.clone();
                blocking.run(move || claimant.stored(&PackSummary::decode(&stored.pack)?)).await?;
            }
            Some(Message::Open(_)) => return Err(Error::invalid("a claim stream is opened once")),
            None => return Err(Error::invalid("a claim request of a kind that is not known")),
        }
    }
    Ok(())
}

async fn answer(claimant: Arc<Claimant>, ask: v1::ClaimAsk, blocking: Blocking) -> Result<v1::ClaimReply> {
    let (ids, rest) = ask.ids.as_chunks::<{ ChunkId::LEN }>();
    if !rest.is_empty() || ids.len() > ASK_MAX {
        return Err(Error::invalid(format!(
            "a question of {} bytes: ids have 32, and {ASK_MAX} are the most",
            ask.ids.len()
        )));
    }
    let ids: Vec<ChunkId> = ids.iter().map(|id| ChunkId(*id)).collect();
    let (sequence, how) = (ask.sequence, Asked::of(&ask));
    let answer = blocking.run(move || claimant.ask(&ids, how)).await?;
    Ok(v1::ClaimReply { sequence, verdicts: answer.verdicts.into(), places: answer.places })
}
