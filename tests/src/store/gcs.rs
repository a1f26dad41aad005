//! fake-gcs-server, for Google's store. It reads, lists and deletes as our client asks, and keeps conditions; but it takes
//! objects only in the language of Google's own libraries. The door in front of it says our puts in that one.
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::proxy::{Request, find, plain, read_request};
use super::{BUCKET, Left, Server, command, directory, free_ports, local, tool};
use crate::process::Process;

const BOUNDARY: &str = "the-parts-of-one-put-6c1f29aa";

impl Server {
    pub async fn gcs() -> Self {
        let dir = directory();
        let [port] = free_ports();
        let door = Door::before(local(port)).await;
        let mut gcs = command(tool("fake-gcs-server"));
        gcs.args(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", &port.to_string()]);
        gcs.args(["-public-host", &local(port).to_string(), "-log-level", "warn"]);
        gcs.env("HOME", dir.path());
        let process = Process::start("fake-gcs-server", gcs, &dir.path().join("log"));
        // A key file that asks nobody for a token.
        let key = dir.path().join("key.json");
        let text = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
        std::fs::write(&key, text).unwrap();
        let mut server = Self {
            address: local(port),
            https: None,
            scheme: "gs",
            container: BUCKET,
            settings: format!("endpoint=ENDPOINT&credentials={}", key.display()),
            process,
            _door: None,
            _left: Left::default(),
            dir,
        };
        server.answers("GET", "/storage/v1/b", "200").await;
        let name = format!("{{\"name\":\"{BUCKET}\"}}");
        let head = format!(
            "POST /storage/v1/b HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            server.address,
            name.len()
        );
        let made = passed_on(server.address, head.as_bytes(), name.as_bytes()).await.unwrap();
        assert!(made.starts_with(b"HTTP/1.1 200"), "no bucket: {}", String::from_utf8_lossy(&made));
        server.address = door.address;
        server._door = Some(door);
        server
    }
}

/// Ends when dropped.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(async move { drop(serve(client, upstream).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, task: task.abort_handle() }
    }
}

/// One request a connection.
async fn serve(client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let Some(request) = read_request(&mut client).await? else { return Ok(()) };
    let answer = match request.line.strip_prefix(&format!("PUT /{BUCKET}/")) {
        Some(rest) => put(upstream, rest.split([' ', '?']).next().unwrap(), &request).await?,
        None => passed_on(upstream, &renamed(&request.head, upstream), &request.body).await?,
    };
    client.into_inner().write_all(&answer).await
}

async fn put(upstream: SocketAddr, name: &str, request: &Request) -> std::io::Result<Vec<u8>> {
    let name = name.replace('/', "%2F").replace('+', "%2B");
    let header = |wanted: &str| {
        let head = std::str::from_utf8(&request.head).unwrap();
        let found = head.lines().filter_map(|line| line.split_once(':'));
        found.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    };
    let condition = header("x-goog-if-generation-match").map(|at| format!("&ifGenerationMatch={at}"));
    let mark = header("x-goog-meta-palinurus_put");
    let metadata = mark.map_or_else(|| "{}".to_owned(), |mark| format!("{{\"palinurus_put\":\"{mark}\"}}"));
    let mut body = format!(
        "--{BOUNDARY}\r\ncontent-type: application/json\r\n\r\n{{\"metadata\":{metadata}}}\r\n\
         --{BOUNDARY}\r\ncontent-type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&request.body);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let head = format!(
        "POST /upload/storage/v1/b/{BUCKET}/o?uploadType=multipart&name={name}{} HTTP/1.1\r\nhost: {upstream}\r\n\
         content-type: multipart/related; boundary={BOUNDARY}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        condition.unwrap_or_default(),
        body.len()
    );
    let answer = passed_on(upstream, head.as_bytes(), &body).await?;
    let Some(at) = find(&answer, b"\r\n\r\n").filter(|_| answer.starts_with(b"HTTP/1.1 200")) else {
        return Ok(answer);
    };
    let object: Value = serde_json::from_slice(&answer[at + 4..]).unwrap();
    let (tag, generation) = (&object["etag"], object["generation"].as_str().unwrap());
    Ok(plain(&format!("200 OK\r\netag: {tag}\r\nx-goog-generation: {generation}"), ""))
}

/// It knows objects only below the one name that it was given.
fn renamed(head: &[u8], host: SocketAddr) -> Vec<u8> {
    let head = std::str::from_utf8(head).unwrap();
    let line = |line: &str| match line.split_once(':') {
        Some((name, _)) if name.eq_ignore_ascii_case("host") => format!("host: {host}\r\n"),
        _ => line.to_owned(),
    };
    head.split_inclusive("\r\n").map(line).collect::<String>().into_bytes()
}

async fn passed_on(upstream: SocketAddr, head: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.write_all(head).await?;
    upstream.write_all(body).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}
