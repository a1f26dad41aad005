//! Where calls come in: a TCP port, or what a simulation has for one.
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, io};

use futures::stream::BoxStream;
use palinurus_repository::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Router, TcpIncoming};

use crate::shared::Base;

/// A network of the caller's.
pub trait Listen: Send + Sync + fmt::Debug {
    /// Takes the address as the settings name it.
    fn listen(&self, address: &str) -> Result<(SocketAddr, Incoming)>;
}

pub type Incoming = BoxStream<'static, io::Result<Wire>>;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection of such a network.
pub struct Wire(Box<dyn Duplex>);

impl Wire {
    pub fn new(duplex: impl Duplex + 'static) -> Self {
        Self(Box::new(duplex))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire(..)")
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
        router: Router,
        cancel: CancellationToken,
    ) -> JoinHandle<Result<(), tonic::transport::Error>> {
        let cancelled = cancel.cancelled_owned();
        match self {
            Self::Given(_, incoming) => {
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, cancelled))
            }
            Self::Tcp(bound) => {
                let incoming = TcpIncoming::from(bound).with_nodelay(Some(true));
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, cancelled))
            }
        }
    }
}
