//! Before a server whose database `d` is of engine Atomic: to its agent it is of engine Replicated, which no server here can have.
//! What is in ZooKeeper another server tells, since chdb has no `system.zookeeper`.
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::store::proxy::{find, read_request};

type Hook = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Ends with its value.
pub struct Replicated {
    pub port: u16,
    /// The line of each request, which has its settings, and its statement.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    hook: Arc<Mutex<Hook>>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replicated({})", self.port)
    }
}

impl Replicated {
    pub async fn before(server: u16, reader: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, hook) = (Arc::default(), Arc::new(Mutex::new(Arc::new(|_: &str| true) as Hook)));
        let (all, each) = (Arc::clone(&seen), Arc::clone(&hook));
        let task = tokio::spawn(async move {
            // One after the other: the stand-in does no more at a time.
            while let Ok((agent, _)) = listener.accept().await {
                // An agent that has hung up is no failure here.
                drop(pass(agent, [server, reader], &all, &each).await);
            }
        });
        Self { port, seen, hook, task }
    }

    /// Called with each statement before the server has it. Where it says no, the server is as if it were gone.
    pub fn on(&self, hook: impl Fn(&str) -> bool + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Arc::new(hook);
    }

    /// What was asked since the last time.
    pub fn seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Replicated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    agent: TcpStream,
    [server, reader]: [u16; 2],
    seen: &Mutex<Vec<(String, String)>>,
    hook: &Mutex<Hook>,
) -> io::Result<()> {
    let mut agent = BufReader::new(agent);
    let Some(request) = read_request(&mut agent).await? else { return Ok(()) };
    let told = String::from_utf8_lossy(&request.body).into_owned();
    seen.lock().unwrap().push((request.line, told.clone()));
    let called = Arc::clone(&hook.lock().unwrap());
    if !tokio::task::block_in_place(|| called(&told)) {
        return Ok(());
    }
    let body = as_atomic(&told).unwrap_or(request.body);
    let head = String::from_utf8(request.head).unwrap();
    let lines =
        head.split("\r\n").map(|line| match line.to_ascii_lowercase().starts_with("content-length:") {
            true => format!("content-length: {}", body.len()),
            false => line.to_owned(),
        });
    let head = lines.collect::<Vec<_>>().join("\r\n");
    let port = if told.contains("FROM system.zookeeper") { reader } else { server };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    agent.into_inner().write_all(&answer).await
}

/// What stands for a statement of such a database's.
fn as_atomic(sql: &str) -> Option<Vec<u8>> {
    const LIST: &str = "SELECT name, engine FROM system.databases";
    const ENGINE: &str = "ENGINE = Replicated(";
    if let Some(rest) = sql.strip_prefix(LIST) {
        let shown = "SELECT name, if(name = 'd', 'Replicated', engine) FROM system.databases";
        return Some([shown.as_bytes(), rest.as_bytes()].concat());
    }
    if sql.starts_with("SYSTEM SYNC DATABASE REPLICA `d`") {
        return Some(b"SELECT 1".to_vec());
    }
    let at = find(sql.as_bytes(), ENGINE.as_bytes()).filter(|_| sql.starts_with("CREATE DATABASE"))?;
    Some([&sql.as_bytes()[..at], b"ENGINE = Atomic"].concat())
}
