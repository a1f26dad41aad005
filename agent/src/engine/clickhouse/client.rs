//! ClickHouse's HTTP interface: one connection a statement, on this machine.
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use palinurus_repository::{Error, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::config::Config;
use super::text::{Text, rows};

/// Of an answer, in memory: the schema of a hundred thousand tables.
const ANSWER_MAX: usize = 256 << 20;
/// Of a refusal, which is a line.
const REFUSAL_MAX: usize = 2000;

/// The statement is none of this version's.
pub(super) const SYNTAX: u32 = 62;
/// The table or database is not there.
pub(super) const GONE: [u32; 3] = [60, 81, 218];

/// Memory, disk, time or its other work is in the way.
const BUSY: [u32; 4] = [159, 202, 241, 243];
const FULL: &str = "No space left on device";

/// What the server said to a statement.
#[derive(Debug)]
pub(super) enum Fault {
    /// That it will not, with its number for why.
    Refused(u32, String),
    Other(Error),
}

pub(super) type Answer<T> = std::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(code @ (192 | 193 | 194 | 516), _) => {
                Error::denied(format!("ClickHouse does not let the agent in (code {code})"))
                    .with_hint("see engine.user and engine.password_file")
            }
            // What it does not understand it repeats, and that may be a password.
            Fault::Refused(SYNTAX, _) => {
                Error::conflict("ClickHouse does not understand a statement (code 62): its log has which")
            }
            Fault::Refused(497, text) => Error::denied(format!("ClickHouse: {text}"))
                .with_hint("grant it: docs/engines/clickhouse.md lists what the agent's user needs"),
            Fault::Refused(code, text) if GONE.contains(&code) => {
                Error::not_found(format!("ClickHouse: {text}"))
            }
            Fault::Refused(code, text) if BUSY.contains(&code) || text.contains(FULL) => {
                Error::unavailable(format!("ClickHouse: {text}"))
                    .with_hint("give the machine room, or try again when it has less to do")
            }
            Fault::Refused(_, text) => Error::conflict(format!("ClickHouse: {text}")),
            Fault::Other(error) => error,
        }
    }
}

impl Fault {
    pub(super) fn is_gone(&self) -> bool {
        self.code().is_some_and(|code| GONE.contains(&code))
    }

    pub(super) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(code, _) => Some(*code),
            Self::Other(_) => None,
        }
    }
}

#[derive(Clone)]
pub(super) struct Client {
    config: Config,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}:{})", self.config.host, self.config.port)
    }
}

impl Client {
    pub(super) fn new(config: Config) -> Self {
        Self { config }
    }

    /// For whatever one statement does.
    pub(super) fn patience(&self) -> Duration {
        self.config.query_timeout
    }

    pub(super) async fn run(&self, sql: impl AsRef<[u8]>) -> Answer<()> {
        self.run_with(sql, &[]).await
    }

    /// `settings` are this statement's alone.
    pub(super) async fn run_with(&self, sql: impl AsRef<[u8]>, settings: &[(&str, &str)]) -> Answer<()> {
        self.ask(sql.as_ref(), settings).await.map(drop)
    }

    /// `columns` is how many the statement selects.
    pub(super) async fn rows(&self, sql: impl AsRef<[u8]>, columns: usize) -> Answer<Vec<Vec<Text>>> {
        self.answer([sql.as_ref(), b" FORMAT TabSeparated"].concat(), columns).await
    }

    /// The same of a statement that says its format, which is `TabSeparated`.
    pub(super) async fn answer(&self, sql: impl AsRef<[u8]>, columns: usize) -> Answer<Vec<Vec<Text>>> {
        Ok(rows(&self.ask(sql.as_ref(), &[]).await?, columns)?)
    }

    /// The first column of the only row.
    pub(super) async fn value(&self, sql: impl AsRef<[u8]>) -> Answer<String> {
        let row = self.rows(sql, 1).await?.pop().and_then(|mut row| row.pop());
        let text = row.ok_or_else(|| Error::corrupt("ClickHouse answered nothing"))?;
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }

