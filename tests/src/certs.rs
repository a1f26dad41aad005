//! An authority of a test's own, and what it issues.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palinurus_identity::{Authority, Dialer, Issued, Role, Who};
use palinurus_repository::{Clock, SystemClock, SystemEntropy};

const VALID: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct Certs(PathBuf);

impl Certs {
    pub fn new(dir: &Path) -> Self {
        Authority::init(dir, VALID * 24, SystemClock.now(), &SystemEntropy::new()).unwrap();
        Self(dir.to_owned())
    }

    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// What was issued under that name.
    pub fn path(&self, name: &str) -> Issued {
        let named = |ending| self.0.join(format!("{name}.{ending}"));
        Issued { certificate: named("pem"), key: named("key") }
    }

    /// A new one each time, in the place of one that there is.
    pub fn issue(&self, who: &Who, addresses: &[String]) -> Issued {
        let authority = Authority::open(&self.0).unwrap();
        authority.issue(who, addresses, VALID, SystemClock.now(), true).unwrap()
    }

    /// As a section of settings.
    pub fn coordinator(&self, name: &str, address: &str) -> String {
        self.section(&self.issue(&Who::Coordinator { name: name.into() }, &[address.to_owned()]))
    }

    pub fn agent(&self, service: &str, node: &str, spare: bool) -> String {
        self.section(&self.issue(&Who::Agent { service: service.into(), node: node.into(), spare }, &[]))
    }

    pub fn operator(&self, name: &str, role: Role) -> Issued {
        self.issue(&Who::Operator { name: name.into(), role }, &[])
    }

    pub fn section(&self, issued: &Issued) -> String {
        let Issued { certificate, key } = issued;
        let revoked = self.0.join("revoked.pem");
        format!(
            "\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nca = {:?}\nrevoked = {revoked:?}\n\n",
            self.ca()
        )
    }

    pub fn dialer(&self, issued: &Issued) -> Dialer {
        let pair = (issued.certificate.clone(), issued.key.clone());
        Dialer::open(&self.ca(), None, Some(pair), Arc::new(SystemClock)).unwrap()
    }
}
