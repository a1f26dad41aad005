//! Nodes as the operation sees them: here or gone, told their tasks, and heard.
use palinurus_proto::v1::{self, coordinator_message::Message};
use palinurus_repository::Error;
use ractor::ActorProcessingErr;

use super::{Link, Running};
use crate::actor::agent::{AgentMsg, Permit};
use crate::operation::{Presence, Recorded, Work, ended, record};

/// What a node said, not yet recorded.
pub(super) struct Heard {
    pub(super) node: String,
    pub(super) report: v1::TaskReport,
    /// The agent may say more once this is given back.
    pub(super) _permit: Option<Permit>,
}

impl Running {
    pub(super) fn send(&self, node: &str, message: Message) {
        if let Some(agent) = self.agents.get(node) {
            let _ = agent.cast(AgentMsg::Send(Box::new(message))); // a session that is over comes back as `Link::Gone`
        }
    }

    /// A record from which no task can be made fails like the task would.
    pub(super) async fn unassignable(
        &mut self,
        node: &str,
        work: Work,
        error: &Error,
    ) -> Result<(), ActorProcessingErr> {
        let mut report = v1::TaskReport {
            task: work.name().to_owned(),
            attempt: record::attempt(&self.record.value, node, work),
            failure: Some(palinurus_proto::failure(error)),
            ..Default::default()
        };
        report.set_state(v1::TaskState::TaskFailed);
        if self.settle().await? {
            let mut next = self.record.value.clone();
            record::report(&mut next, node, &report, self.shared.now());
            self.store(next).await?;
        }
        Ok(())
    }

    pub(super) async fn node(&mut self, node: &str, link: Link) -> Result<(), ActorProcessingErr> {
        self.seen.told.retain(|(each, _)| each != node);
        self.seen.stopped.retain(|(each, _)| each != node);
        match link {
            Link::Gone(since) => {
                self.agents.remove(node);
                self.seen.nodes.insert(node.to_owned(), Presence::Gone(since));
                Ok(())
            }
            Link::Here { agent, tasks } => {
                self.agents.insert(node.to_owned(), agent);
                self.seen.nodes.insert(node.to_owned(), Presence::Connected);
                let heard = |report| Heard { node: node.to_owned(), report, _permit: None };
                self.reports(&tasks.into_iter().map(heard).collect::<Vec<_>>()).await
            }
        }
    }

    /// Records what nodes say, in one write; what has ended is acknowledged once it is stored.
    pub(super) async fn reports(&mut self, heard: &[Heard]) -> Result<(), ActorProcessingErr> {
        if heard.is_empty() || !self.settle().await? {
            return Ok(()); // it is told again
        }
        let now = self.shared.now();
        let mut next = self.record.value.clone();
        let (mut ends, mut progress) = (false, false);
        for Heard { node, report, .. } in heard {
            match record::report(&mut next, node, report, now) {
                Recorded::Ended => ends = true,
                Recorded::Progress => {
                    progress = true;
                    if let Some(work) = Work::from_name(&report.task) {
                        self.seen.told.insert((node.clone(), work));
                    }
                }
                Recorded::Nothing => {}
            }
        }
        if ends {
            if !self.store(next).await? {
                return Ok(()); // not acknowledged, so it is told again
            }
        } else if progress {
            self.record.value = next;
            self.show();
        }
        for Heard { node, report, .. } in heard.iter().filter(|heard| ended(heard.report.state())) {
            self.send(node, acknowledge(report));
        }
        Ok(())
    }
}

pub(in crate::actor) fn acknowledge(report: &v1::TaskReport) -> Message {
    Message::Acknowledge(v1::Acknowledge {
        operation: report.operation.clone(),
        task: report.task.clone(),
        attempt: report.attempt,
    })
}
