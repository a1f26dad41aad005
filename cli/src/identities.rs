//! What `up`, `demo` and `bench` encrypt with, so that nobody has to ask for it: an authority of their own in a directory,
//! and certificates for a coordinator, its agents and whoever gives it commands.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_identity::{Authority, Issued, Role, TlsConfig, Who};
use palinurus_repository::{Clock, Error, Result, SystemEntropy};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::client::File;
use crate::home;

const NAME: &str = "local";
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Before its end a certificate is renewed, and with its authority all are made anew.
const MARGIN: Duration = Duration::from_secs(30 * 24 * 3600);
const LOOK: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(crate) struct Identities {
    dir: PathBuf,
    service: String,
    nodes: Vec<String>,
    /// Under which the coordinator is reached.
    addresses: Vec<String>,
}

impl Identities {
    /// Of a coordinator that listens on a port of this machine.
    pub(crate) fn new(dir: PathBuf, listen: &str, service: &str, nodes: &[&str]) -> Self {
        let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses = ["localhost", "127.0.0.1", "::1", host].map(str::to_owned).to_vec();
        addresses.sort();
        addresses.dedup();
        let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        Self { dir, service: service.to_owned(), nodes, addresses }
    }

    /// Makes what is missing, and anew what is damaged or near its end. Says what it did.
    pub(crate) fn keep(&self, clock: &dyn Clock) -> Result<Vec<String>> {
        if !self.dir.exists() {
            self.make(clock)?;
            return Ok(vec![format!("made certificates in {}", self.dir.display())]);
        }
        let authority = Authority::open(&self.dir).map_err(|e| {
            let hint = format!("move {} away: the next start makes certificates anew", self.dir.display());
            Error::new(e.kind(), "the authority of this machine's own certificates cannot be used")
                .with_source(e.chain())
                .with_hint(e.hint().map_or(hint.clone(), |first| format!("{first}; or {hint}")))
        })?;
        if authority.ends() < clock.now().plus(MARGIN) {
            self.make(clock)?;
            return Ok(vec![format!(
                "the authority of the certificates in {} was near its end: all are made anew",
                self.dir.display()
            )]);
        }
        let mut done = Vec::new();
        for (who, addresses) in self.all() {
            if let Some(why) = authority.keep(&who, addresses, MARGIN, clock)? {
                done.push(format!("renewed the certificate of {}: {why}", who.name()));
            }
        }
        Ok(done)
    }

    /// For as long as their holders run: they take new ones without a restart.
    pub(crate) async fn keep_on(self, clock: impl Clock, cancel: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = looks.tick() => {}
            }
            match self.keep(&clock) {
                Ok(done) => done.iter().for_each(|done| tracing::info!("{done}")),
                Err(e) => {
                    tracing::error!(error = e.chain(), hint = e.hint(), "cannot look after certificates")
                }
            }
        }
    }

    /// Beside where they belong, and put there as a whole.
    fn make(&self, clock: &dyn Clock) -> Result<()> {
        let failed = |what: &Path, e: std::io::Error| Error::io(format!("put {}", what.display()), e);
        let beside = |ending: &str| self.dir.with_extension(ending);
        let (new, old) = (beside("new"), beside("old"));
        clear(&new)?;
        Authority::init(&new, AUTHORITY_VALID, clock.now(), &SystemEntropy::new())?;
        let authority = Authority::open(&new)?;
        for (who, addresses) in self.all() {
            authority.keep(&who, addresses, MARGIN, clock)?;
        }
        if self.dir.exists() {
            clear(&old)?;
            renameat_with(CWD, &new, CWD, &self.dir, RenameFlags::EXCHANGE)
                .map_err(|e| failed(&self.dir, e.into()))?;
            std::fs::rename(&new, &old).map_err(|e| failed(&old, e))
        } else {
            std::fs::rename(&new, &self.dir).map_err(|e| failed(&self.dir, e))
        }
    }

    fn all(&self) -> Vec<(Who, &[String])> {
        let mut all = vec![(coordinator(), &self.addresses[..]), (operator(), &[][..])];
        all.extend(self.nodes.iter().map(|node| (self.agent_of(node), &[][..])));
        all
    }

    fn agent_of(&self, node: &str) -> Who {
        Who::Agent { service: self.service.clone(), node: node.to_owned(), spare: false }
    }

    pub(crate) fn coordinator(&self) -> TlsConfig {
        self.tls(&coordinator())
    }

    pub(crate) fn agent(&self, node: &str) -> TlsConfig {
        self.tls(&self.agent_of(node))
    }

    fn tls(&self, who: &Who) -> TlsConfig {
        let Issued { certificate, key } = Issued::to(who, &self.dir);
        TlsConfig { certificate, key, ca: self.dir.join("ca.pem"), revoked: self.dir.join("revoked.pem") }
    }

    /// So that the command finds the coordinator, and is let in.
    pub(crate) fn write_file(&self, state: &Path, server: &str) -> Result<()> {
        let TlsConfig { certificate, key, ca, revoked } = self.tls(&operator());
        for path in [&certificate, &key, &ca, &revoked] {
            home::text(path)?;
        }
        let server = server.to_owned();
        File { server, ca, certificate, key, revoked, ..File::default() }.write(state)
    }
}