    /// Of whatever a statement answers; empty: nothing.
    pub(super) async fn first(&self, sql: &str) -> Answer<String> {
        let answer = self.ask(format!("{sql} FORMAT TabSeparated").as_bytes(), &[]).await?;
        let value = answer.split(|byte| b"\t\n".contains(byte)).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(value).into_owned())
    }

    pub(super) async fn number(&self, sql: impl AsRef<[u8]>) -> Answer<u64> {
        let text = self.value(sql).await?;
        Ok(text.parse().map_err(|e| Error::corrupt("ClickHouse answered no number").with_source(e))?)
    }

    /// Writes the answer to a file, of `limit` bytes at most. Gives its lines and its bytes.
    pub(super) async fn copy(&self, sql: &[u8], path: &Path, limit: u64) -> Answer<(u64, u64)> {
        self.in_time(self.write_down(sql, path, limit)).await
    }

    async fn write_down(&self, sql: &[u8], path: &Path, limit: u64) -> Answer<(u64, u64)> {
        let failed = |e| Error::io(format!("write {}", path.display()), e);
        let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
        let (mut lines, mut bytes) = (0, 0);
        let mut answer = self.send(sql, &[]).await?;
        while let Some(data) = answer.next().await? {
            bytes += data.len() as u64;
            lines += data.iter().filter(|byte| **byte == b'\n').count() as u64;
            if bytes > limit {
                return Err(Error::conflict("rows of tables without parts are more than engine.rows_mib")
                    .with_hint("raise it, or keep the rows in a table of the MergeTree family")
                    .into());
            }
            file.write_all(&data).await.map_err(failed)?;
        }
        file.sync_all().await.map_err(failed)?;
        Ok((lines, bytes))
    }

    async fn ask(&self, sql: &[u8], settings: &[(&str, &str)]) -> Answer<Vec<u8>> {
        self.in_time(async {
            let (mut answer, mut all) = (self.send(sql, settings).await?, Vec::new());
            while let Some(data) = answer.next().await? {
                all.extend_from_slice(&data);
                if all.len() > ANSWER_MAX {
                    return Err(Error::corrupt("ClickHouse answers without end").into());
                }
            }
            Ok(all)
        })
        .await
    }

    /// Whatever a statement is for: a server that hangs must not hold an operation for ever.
    async fn in_time<T>(&self, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
        tokio::time::timeout(self.config.query_timeout, answer).await.unwrap_or_else(|_| {
            Err(Error::unavailable("ClickHouse takes too long to answer")
                .with_hint("see what it does, or raise engine.query_timeout")
                .into())
        })
    }

    /// The beginning of an answer that is no refusal.
    async fn send(&self, sql: &[u8], settings: &[(&str, &str)]) -> Answer<Body> {
        let address = self.config.address()?;
        let away = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::unavailable(format!("ClickHouse does not answer at {address}"))
                .with_source(e)
                .with_hint("start it; engine.host and engine.port are those of its HTTP interface")
        };
        let stream = TcpStream::connect(address).await.map_err(|e| away(e.into()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| away(e.into()))?;
        // Ends with the answer: whoever drops that closes it.
        let moving = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let request = self.request(sql, settings, &address.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| away(e.into()))?;
        let status = response.status();
        let mut body = Body { body: response.into_body(), _moving: moving };
        if status == StatusCode::OK {
            return Ok(body);
        }
        let mut text = Vec::new();
        while let Some(data) = body.next().await? {
            text.extend_from_slice(&data);
            text.truncate(REFUSAL_MAX);
        }
        Err(refusal(&text))
    }

    fn request(&self, sql: &[u8], settings: &[(&str, &str)], host: &str) -> Result<Request<Full<Bytes>>> {
        let settings: String = settings.iter().map(|(name, value)| format!("&{name}={value}")).collect();
        let unusable = |e| Error::invalid("engine.user or its password is no header").with_source(e);
        let mut password = HeaderValue::from_bytes(&self.password()?).map_err(unusable)?;
        password.set_sensitive(true);
        let user = HeaderValue::from_bytes(self.config.user.as_bytes()).map_err(unusable)?;
        // Until the statement has ended nothing is sent, so that the status tells of any failure.
        Request::post(format!("/?wait_end_of_query=1{settings}"))
            .header(HOST, host)
            .header("x-clickhouse-user", user)
            .header("x-clickhouse-key", password)
            .body(Full::new(Bytes::copy_from_slice(sql)))
            .map_err(|e| Error::internal("a request").with_source(e))
    }

    /// Read for each statement: it may be changed under us.
    fn password(&self) -> Result<Vec<u8>> {
        let Some(path) = &self.config.password_file else { return Ok(Vec::new()) };
        let failed = |e| Error::io(format!("read engine.password_file {}", path.display()), e);
        if path.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(Error::denied(format!("engine.password_file {} is open to others", path.display()))
                .with_hint(format!("chmod 600 {}", path.display())));
        }
        let text = std::fs::read(path).map_err(failed)?;
        Ok(text.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec())
    }
}

/// An answer that comes in pieces.
struct Body {
    body: Incoming,
    _moving: AbortOnDropHandle<()>,
}

impl Body {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let broke = |e| Error::unavailable("ClickHouse broke off its answer").with_source(e);
            if let Ok(data) = frame.map_err(broke)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// `Code: 60. DB::Exception: ...`, or `Code: 60, e.displayText() = ...` before 20.
fn refusal(body: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(body).trim().to_owned();
    let digits = text.strip_prefix("Code: ").unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    Fault::Refused(digits.parse().unwrap_or(0), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::ErrorKind;

    #[test]
    fn refusals_have_a_number() {
        for (body, code) in [
            ("Code: 60. DB::Exception: x (UNKNOWN_TABLE)", 60),
            ("Code: 253, e.displayText() = DB::Exception: Replica", 253),
            ("<html>", 0),
        ] {
            assert_eq!(refusal(body.as_bytes()).code(), Some(code));
        }
        assert_eq!(Error::from(Fault::Refused(516, "x".into())).kind(), ErrorKind::Denied);
        let repeated = Error::from(Fault::Refused(62, "syntax error near 's3cret'".into()));
        assert!(!repeated.chain().contains("s3cret"));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let config = format!("root = '/d'\nport = {port}\nquery_timeout = '50ms'");
        let client = Client::new(Config::read(config.parse().unwrap()).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        let asked = client.run("SELECT 1").await.unwrap_err();
        let copied = client.copy(b"SELECT 1", file.path(), 1).await.unwrap_err();
        for fault in [asked, copied] {
            let error = Error::from(fault);
            assert!(error.kind() == ErrorKind::Unavailable && error.what().contains("too long"), "{error:?}");
        }
    }

    #[test]
    fn a_password_comes_from_a_closed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "s\u{e9}cret\nmore\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let config = format!("root = '/d'\npassword_file = {path:?}");
        let client = Client::new(Config::read(config.parse().unwrap()).unwrap());
        assert_eq!(client.password().unwrap_err().kind(), ErrorKind::Denied);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(client.password().unwrap(), "s\u{e9}cret".as_bytes());
        let request = client.request(b"select 1", &[("a", "1"), ("b", "0")], "h").unwrap();
        assert!(!format!("{request:?}").contains("cret"));
        assert_eq!(request.uri(), "/?wait_end_of_query=1&a=1&b=0");
    }
}
