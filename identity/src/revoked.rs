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
