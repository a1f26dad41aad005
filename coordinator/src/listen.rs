//! Where calls come in: a TCP port, or what a simulation has for one.
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use futures::stream::BoxStream;
use palinurus_identity::{Known, TlsServer};
use palinurus_repository::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, Router};

use crate::access::Guarded;
use crate::gate;
use crate::shared::Base;

/// A network of the caller's.
pub trait Listen: Send + Sync + fmt::Debug {
    /// Takes the address as the settings name it.
    fn listen(&self, address: &str) -> Result<(SocketAddr, Incoming)>;
}

pub type Incoming = BoxStream<'static, io::Result<Wire>>;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Who is at the other end, and where.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    pub known: Known,
}

/// One connection, with its place among those there may be.
pub struct Wire {
    duplex: Box<dyn Duplex>,
    peer: Peer,
    /// Cancelled, it breaks.
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    held: Vec<Box<dyn Send>>,
}

impl Wire {
    /// Of a network of the caller's, where nobody is asked who they are.
    pub fn new(duplex: impl Duplex + 'static) -> Self {
        Self::held(duplex, Peer { address: None, known: Known::Plain }, ())
    }

    pub(crate) fn held(duplex: impl Duplex + 'static, peer: Peer, place: impl Send + 'static) -> Self {
        Self { duplex: Box::new(duplex), peer, over: None, held: vec![Box::new(place)] }
    }

    /// Drops it when the connection ends.
    pub(crate) fn holds(&mut self, place: impl Send + 'static) {
        self.held.push(Box::new(place));
    }

    pub(crate) fn ends_with(&mut self, over: CancellationToken) {
        self.over = Some(Box::pin(over.cancelled_owned()));
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Wire {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever serves it reads it all the time: with that the rest ends too.
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.duplex).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.duplex).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_shutdown(cx)
    }
}

pub(crate) enum Listener {
    Tcp(TcpListener),
    Given(SocketAddr, Incoming),
}

impl Listener {
    pub(crate) async fn open(base: &Base) -> Result<Self> {
        let wanted = &base.config.listen;
        if let Some(network) = &base.world.listen {
            return network.listen(wanted).map(|(address, incoming)| Self::Given(address, incoming));
        }
        let bound = TcpListener::bind(wanted).await;
        bound.map(Self::Tcp).map_err(|e| Error::io(format!("listen on {wanted}"), e))
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Given(address, _) => Ok(*address),
            Self::Tcp(bound) => bound.local_addr().map_err(|e| Error::io("the address listened on", e)),
        }
    }

    pub(crate) fn serve(
        self,
        router: Router<Guarded>,
        tls: Option<Arc<TlsServer>>,
        connections: usize,
        cancel: CancellationToken,
    ) -> JoinHandle<Result<(), tonic::transport::Error>> {
        let incoming = match self {
            Self::Given(_, incoming) => incoming,
            Self::Tcp(bound) => gate::open(bound, tls, connections, cancel.clone()),
        };
        tokio::spawn(router.serve_with_incoming_shutdown(incoming, cancel.cancelled_owned()))
    }
}
