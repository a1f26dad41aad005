//! The way in over TCP: connections are taken within bounds, and proved before anything else is done for them. A flood
//! of strangers costs a little memory and the patience of its own address.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use palinurus_identity::{Known, TlsServer};
use palinurus_repository::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::listen::{Incoming, Peer, Wire};

/// All there may be. Agents keep one each, operators one a command.
const CONNECTIONS: usize = 4096;
/// Those without a certificate, which any stranger can open where tokens are taken.
const NOBODIES: usize = 256;
/// Handshakes under way, and those from one address.
const KNOCKING: usize = 256;
const KNOCKING_EACH: usize = 32;
/// For a handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the system has no room for another connection.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const QUEUE: usize = 16;

pub(crate) fn open(bound: TcpListener, tls: Option<Arc<TlsServer>>, cancel: CancellationToken) -> Incoming {
    let (through, incoming) = mpsc::channel(QUEUE);
    let gate = Gate {
        tls,
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        nobodies: Arc::new(Semaphore::new(NOBODIES)),
        knocking: Arc::default(),
    };
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = gate.run(bound, through, &cancel) => {}
        }
    });
    ReceiverStream::new(incoming).map(Ok).boxed()
}

#[derive(Debug)]
struct Gate {
    tls: Option<Arc<TlsServer>>,
    connections: Arc<Semaphore>,
    nobodies: Arc<Semaphore>,
    knocking: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Gate {
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
                if through.send(Wire::held(stream, peer, vec![place])).await.is_err() {
                    return;
                }
                continue;
            };
            // Without a turn it is closed: whoever is served must not wait behind who is not known.
            let Some(turn) = Turn::take(&self.knocking, from.ip()) else { continue };
            let (through, nobodies, cancel) = (through.clone(), self.nobodies.clone(), cancel.clone());
            tokio::spawn(async move {
                let proved = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    proved = prove(&tls, stream, from, place, &nobodies) => proved,
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

async fn prove(
    tls: &TlsServer,
    stream: TcpStream,
    from: SocketAddr,
    place: OwnedSemaphorePermit,
    nobodies: &Arc<Semaphore>,
) -> Result<Wire> {
    let accepted = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
    let (stream, known) = accepted.map_err(|_| Error::unavailable("it did not say who it is in time"))??;
    let mut held = vec![place];
    if known == Known::Nobody {
        let room = nobodies.clone().try_acquire_owned();
        held.push(room.map_err(|_| Error::unavailable("too many without a certificate"))?);
    }
    Ok(Wire::held(stream, Peer { address: Some(from), known }, held))
}

/// One handshake's place among those of its address.
#[derive(Debug)]
struct Turn {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of: IpAddr,
}

impl Turn {
    fn take(all: &Arc<Mutex<HashMap<IpAddr, usize>>>, of: IpAddr) -> Option<Self> {
        let mut knocking = all.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = knocking.values().sum();
        let mine = knocking.get(&of).copied().unwrap_or_default();
        if total >= KNOCKING || mine >= KNOCKING_EACH {
            return None;
        }
        knocking.insert(of, mine + 1);
        Some(Self { all: all.clone(), of })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut knocking = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = knocking.get_mut(&self.of) {
            *mine -= 1;
            if *mine == 0 {
                knocking.remove(&self.of);
            }
        }
    }
}
