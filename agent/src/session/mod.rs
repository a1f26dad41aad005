//! Keeps the agent in touch with whoever leads: dials the coordinators in turn, follows a refusal to the leader it
//! names, and comes back after every break. What is running goes on meanwhile.
use std::sync::Arc;
use std::time::Duration;

use palinurus_identity::Dialer;
use palinurus_proto::v1;
use palinurus_repository::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::config;
use crate::engine::Health;
use crate::epoch::Epochs;
use crate::host::Host;
use crate::identity;
use crate::log::Recovery;
use crate::node_epoch::NodeEpoch;
use crate::runner::Runner;
use crate::stand_down::StandDown;

mod backoff;
mod stream;

pub(crate) use backoff::Backoff;

/// Refusals that name a leader are followed at once this often; then they wait like any other.
const FOLLOWED_AT_ONCE: u32 = 3;
/// The most between two looks for a leader while coordinators answer: an election takes seconds.
const ELECTION: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) host: Arc<Host>,
    pub(crate) runner: Runner,
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) node_epoch: Arc<NodeEpoch>,
    pub(crate) stand_down: StandDown,
}

/// How one connection ended.
#[derive(Debug)]
enum End {
    /// The agent ends and has said so.
    Goodbye,
    Broken {
        error: Error,
        welcomed: bool,
    },
    /// The coordinator stands by, and knows of nobody who leads.
    Leaderless {
        error: Error,
    },
    /// The coordinator wants no session with this agent, or does not lead.
    Refused {
        error: Error,
        leader: String,
    },
    /// Another agent has this one's place for good.
    Replaced {
        error: Error,
    },
}

