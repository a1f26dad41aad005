//! Object stores as real servers on loopback, in a directory that goes when the test ends. `tests/run` installs them in
//! `target/tools`; a test without its server fails and says so.
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use palinurus_repository::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;

mod azurite;
mod gcs;
mod lock;
mod moto;
pub mod proxy;
mod rclone;
pub mod tls;
mod weed;

pub use proxy::{Faults, Proxy};
pub use tls::Ca;

/// How long a server may take to begin.
const START: Duration = Duration::from_secs(120);
pub const BUCKET: &str = "lab";

/// A running store. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    https: Option<SocketAddr>,
    scheme: &'static str,
    container: &'static str,
    /// Behind the `?` of URLs; `ENDPOINT` in it becomes the endpoint's address.
    settings: String,
    process: Process,
    _door: Option<gcs::Door>,
    // Last: processes end before what they wrote goes.
    _left: Left,
    dir: tempfile::TempDir,
}

impl Server {
    /// An S3 without TLS that takes this key.
    fn plain_s3(process: Process, dir: tempfile::TempDir, port: u16, [id, secret]: [&str; 2]) -> Self {
        let credentials = aws_credentials(dir.path(), id, secret);
        Self {
            address: local(port),
            https: None,
            scheme: "s3",
            container: BUCKET,
            settings: format!("endpoint=ENDPOINT&credentials={}", credentials.display()),
            process,
            _door: None,
            _left: Left::default(),
            dir,
        }
    }

    pub fn url(&self, prefix: &str) -> String {
        self.url_through(self.address, prefix)
    }

    /// By way of a proxy.
    pub fn url_through(&self, address: SocketAddr, prefix: &str) -> String {
        let settings = self.settings.replace("ENDPOINT", &format!("http://{address}"));
        format!("{}://{}/{prefix}?{settings}", self.scheme, self.container)
    }

    /// The same by TLS, with more settings.
    pub fn https_url(&self, prefix: &str, more: &str) -> String {
        let address = self.https.expect("started with TLS");
        let settings = self.settings.replace("ENDPOINT", &format!("https://{address}"));
        format!("{}://{}/{prefix}?{settings}{more}", self.scheme, self.container)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Polls with a real client until an object can be put: until then a server that answers may still say no.
    async fn takes_objects(&mut self) {
        let deadline = tokio::time::Instant::now() + START;
        let storage = palinurus_repository::storage::open(&self.url("begin")).unwrap();
        let key = ["probe".to_owned()];
        loop {
            self.process.check();
            let absent = storage.size("absent").await.unwrap_err();
            let tried = match absent.kind() {
                ErrorKind::NotFound => storage.put(&key[0], bytes::Bytes::new()).await,
                _ => Err(absent),
            };
            match tried {
                Ok(()) => return storage.delete(&key).await.unwrap(),
                Err(e) => {
                    assert!(tokio::time::Instant::now() < deadline, "{e:?}\n{}", self.process.log_text())
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Polls until somebody accepts connections.
    async fn listens(&mut self) {
        let deadline = tokio::time::Instant::now() + START;
        while let Err(e) = TcpStream::connect(self.address).await {
            self.process.check();
            assert!(tokio::time::Instant::now() < deadline, "{e}\n{}", self.process.log_text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Polls `path` until the server answers with `status`.
    async fn answers(&mut self, method: &str, path: &str, status: &str) {
        let deadline = tokio::time::Instant::now() + START;
        loop {
            self.process.check();
            match ask(self.address, method, path).await {
                Ok(answer) if answer.split(' ').nth(1) == Some(status) => return,
                answer => assert!(
                    tokio::time::Instant::now() < deadline,
                    "{} does not begin: {answer:?}\n{}",
                    self.process.name,
                    self.process.log_text()
                ),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Files that a server leaves outside of its directory.
#[derive(Debug, Default)]
struct Left(Vec<PathBuf>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

/// One request of HTTP by hand; the answer's head and as much else as comes.
async fn ask(address: SocketAddr, method: &str, path: &str) -> std::io::Result<String> {
    let request = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), request).await.unwrap_or_else(|e| Err(e.into()))
}

/// What `tests/run` installed.
pub fn tool(path: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/tools").join(path);
    assert!(tool.exists(), "{} is missing: tests/run installs it", tool.display());
    tool
}

/// Nothing of ours reaches it, such as the keys of whoever runs the tests.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

/// Ports that are this process's until it ends, also while nobody listens there: a test beside it gets others. Not of those
/// that the kernel gives out: a client's connection could take one before its server, or between two of them.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static OURS: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let user = rustix::process::geteuid().as_raw();
    let locks = std::env::temp_dir().join(format!("palinurus-ports-of-{user}"));
    std::fs::create_dir_all(&locks).unwrap();
    [(); N].map(|()| {
        loop {
            let next =
                std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(FIRST + next % PORTS).unwrap();
            let lock = File::options().create(true).append(true).open(locks.join(port.to_string())).unwrap();
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                OURS.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
                return port;
            }
        }
    })
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("s").tempdir().unwrap()
}

/// A credentials file as the AWS tools write it.
fn aws_credentials(dir: &Path, id: &str, secret: &str) -> PathBuf {
    let path = dir.join("credentials");
    std::fs::write(&path, format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"))
        .unwrap();
    path
}
