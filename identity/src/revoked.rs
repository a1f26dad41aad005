//! Which certificates hold no longer, though their time is not over: a list that their authority signed (RFC 5280).
use std::path::Path;

use palinurus_repository::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use crate::files::read;

const HINT: &str =
    "`palinurus certs init` and `certs revoke` write revoked.pem beside the authority's certificate";

/// None are, where no file is named.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    signed: Vec<CertificateRevocationListDer<'static>>,
    lists: Vec<CertRevocationList<'static>>,
}

impl Revoked {
    /// A list of an authority that is not ours would revoke nothing, and nobody would notice.
    pub(crate) fn read(file: &Path, roots: &RootCertStore) -> Result<Self> {
        if file.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let unfit = |why: &str| Error::invalid(format!("{} {why}", file.display())).with_hint(HINT);
        let text = read(file)?;
        let signed: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let signed = signed.map_err(|e| unfit("is not PEM").with_source(e))?;
        if signed.is_empty() {
            return Err(unfit("holds no list of revoked certificates"));
        }
        let mut lists = Vec::with_capacity(signed.len());
        for list in &signed {
            let list = OwnedCertRevocationList::from_der(list)
                .map_err(|e| unfit("holds a list that cannot be read").with_source(e.to_string()))?;
            let list = CertRevocationList::from(list);
            if !roots.roots.iter().any(|root| *root.subject == *list.issuer()) {
                return Err(unfit("is not of our authority"));
            }
            lists.push(list);
        }
        Ok(Self { signed, lists })
    }

    /// As rustls wants them. It proves their signatures.
    pub(crate) fn signed(&self) -> Vec<CertificateRevocationListDer<'static>> {
        self.signed.clone()
    }

    /// Of a certificate that was believed before.
    pub(crate) fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(parsed) = EndEntityCert::try_from(certificate) else { return true };
        let lists = self.lists.iter().filter(|list| list.issuer() == parsed.issuer());
        lists.map(|list| list.find_serial(parsed.serial())).any(|found| !matches!(found, Ok(None)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use palinurus_repository::entropy::SeededEntropy;
    use palinurus_repository::{Clock, ErrorKind, SystemClock};

    use super::*;
    use crate::files::{read_authorities, read_certificates};
    use crate::{Authority, Issued, Role, Shown, TlsConfig, TlsServer, VALID, Who};

    /// Two of one seed have one name, and different keys.
    fn authority(dir: &Path, seed: u64) -> (Authority, PathBuf) {
        Authority::init(dir, VALID * 2, SystemClock.now(), &SeededEntropy::new(seed)).unwrap();
        (Authority::open(dir).unwrap(), dir.join("revoked.pem"))
    }

    fn issue(authority: &Authority, who: &Who) -> Issued {
        authority.issue(who, &[], VALID, SystemClock.now(), true).unwrap()
    }

    #[test]
    fn what_was_taken_back_is_held_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, list) = authority(&dir.path().join("a"), 1);
        let roots = read_authorities(&dir.path().join("a/ca.pem")).unwrap();
        let ada = Who::Operator { name: "ada".into(), role: Role::Admin };
        let first = |issued: &Issued| read_certificates(&issued.certificate).unwrap().remove(0);
        let (lost, kept) = (first(&issue(&ours, &ada)), first(&issue(&ours, &ada)));
        assert!(!Revoked::read(&list, &roots).unwrap().holds(&lost));
        let serials = ours.issued_to(&ada).unwrap();
        assert_eq!(serials, [&lost, &kept].map(|one| Shown::of(one).unwrap().serial));
        assert_eq!(ours.revoke(&serials[..1], SystemClock.now()).unwrap(), 1);
        assert_eq!(ours.revoke(&serials[..1], SystemClock.now()).unwrap(), 1, "once");
        let revoked = Revoked::read(&list, &roots).unwrap();
        assert!(revoked.holds(&lost) && !revoked.holds(&kept));
        assert_eq!(
            ours.issued_to(&Who::Operator { name: "ada".into(), role: Role::Viewer }).unwrap(),
            [""; 0]
        );
        for wrong in ["", "0", "xy", "-1", "é1", &"00".repeat(21)] {
            assert_eq!(
                ours.revoke(&[wrong.to_owned()], SystemClock.now()).unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }

    #[test]
    fn a_list_that_would_revoke_nothing_or_everything_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, list) = authority(&dir.path().join("ours"), 1);
        let (_, other) = authority(&dir.path().join("other"), 2);
        let (_, forged) = authority(&dir.path().join("forged"), 1);
        let garbage = dir.path().join("garbage");
        std::fs::write(&garbage, "nothing").unwrap();
        let mine = issue(&ours, &Who::Coordinator { name: "c".into() });
        let serve = |revoked: &Path| {
            let config = TlsConfig {
                certificate: mine.certificate.clone(),
                key: mine.key.clone(),
                ca: dir.path().join("ours/ca.pem"),
                revoked: revoked.to_owned(),
            };
            config.check().unwrap();
            TlsServer::new(&config, false, Arc::new(SystemClock)).map(drop)
        };
        serve(Path::new("")).unwrap();
        serve(&list).unwrap();
        for (file, said) in [
            (&other, "is not of our authority"),
            (&forged, "is not signed by our authority"),
            (&garbage, "holds no list"),
            (&dir.path().join("none"), "read"),
        ] {
            let error = serve(file).unwrap_err();
            assert!(error.what().contains(said), "{error:?}");
        }
        let alone = TlsConfig { revoked: list, ..TlsConfig::default() };
        assert!(alone.check().unwrap_err().what().contains("names no certificate"));
        // It says nothing of its age: an old one is better than none.
        let later = SystemClock.now().plus(Duration::from_secs(3600));
        assert_eq!(ours.revoke(&[], later).unwrap(), 0);
    }
}
