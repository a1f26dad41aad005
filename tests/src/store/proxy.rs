//! A TCP proxy before a store's server that speaks enough HTTP to do to it what networks and load balancers do: some
//! requests fail, drag on, come twice, or are carried out and never answered. Which ones follows from a seed.
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 with S3's words; nothing is passed on.
    Busy,
    /// 500 with no words.
    Broken,
    /// The connection is reset before the request is passed on.
    Reset,
    /// Carried out; the connection is reset instead of an answer.
    Lost,
    /// Carried out; 500 is the answer.
    Disowned,
    /// Carried out twice; the second answer is given.
    Twice,
    /// The answer ends in the middle.
    Truncated,
    /// The answer comes in drops.
    Slow,
    /// The answer stops in the middle and the connection stays.
    Stalled,
    /// The store says no, in S3's words, to requests whose head has `like` in it; nothing of them is passed on.
    Refused { like: &'static str, status: &'static str, code: &'static str },
}

impl Fault {
    pub const QUICK: [Fault; 8] = [
        Fault::Busy,
        Fault::Broken,
        Fault::Reset,
        Fault::Lost,
        Fault::Disowned,
        Fault::Twice,
        Fault::Truncated,
        Fault::Slow,
    ];
}

#[derive(Clone, Debug)]
pub struct Faults {
    pub seed: u64,
    /// Of a hundred requests, how many suffer one.
    pub percent: u64,
    pub kinds: Vec<Fault>,
}

impl Faults {
    /// Each request that is like that is refused.
    pub fn refusing(like: &'static str, status: &'static str, code: &'static str) -> Self {
        Self { seed: 0, percent: 100, kinds: vec![Fault::Refused { like, status, code }] }
    }

    pub fn none() -> Self {
        Self { seed: 0, percent: 0, kinds: vec![Fault::Busy] }
    }
}

/// Ends with its value.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    faults: Mutex<Faults>,
    /// How often a method and path was seen: the order in which tasks run changes nothing.
    seen: Mutex<HashMap<String, u64>>,
    requests: AtomicU64,
    faulty: AtomicU64,
    parts: AtomicU64,
}

pub(crate) struct Request {
    pub(crate) head: Vec<u8>,
    pub(crate) line: String,
    pub(crate) body: Vec<u8>,
}

impl Proxy {
    pub async fn before(upstream: SocketAddr, faults: Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            faults: Mutex::new(faults),
            seen: Mutex::default(),
            requests: AtomicU64::new(0),
            faulty: AtomicU64::new(0),
            parts: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = accepting.clone();
                // That a connection breaks is what this is for.
                connections.spawn(async move { drop(shared.serve(client).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, shared, task }
    }

    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub fn faulty(&self) -> u64 {
        self.shared.faulty.load(Ordering::SeqCst)
    }

    /// Parts of multipart uploads that were passed on.
    pub fn parts(&self) -> u64 {
        self.shared.parts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// One request a connection: the next comes on a new one.
    async fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut client = BufReader::new(client);
        let Some(request) = read_request(&mut client).await? else { return Ok(()) };
        let mut client = client.into_inner();
        self.requests.fetch_add(1, Ordering::SeqCst);
        let applies = |fault: &Fault| match fault {
            Fault::Refused { like, .. } => find(&request.head, like.as_bytes()).is_some(),
            _ => true,
        };
        let fault = self.draw(&request).filter(applies);
        if fault.is_some() {
            self.faulty.fetch_add(1, Ordering::SeqCst);
        }
        match fault {
            Some(Fault::Busy) => {
                let words =
                    "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>";
                return client.write_all(&plain("503 Slow Down", words)).await;
            }
            Some(Fault::Broken) => return client.write_all(&plain("500 Internal Server Error", "")).await,
            Some(Fault::Reset) => return reset(client),
            Some(Fault::Refused { status, code, .. }) => {
                let body = format!(
                    "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>so it is said</Message></Error>"
                );
                return client.write_all(&plain(status, &body)).await;
            }
            _ => {}
        }
        let mut answer = self.deliver(&request).await?;
        match fault {
            Some(Fault::Lost) => return reset(client),
            Some(Fault::Disowned) => return client.write_all(&plain("500 Internal Server Error", "")).await,
            Some(Fault::Twice) => answer = self.deliver(&request).await?,
            _ => {}
        }
        let body = find(&answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        // Of an answer without a body, the head is what ends in the middle.
        let middle = if body < answer.len() { body + (answer.len() - body) / 2 } else { body / 2 };
        match fault {
            Some(Fault::Truncated) => client.write_all(&answer[..middle]).await,
            Some(Fault::Slow) => {
                for drop in answer.chunks(answer.len().div_ceil(20)) {
                    client.write_all(drop).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
            Some(Fault::Stalled) => {
                client.write_all(&answer[..middle]).await?;
                // Until the client has enough of it.
                client.read(&mut [0; 1]).await.map(drop)
            }
            _ => client.write_all(&answer).await,
        }
    }

    fn draw(&self, request: &Request) -> Option<Fault> {
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            let nth = seen.entry(request.line.clone()).or_default();
            *nth += 1;
            *nth
        };
        let faults = self.faults.lock().unwrap();
        let mut hash = faults.seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in request.line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^= hash >> 32;
        let kind = faults.kinds[(hash >> 8) as usize % faults.kinds.len()];
        (hash % 100 < faults.percent).then_some(kind)
    }

    async fn deliver(&self, request: &Request) -> io::Result<Vec<u8>> {
        if request.line.contains("partNumber=") {
            self.parts.fetch_add(1, Ordering::SeqCst);
        }
        let mut upstream = TcpStream::connect(self.upstream).await?;
        upstream.write_all(&request.head).await?;
        upstream.write_all(&request.body).await?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// The request as it is to be passed on: its server closes the connection behind the answer.
pub(crate) async fn read_request(client: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if client.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut head = line.clone().into_bytes();
    let (mut length, mut waits) = (0, false);
    loop {
        let mut header = String::new();
        client.read_line(&mut header).await?;
        if header.trim_end().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "expect" => {
                waits = true;
                continue;
            }
            "content-length" => length = value.trim().parse().unwrap(),
            "transfer-encoding" => panic!("the proxy reads no {value} bodies"),
            _ => {}
        }
        head.extend_from_slice(header.as_bytes());
    }
    head.extend_from_slice(b"connection: close\r\n\r\n");
    if waits {
        client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).await?;
    Ok(Some(Request { head, line, body }))
}

pub(super) fn plain(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn reset(client: TcpStream) -> io::Result<()> {
    client.set_zero_linger()
}

pub(crate) fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}
