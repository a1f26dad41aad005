//! The actors: thin. They hold what is alive, put things in order, and do what the deciders say. A handler awaits
//! nothing longer than one small write to the state store; longer work is a task that sends a message back.
//!
//! ```text
//! Coordinator ── one ServiceActor a service ──┬── one OperationActor, of the running operation
//!                                             └── one AgentActor a session
//! ```
use std::time::Duration;

use palinurus_repository::{Error, Result};
use ractor::{ActorRef, Message, RpcReplyPort};

pub(crate) mod agent;
pub(crate) mod coordinator;
pub(crate) mod operation;
pub(crate) mod service;
#[cfg(test)]
mod tests;

/// How long a question to an actor may take before whoever asked is told to try again.
const ANSWER_WITHIN_MS: u64 = 15_000;
/// Before an actor that failed is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// What children get for stopping in order.
const STOP_WITHIN: Duration = Duration::from_secs(5);

pub(crate) type Reply<T> = RpcReplyPort<Result<T>>;

/// Asks an actor from outside of all actors.
pub(crate) async fn ask<M: Message, T: Send + 'static>(
    actor: &ActorRef<M>,
    question: impl FnOnce(Reply<T>) -> M,
) -> Result<T> {
    match ractor::call_t!(actor, question, ANSWER_WITHIN_MS) {
        Ok(answer) => answer,
        Err(e) => Err(Error::unavailable("the coordinator does not answer")
            .with_source(e.to_string())
            .with_hint("what was asked for may be done all the same: look before you ask again")),
    }
}

/// An answer that nobody waits for any more is no fault.
fn reply<T: Send + 'static>(to: Reply<T>, answer: Result<T>) {
    let _ = to.send(answer);
}
