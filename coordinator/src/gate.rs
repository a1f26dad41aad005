//! The way in over TCP: connections are taken within bounds, and proved before anything else is done for them. A flood
//! of strangers costs a little memory and the patience of its own address.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use palinurus_identity::{Known, Proved, TlsServer, Who};
use palinurus_repository::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::listen::{Incoming, Peer, Wire};

mod open;
mod turn;

use open::Open;
use turn::Places;

/// An agent keeps one; while it dials anew, some that are dead are not known to be.
const OF_AN_AGENT: usize = 8;
/// An operator has one a command.
const OF_AN_OPERATOR: usize = 64;
/// Those without a certificate, which any stranger can open where tokens are taken, and those from one address.
const NOBODIES: usize = 256;
const NOBODIES_EACH: usize = 32;
/// Handshakes under way, and those from one address.
const KNOCKING: usize = 256;
const KNOCKING_EACH: usize = 32;
/// For a handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the system has no room for another connection.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const QUEUE: usize = 16;
/// Files that are no connections: the state, an index for each service, the log, connections to stores and to etcd.
const OTHER_FILES: u64 = 1024;

/// `connections` are all there may be.
pub(crate) fn open(
    bound: TcpListener,
    tls: Option<Arc<TlsServer>>,
    connections: usize,
    cancel: CancellationToken,
) -> Incoming {
    open_files(connections as u64 + OTHER_FILES);
    let (through, incoming) = mpsc::channel(QUEUE);
    let gate = Gate {
        tls,
        connections: Arc::new(Semaphore::new(connections)),
        knocking: Places::new(KNOCKING),
        house: House {
            holders: Places::new(connections),
            nobodies: Places::new(NOBODIES),
            open: Open::default(),
        },
    };
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = gate.run(bound, through, &cancel) => {}
            () = gate.revoke() => {}
        }
    });
    ReceiverStream::new(incoming).map(Ok).boxed()
}

/// Most systems give a process 1024 until it asks for more.
fn open_files(wanted: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let most = limit.maximum.unwrap_or(wanted).min(wanted);
    limit.current = Some(most);
    let raised = setrlimit(Resource::Nofile, limit);
    if raised.is_err() || most < wanted {
        tracing::warn!(
            wanted,
            most,
            hint = "raise the limit of open files (LimitNOFILE), or say fewer `connections`",
            "not all connections that are allowed may find room"
        );
    }
}

#[derive(Debug)]
struct Gate {
    tls: Option<Arc<TlsServer>>,
    connections: Arc<Semaphore>,
    knocking: Places<IpAddr>,
    house: House,
}

/// Those who are in.
#[derive(Clone, Debug)]
struct House {
    holders: Places<Who>,
    nobodies: Places<IpAddr>,
    open: Open,
}

impl Gate {
    async fn revoke(&self) {
        match &self.tls {
            Some(tls) => self.house.open.watch(tls).await,
            None => std::future::pending().await,
        }
    }

    async fn run(&self, bound: TcpListener, through: mpsc::Sender<Wire>, cancel: &CancellationToken) {
        loop {
            let Ok(place) = self.connections.clone().acquire_owned().await else { return };
            let (stream, from) = match bound.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::debug!(error = %e, "a connection was not taken");
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let Some(tls) = self.tls.clone() else {
                let peer = Peer { address: Some(from), known: Known::Plain };
                if through.send(Wire::held(stream, peer, place)).await.is_err() {
                    return;
                }
                continue;
            };
            // Without a turn it is closed: whoever is served must not wait behind who is not known.
            let Some(turn) = self.knocking.take(from.ip(), KNOCKING_EACH) else { continue };
            let (through, house, cancel) = (through.clone(), self.house.clone(), cancel.clone());
            tokio::spawn(async move {
                let proved = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    proved = house.prove(&tls, stream, from, place) => proved,
                };
                drop(turn);
                match proved {
                    Ok(wire) => drop(through.send(wire).await),
                    // Anybody can make this line appear: it is for those who look for it.
                    Err(e) if e.kind() == palinurus_repository::ErrorKind::Unavailable => {
                        tracing::debug!(%from, why = e.chain(), "a caller did not get in");
                    }
                    Err(e) => tracing::info!(%from, why = e.chain(), "a caller did not get in"),
                }
            });
        }
    }
}

impl House {
    async fn prove(
        &self,
        tls: &TlsServer,
        stream: TcpStream,
        from: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Result<Wire> {
        let accepted = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
        let Proved { stream, known, certificate } =
            accepted.map_err(|_| Error::unavailable("it did not say who it is in time"))??;
        let peer = Peer { address: Some(from), known };
        let mut wire = Wire::held(stream, peer.clone(), place);
        match &peer.known {
            Known::Holder(who) => {
                let each = if matches!(who, Who::Agent { .. }) { OF_AN_AGENT } else { OF_AN_OPERATOR };
                let full = || Error::denied(format!("{} has {each} connections already", who.name()));
                wire.holds(self.holders.take(who.clone(), each).ok_or_else(full)?);
            }
            // Whose certificate says nothing can do no more than who has none.
            Known::Nobody | Known::Unclear(_) | Known::Plain => {
                let full = || Error::unavailable("too many without a certificate");
                wire.holds(self.nobodies.take(from.ip(), NOBODIES_EACH).ok_or_else(full)?);
            }
        }
        if let Some(certificate) = certificate {
            let (entry, over) = self.open.enter(certificate);
            wire.holds(entry);
            wire.ends_with(over);
        }
        Ok(wire)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::transport::server::Connected;

    use super::*;

    async fn passes(from: &mut (impl AsyncWriteExt + Unpin), to: &mut (impl AsyncReadExt + Unpin)) {
        let mut heard = [0];
        from.write_all(b"x").await.unwrap();
        to.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, *b"x");
    }

    // Paused: time goes on only once nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_places_are_taken_waits_for_one_and_the_others_go_on() {
        let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = bound.local_addr().unwrap();
        let mut incoming = super::open(bound, None, 2, CancellationToken::new());
        let mut inside = Vec::new();
        for _ in 0..2 {
            let outer = TcpStream::connect(address).await.unwrap();
            inside.push((outer, incoming.next().await.unwrap().unwrap()));
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"let me in").await.unwrap();
        let early = tokio::time::timeout(Duration::from_secs(60), incoming.next()).await;
        assert!(early.is_err(), "there are places for two");
        for (outer, inner) in &mut inside {
            passes(outer, inner).await;
            passes(inner, outer).await;
        }
        // Who hangs up gives his place back when his connection is dropped on this side.
        let (_, gone) = inside.remove(0);
        drop(gone);
        let mut inner = incoming.next().await.unwrap().unwrap();
        assert_eq!(inner.connect_info().address, Some(late.local_addr().unwrap()));
        let mut heard = [0; 9];
        inner.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"let me in", "what was said while it waited");
        let (outer, inner) = &mut inside[0];
        passes(outer, inner).await;
    }
}
