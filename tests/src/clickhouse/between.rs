//! Between an agent and its server: what a test does at the moment when the server has answered a statement.
use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::store::proxy::{find, read_request};

/// Ends with its value.
#[derive(Debug)]
pub struct Between {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Between {
    /// `then` is done when a statement that holds `like` has been answered, and nobody has heard the answer yet.
    pub async fn before(server: u16, like: &'static str, then: impl Fn() + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            // One after the other: the stand-in does no more at a time.
            while let Ok((agent, _)) = listener.accept().await {
                // An agent that has hung up is no failure here.
                drop(pass(agent, server, like, &then).await);
            }
        });
        Self { port, task }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(agent: TcpStream, server: u16, like: &str, then: &(impl Fn() + Sync)) -> io::Result<()> {
    let mut agent = BufReader::new(agent);
    let Some(request) = read_request(&mut agent).await? else { return Ok(()) };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    stream.write_all(&[request.head, request.body.clone()].concat()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if find(&request.body, like.as_bytes()).is_some() {
        tokio::task::block_in_place(then);
    }
    agent.into_inner().write_all(&answer).await
}
