//! Connections that are open. Whose certificate is revoked meanwhile loses his at once, with all that goes on over them.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palinurus_identity::{CertificateDer, TlsServer};

use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Open(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    all: Mutex<HashMap<u64, (CertificateDer<'static>, CancellationToken)>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    open: Open,
    number: u64,
}

impl Open {
    /// The token is cancelled when it is over.
    pub(super) fn enter(&self, certificate: CertificateDer<'static>) -> (Entry, CancellationToken) {
        let (number, over) = (self.0.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, (certificate, over.clone()));
        (Entry { open: self.clone(), number }, over)
    }

    pub(super) async fn watch(&self, tls: &TlsServer) {
        loop {
            tokio::time::sleep(LOOK).await;
            let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, over) in all.values().filter(|(certificate, _)| tls.has_revoked(certificate)) {
                over.cancel();
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.0.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