fn coordinator() -> Who {
    Who::Coordinator { name: NAME.to_owned() }
}

fn operator() -> Who {
    Who::Operator { name: NAME.to_owned(), role: Role::Admin }
}

fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// As a section of settings.
pub(crate) fn section(tls: &TlsConfig) -> String {
    let TlsConfig { certificate, key, ca, revoked } = tls;
    format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nca = {ca:?}\nrevoked = {revoked:?}\n\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use palinurus_identity::{Shown, VALID};
    use palinurus_repository::Timestamp;
    use palinurus_repository::clock::ManualClock;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn identities(dir: &Path) -> Identities {
        Identities::new(dir.join("certs"), "127.0.0.5:7410", "docs", &["n1"])
    }

    fn serial(tls: &TlsConfig) -> String {
        Shown::read(&tls.certificate).unwrap().serial
    }

    #[test]
    fn they_are_made_once_and_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp(1_700_000_000_000));
        let ours = identities(dir.path());
        // What a crash in the middle of making them leaves.
        std::fs::create_dir(dir.path().join("certs.new")).unwrap();
        std::fs::write(dir.path().join("certs.new/ca.key"), "half").unwrap();
        assert_eq!(ours.keep(&clock).unwrap().len(), 1);
        assert!(!dir.path().join("certs.new").exists());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ours.dir), 0o700);
        for key in [ours.dir.join("ca.key"), ours.coordinator().key, ours.agent("n1").key] {
            assert_eq!(mode(&key), 0o600, "{}", key.display());
        }
        let before = serial(&ours.coordinator());
        assert_eq!(ours.keep(&clock).unwrap(), [""; 0]);
        assert_eq!(serial(&ours.coordinator()), before);
        let shown = Shown::read(&ours.coordinator().certificate).unwrap();
        assert!(shown.addresses.contains(&"127.0.0.5".to_owned()), "{shown:?}");
        // Another service of the same state: its agent gets one, the others keep theirs.
        let other = Identities::new(ours.dir.clone(), "127.0.0.5:7410", "other", &["n1"]);
        let done = other.keep(&clock).unwrap();
        assert!(done.len() == 1 && done[0].contains("agent other/n1"), "{done:?}");
    }

    #[test]
    fn a_damaged_authority_is_said_and_one_near_its_end_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp(1_700_000_000_000));
        let ours = identities(dir.path());
        ours.keep(&clock).unwrap();
        let authority = std::fs::read(ours.dir.join("ca.pem")).unwrap();
        clock.advance(AUTHORITY_VALID - MARGIN + DAY);
        assert!(ours.keep(&clock).unwrap()[0].contains("near its end"));
        assert_eq!(std::fs::read(dir.path().join("certs.old/ca.pem")).unwrap(), authority);
        assert_ne!(std::fs::read(ours.dir.join("ca.pem")).unwrap(), authority);
        assert_eq!(ours.keep(&clock).unwrap(), [""; 0]);
        std::fs::write(ours.dir.join("ca.key"), "damaged").unwrap();
        let refused = ours.keep(&clock).unwrap_err();
        assert!(refused.hint().unwrap().contains("move"), "{refused:?}");
        std::fs::rename(&ours.dir, dir.path().join("away")).unwrap();
        assert_eq!(ours.keep(&clock).unwrap().len(), 1);
    }

    /// Their holders see new files by themselves.
    #[tokio::test(start_paused = true)]
    async fn they_are_renewed_while_everything_runs() {
        let dir = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp(1_700_000_000_000));
        let ours = identities(dir.path());
        ours.keep(&clock).unwrap();
        let before = serial(&ours.agent("n1"));
        let cancel = CancellationToken::new();
        let keeping = tokio::spawn(ours.clone().keep_on(clock.clone(), cancel.clone()));
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(serial(&ours.agent("n1")), before);
        clock.advance(VALID - MARGIN + DAY);
        tokio::time::sleep(LOOK * 2).await;
        assert_ne!(serial(&ours.agent("n1")), before);
        cancel.cancel();
        keeping.await.unwrap();
    }
}
