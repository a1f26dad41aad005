//! A client for each member, one of which is stuck to while it answers: the balancer of etcd-client itself neither
//! avoids a dead member nor tries again.
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, KvClient, TlsOptions};
use palinurus_repository::{Error, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{self, Failed};
use crate::config::EtcdConfig;

/// How often each member is asked, and at least how often any.
const ROUNDS: usize = 2;
const TRIES: usize = 3;
/// Between tries, growing: a member that is dead, or has no leader for a moment, says so at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How what only listens notices that its member is gone. Never below 5 s: etcd hangs up on whoever pings more often.
const PING: Duration = Duration::from_secs(6);
const PING_ANSWERED: Duration = Duration::from_secs(2);
/// Larger than etcd lets a record be, many times over.
const MESSAGE_MAX: usize = 16 << 20;

pub(super) struct Client {
    members: Vec<Member>,
    current: AtomicUsize,
    timeout: Duration,
}

struct Member {
    endpoint: String,
    options: ConnectOptions,
    connected: Mutex<Option<etcd_client::Client>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.endpoint)).finish()
    }
}

impl Client {
    /// Reads the files that the settings name; connects later. Blocks.
    pub(super) fn new(config: &EtcdConfig) -> Result<Self> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.timeout)
            .with_keep_alive(PING, PING_ANSWERED)
            .with_keep_alive_while_idle(true)
            // A member that has lost its quorum ends its streams rather than go on in silence.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if !config.user.is_empty() {
            let password = read(&config.password_file)?;
            options = options.with_user(&config.user, password.trim_end_matches(['\r', '\n']));
        }
        if config.encrypted() {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&config.ca)?));
            if !config.certificate.as_os_str().is_empty() {
                let (certificate, key) = (read(&config.certificate)?, read(&config.key)?);
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            options: options.clone(),
            connected: Mutex::default(),
        };
        let members = config.endpoints.iter().map(member).collect();
        Ok(Self { members, current: AtomicUsize::new(0), timeout: config.timeout })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// For one call: as long as it takes to hear nothing from so many.
    pub(super) fn patience(&self) -> Patience {
        let tries = TRIES.max(ROUNDS * self.members.len());
        let all = self.timeout * u32::try_from(tries).unwrap_or(u32::MAX);
        Patience { until: Instant::now() + all, pause: PAUSE_MIN }
    }

    /// Asks until there is an answer, or patience is at its end. Only for what may be carried out twice.
    pub(super) async fn call<T, F>(
        &self,
        what: &str,
        ask: impl Fn(etcd_client::Client) -> F + Sync,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (mut patience, mut last) = (self.patience(), None);
        loop {
            match self.attempt(what, &ask).await {
                Err(Failed::Unknown(e) | Failed::OldToken(e)) => last = Some(error::more_telling(last, e)),
                ended => return ended,
            }
            if !patience.wait().await
                && let Some(last) = last
            {
                return Err(Failed::Unknown(last));
            }
        }
    }

    /// Asks once. The next attempt asks another member if this one did not answer.
    pub(super) async fn attempt<T, F>(
        &self,
        what: &str,
        ask: impl Fn(etcd_client::Client) -> F + Sync,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let current = self.current.load(Ordering::Relaxed);
        let member = &self.members[current];
        let asking = async { ask(member.client().await?).await };
        let failed = match tokio::time::timeout(self.timeout, asking).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => error::judge(what, &member.endpoint, e),
            Err(_) => error::late(what, &member.endpoint, self.timeout),
        };
        match &failed {
            Failed::Unknown(e) => {
                tracing::debug!(error = e.chain(), "etcd did not answer");
                self.leave(current);
            }
            Failed::OldToken(_) => *member.connected.lock().await = None,
            _ => {}
        }
        Err(failed)
    }

    /// The member that is asked now.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Asks the next one from now on, unless somebody has moved on already.
    pub(super) fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What is left of a call's time.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Pauses before the next try; false when there is to be none.
    pub(super) async fn wait(&mut self) -> bool {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Instant::now() < self.until
    }
}

impl Member {
    async fn client(&self) -> Result<etcd_client::Client, etcd_client::Error> {
        let mut connected = self.connected.lock().await;
        if let Some(client) = &*connected {
            return Ok(client.clone());
        }
        let client = etcd_client::Client::connect([&self.endpoint], Some(self.options.clone())).await?;
        Ok(connected.insert(client).clone())
    }
}

pub(super) fn kv(etcd: &etcd_client::Client) -> KvClient {
    etcd.kv_client().max_decoding_message_size(MESSAGE_MAX)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(format!("read {}", path.display()), e))
}