impl Session {
    /// Until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<()> {
        if let Some(why) = self.stand_down.why() {
            tracing::error!(hint = why.hint().unwrap_or_default(), "{}", why.chain());
            self.let_go().await;
        }
        let looking = self.host.looks.keep(|| self.probe(), self.runner.changes());
        tokio::select! {
            biased;
            () = looking => Ok(()), // first: it is asked at once
            ended = self.dial(&cancel) => ended,
        }
    }

    async fn dial(&self, cancel: &CancellationToken) -> Result<()> {
        let settings = &self.host.config.session;
        let mut backoff = Backoff::new(settings.retry_min, settings.retry_max);
        let mut election = Backoff::new(ELECTION, ELECTION);
        let configured = &self.host.config.coordinator;
        let mut turn = 0;
        let mut leader: Option<String> = None;
        let mut followed = 0;
        // A coordinator has answered, so there will be a leader soon.
        let mut soon = false;
        while !cancel.is_cancelled() {
            let address = leader.take().unwrap_or_else(|| configured[turn % configured.len()].clone());
            // A restore may just have filled it.
            self.host.looks.again().await;
            let end = self.connection(&address, cancel).await;
            self.host.leader.send_replace(None);
            let pause = match end {
                End::Goodbye => return Ok(()),
                End::Replaced { error } => {
                    tracing::error!(
                        coordinator = address,
                        error = %error.chain(),
                        hint = error.hint().unwrap_or_default(),
                        "this agent stands down"
                    );
                    self.lose_place(&error).await;
                    // Only to be seen: nothing changes until an operator does.
                    settings.retry_refused
                }
                End::Broken { error, welcomed } => {
                    tracing::warn!(coordinator = address, error = %error.chain(), "no session");
                    // The one that was reached is tried first again: it may only have been started anew.
                    followed = 0;
                    if welcomed {
                        backoff = Backoff::new(settings.retry_min, settings.retry_max);
                    } else {
                        turn += 1;
                    }
                    let pauses = if std::mem::take(&mut soon) { &mut election } else { &mut backoff };
                    pauses.next(&*self.host.seams.entropy)?
                }
                End::Leaderless { error } => {
                    tracing::info!(coordinator = address, why = %error.chain(), "waits for a leader");
                    (turn, followed) = (turn + 1, 0);
                    election.next(&*self.host.seams.entropy)?
                }
                End::Refused { error, leader: named } if !named.is_empty() && followed < FOLLOWED_AT_ONCE => {
                    tracing::info!(coordinator = address, leader = named, why = %error.chain(), "following to the leader");
                    followed += 1;
                    soon = true;
                    leader = Some(named);
                    Duration::ZERO
                }
                End::Refused { error, .. } => {
                    tracing::error!(
                        coordinator = address,
                        kind = error.kind().name(),
                        error = %error.chain(),
                        hint = error.hint().unwrap_or_default(),
                        "the coordinator refuses this agent"
                    );
                    (turn, followed) = (turn + 1, 0);
                    let by_operator = matches!(
                        error.kind(),
                        ErrorKind::Conflict | ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Invalid
                    );
                    if by_operator {
                        settings.retry_refused
                    } else {
                        backoff.next(&*self.host.seams.entropy)?
                    }
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Durably first, so that no restart and no crash brings it back to work.
    async fn lose_place(&self, why: &Error) {
        let host = &self.host;
        if self.stand_down.why().is_some() {
            return;
        }
        if let Err(error) = self.stand_down.set(&host.instance, why.chain(), host.seams.clock.now()) {
            tracing::error!(error = %error.chain(), "cannot keep that this agent has stood down: it asks again when it is started");
        }
        self.let_go().await;
    }

    /// Whoever removes the mark has another agent, which knows nothing of this one's place.
    async fn let_go(&self) {
        let state = self.host.state.path();
        for forgotten in [identity::forget(state), NodeEpoch::forget(state)] {
            if let Err(error) = forgotten {
                tracing::error!(error = %error.chain(), "standing down");
            }
        }
        self.runner.stand_down().await;
    }

    /// One connection, from dialling to its end.
    async fn connection(&self, address: &str, cancel: &CancellationToken) -> End {
        let health = self.host.looks.seen();
        let broken = |error| End::Broken { error, welcomed: false };
        let connecting = async {
            let channel = self.connect(address).await?;
            let hello = self.hello(health.borrow().data_empty, health.borrow().primary);
            let opened = stream::open(channel, hello, self.host.config.session.connect_timeout).await;
            // What is wrong with our certificate is only heard of once we speak.
            opened.map_err(|e| self.host.tls.as_ref().and_then(Dialer::refusal).unwrap_or(e))
        };
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => return End::Goodbye,
            opened = connecting => opened,
        };
        match opened {
            Ok(stream) => stream.run(self, health, cancel).await,
            Err(error) => match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Internal => broken(error),
                _ => End::Refused { error, leader: String::new() },
            },
        }
    }

    async fn connect(&self, address: &str) -> Result<Channel> {
        let settings = &self.host.config.session;
        let uri = config::address::check(address, self.host.tls.is_some())?;
        let tune = |endpoint: Endpoint| {
            endpoint
                .connect_timeout(settings.connect_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(settings.keep_alive)
                .keep_alive_timeout(settings.keep_alive)
                .keep_alive_while_idle(true)
        };
        if let Some(tls) = &self.host.tls {
            return tls.connect(&uri, tune).await;
        }
        let dialled = self.host.seams.dial.dial(tune(Endpoint::from(uri))).await;
        dialled.map_err(|e| Error::unavailable(format!("connect to {address}")).with_source(e))
    }

    fn hello(&self, data_empty: bool, primary: bool) -> v1::Hello {
        let host = &self.host;
        v1::Hello {
            service: host.config.service.clone(),
            node: host.config.node.clone(),
            instance: host.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: host.engine.name().to_owned(),
            epoch: self.epochs.highest(&host.config.service).0,
            data_empty,
            primary,
            tasks: self.runner.hello(),
            node_epoch: self.node_epoch.last(),
            protocol: palinurus_proto::PROTOCOL,
            now_ms: host.seams.clock.now().0,
            stood_down: self.stand_down.why().is_some(),
        }
    }

    /// What the operator says of this node from now on, over its own settings.
    fn pace(&self, told: Option<&v1::Limits>) {
        match self.host.config.limits.rates() {
            Ok(own) => self.host.pace.set(own.under(told)),
            Err(error) => tracing::error!(error = %error.chain(), "limits"),
        }
    }

    /// Empty: nothing has, or it is not known.
    async fn recovered(&self) -> String {
        let Some(logs) = self.host.engine.logs() else { return String::new() };
        let state = self.host.state.path().to_owned();
        let ended = self.host.seams.blocking.run(move || Recovery::ended(&state, &*logs)).await;
        ended.ok().flatten().unwrap_or_default()
    }

    /// What cannot be looked at is not known to be empty: nobody may restore into it unasked.
    async fn probe(&self) -> Health {
        match self.host.engine.probe().await {
            Ok(health) => Health { recovered: self.recovered().await, ..health },
            Err(error) => {
                tracing::warn!(error = %error.chain(), "probe");
                Health::default()
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod far;
#[cfg(test)]
mod tests;
