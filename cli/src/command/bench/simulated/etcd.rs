//! One real etcd member beside the coordinator, and what it says of itself.
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const ANSWER: Duration = Duration::from_secs(30);
const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const PREFIX: &str = "palinurus/";
/// etcd ends with the shell, and the shell with its standard input: also when this process is killed.
const GUARD: &str = r#"etcd "$@" & pid=$!; echo $pid; read -r _; kill -9 $pid; wait"#;

#[derive(Debug)]
pub(super) struct Etcd {
    _guard: Child,
    pub(super) pid: u32,
    client: String,
}

/// Since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) puts: u64,
    pub(super) database: u64,
}

/// What lies in it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Records {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) largest: String,
    pub(super) largest_bytes: u64,
}

pub(super) async fn is_installed() -> bool {
    let asked = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.await.is_ok_and(|status| status.success())
}

impl Etcd {
    pub(super) async fn start(home: &Path) -> Result<Self> {
        // Between being found free and being listened on, a port may become somebody else's.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::try_start(home).await {
                Err(_) if tries > 0 => std::fs::remove_dir_all(home.join("etcd")).unwrap_or_default(),
                started => return started,
            }
        }
    }

    async fn try_start(home: &Path) -> Result<Self> {
        let failed = |e| Error::io("start etcd", e);
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).map_err(failed);
        let (client, peer) = (free()?, free()?);
        let (clients, peers) = (format!("http://{client}"), format!("http://{peer}"));
        let log = std::fs::File::create(home.join("etcd.log")).map_err(failed)?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh", "--name", "bench", "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("bench={peers}"), "--data-dir"])
            .arg(home.join("etcd"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut said = String::new();
        let mut stdout = guard.stdout.take().ok_or_else(|| Error::internal("etcd's output"))?;
        while !said.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte).await.map_err(failed)?;
            said.push(char::from(byte[0]));
        }
        let pid = said.trim().parse().map_err(|_| Error::internal("etcd's process id"))?;
        let etcd = Self { _guard: guard, pid, client: client.to_string() };
        let ready = async {
            while etcd.ask("GET", "/health", "").await.is_err() {
                tokio::time::sleep(POLL).await;
            }
        };
        let late = |_| Error::unavailable(format!("etcd does not answer after {READY:?}"));
        tokio::time::timeout(READY, ready).await.map_err(late)?;
        Ok(etcd)
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.client)
    }

    pub(super) async fn counts(&self) -> Result<Counts> {
        let metrics = self.ask("GET", "/metrics", "").await?;
        let metrics = String::from_utf8_lossy(&metrics);
        let value = |name: &str| {
            let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<f64>().ok();
            metrics.lines().find_map(of).map(|value| value as u64)
        };
        let missing = || Error::unavailable("etcd does not say how much it wrote");
        Ok(Counts {
            // Its name until 3.5, and since.
            puts: value("etcd_mvcc_put_total")
                .or_else(|| value("etcd_debugging_mvcc_put_total"))
                .ok_or_else(missing)?,
            database: value("etcd_mvcc_db_total_size_in_bytes")
                .or_else(|| value("etcd_debugging_mvcc_db_total_size_in_bytes"))
                .ok_or_else(missing)?,
        })
    }

    pub(super) async fn records(&self) -> Result<Records> {
        let [from, to] = [PREFIX, "palinurus0"].map(|key| base64(key.as_bytes()));
        let body = format!("{{\"key\":\"{from}\",\"range_end\":\"{to}\"}}");
        let answer = self.ask("POST", "/v3/kv/range", &body).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|e| Error::unavailable("etcd's answer").with_source(e))?;
        let mut records = Records::default();
        for kv in answer["kvs"].as_array().into_iter().flatten() {
            let text = |field: &str| kv[field].as_str().unwrap_or_default();
            let bytes = (text("value").trim_end_matches('=').len() * 3 / 4) as u64;
            records.records += 1;
            records.bytes += bytes;
            if bytes > records.largest_bytes {
                records.largest_bytes = bytes;
                records.largest = text_of(text("key"));
            }
        }
        Ok(records)
    }

    /// HTTP/1.0: the answer ends with the connection.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let failed = |e| Error::io("ask etcd", e);
        let asked = async {
            let mut stream = TcpStream::connect(&self.client).await.map_err(failed)?;
            let head = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(head.as_bytes()).await.map_err(failed)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map_err(failed)?;
            let end = answer.windows(4).position(|at| at == b"\r\n\r\n");
            let is_well = answer.split(|byte| *byte == b' ').nth(1) == Some(b"200");
            match end.filter(|_| is_well) {
                Some(end) => Ok(answer.split_off(end + 4)),
                None => Err(Error::unavailable(format!("etcd refuses {path}"))),
            }
        };
        tokio::time::timeout(ANSWER, asked)
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("etcd is silent")))
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| (word << 8) | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[((word >> (18 - 6 * at)) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn text_of(base64: &str) -> String {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0u32, 0);
    for digit in base64.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)) {
        (word, bits) = ((word << 6) | digit as u32, bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push(((word >> bits) & 0xff) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_there_and_back() {
        for (text, encoded) in
            [("", ""), ("p", "cA=="), ("pa", "cGE="), ("pal", "cGFs"), ("palinurus/", "cGFsaW51cnVzLw==")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
            assert_eq!(text_of(encoded), text);
        }
    }
}
