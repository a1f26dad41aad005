//! Nodes as the operation sees them: here or gone, told their tasks, and heard.
use std::collections::BTreeSet;

use palinurus_proto::v1::{self, coordinator_message::Message};
use palinurus_repository::Error;
use ractor::ActorProcessingErr;

use super::{Link, Running};
use crate::actor::agent::AgentMsg;
use crate::operation::{Presence, Recorded, Work, ended, record};

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
                self.reports(node, &tasks).await
            }
        }
    }

    /// Records what a node says; what has ended is acknowledged once it is stored.
    pub(super) async fn reports(
        &mut self,
        node: &str,
        reports: &[v1::TaskReport],
    ) -> Result<(), ActorProcessingErr> {
        if !self.settle().await? {
            return Ok(()); // it is told again
        }
        let now = self.shared.now();
        let mut next = self.record.value.clone();
        let mut stored = BTreeSet::new();
        let mut progress = false;
        for report in reports {
            match record::report(&mut next, node, report, now) {
                Recorded::Ended => drop(stored.insert(report.task.clone())),
                Recorded::Progress => {
                    progress = true;
                    if let Some(work) = Work::from_name(&report.task) {
                        self.seen.told.insert((node.to_owned(), work));
                    }
                }
                Recorded::Nothing => {}
            }
        }
        if !stored.is_empty() {
            if !self.store(next).await? {
                return Ok(()); // not acknowledged, so it is told again
            }
        } else if progress {
            self.record.value = next;
            self.show();
        }
        for report in reports.iter().filter(|report| ended(report.state())) {
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
