//! As much of PostgreSQL's wire protocol as a backup needs: one session of plain SQL, and one of replication. No
//! crate that is kept up speaks the second, and with it the first is little more.
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palinurus_repository::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

mod auth;
mod response;
mod scram;

pub(super) use auth::Password;

use super::config::{Access, Address};
use response::{Message, error_of, row};

/// The largest message of a server that is one: WAL comes in 128 KiB.
const MESSAGE_MAX: usize = 16 << 20;
/// Of an answer. What is asked for here has a handful.
const ROWS_MAX: usize = 100_000;
const PROTOCOL: u32 = 3 << 16;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Sql,
    Replication,
}

/// The columns of a row, as text.
pub(super) type Row = Vec<Option<String>>;

pub(super) struct Client {
    stream: Box<dyn Io>,
    input: BytesMut,
    /// The server's process that serves this session.
    pub(super) backend: u32,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client(backend {})", self.backend)
    }
}

impl Client {
    /// Connected and logged in within the configured time.
    pub(super) async fn connect(access: &Access, mode: Mode) -> Result<Self> {
        let config = &access.config;
        let connecting = async {
            let mut client =
                Self { stream: dial(&config.address()?).await?, input: BytesMut::new(), backend: 0 };
            client.log_in(access, mode).await?;
            Ok(client)
        };
        tokio::time::timeout(config.connect_timeout, connecting).await.unwrap_or_else(|_| {
            let time = humantime::format_duration(config.connect_timeout);
            Err(Error::unavailable(format!("the server at {} does not answer within {time}", config.place()))
                .with_hint("see what it is busy with, or raise engine.connect_timeout"))
        })
    }

    async fn log_in(&mut self, access: &Access, mode: Mode) -> Result<()> {
        let config = &access.config;
        let mut body = BytesMut::new();
        body.put_u32(PROTOCOL);
        let replication = [("replication", "true")];
        let parameters = [
            ("user", config.user.as_str()),
            ("database", &config.database),
            ("application_name", "palinurus"),
            ("client_encoding", "UTF8"),
        ];
        let more: &[(&str, &str)] = if mode == Mode::Replication { &replication } else { &[] };
        for (name, value) in parameters.iter().chain(more) {
            put_text(&mut body, name)?;
            put_text(&mut body, value)?;
        }
        body.put_u8(0);
        self.write(None, &body).await?;
        self.authenticate(access).await?;
        loop {
            let mut message = self.read().await?;
            match message.tag {
                b'Z' => return Ok(()),
                b'K' if message.body.len() >= 4 => self.backend = message.body.get_u32(),
                b'E' => return Err(error_of(&message.body)),
                b'S' | b'N' | b'K' | b'v' => {}
                _ => return Err(unexpected(&message)),
            }
        }
    }

    /// All rows that the statements give.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.send_query(sql).await?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let message = self.read().await?;
            match message.tag {
                b'D' if rows.len() >= ROWS_MAX => return Err(Error::corrupt("an answer of too many rows")),
                b'D' => rows.push(row(&message.body)?),
                b'E' => failed = failed.or(Some(error_of(&message.body))),
                b'Z' => return failed.map_or(Ok(rows), Err),
                b'T' | b'C' | b'I' | b'N' | b'S' => {}
                _ => return Err(unexpected(&message)),
            }
        }
    }

    /// The only row of an answer that must have one.
    pub(super) async fn one(&mut self, sql: &str) -> Result<Row> {
        let mut rows = self.query(sql).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(Error::corrupt(format!("not one row for {sql:?}"))),
        }
    }

    /// `START_REPLICATION`: from here on both sides send [`copy`](Self::copy) data. False: there is nothing to send,
    /// and the session is of no more use.
    pub(super) async fn start_copy(&mut self, command: &str) -> Result<bool> {
        self.send_query(command).await?;
        loop {
            let message = self.read().await?;
            match message.tag {
                b'W' => return Ok(true),
                b'T' => return Ok(false),
                b'E' => return Err(error_of(&message.body)),
                b'N' | b'S' => {}
                _ => return Err(unexpected(&message)),
            }
        }
    }

    /// The next data of a copy; none when the server has ended it. May be dropped while it waits.
    pub(super) async fn copy(&mut self) -> Result<Option<Bytes>> {
        loop {
            let message = self.read().await?;
            match message.tag {
                b'd' => return Ok(Some(message.body)),
                b'c' => return Ok(None),
                b'C' => return Err(Error::unavailable("the server shuts down")),
                b'E' => return Err(error_of(&message.body)),
                b'N' | b'S' => {}
                _ => return Err(unexpected(&message)),
            }
        }
    }

    pub(super) async fn put_copy(&mut self, data: &[u8]) -> Result<()> {
        self.write(Some(b'd'), data).await
    }

    /// Waits while nothing is asked: ends only with an error, when the session does. May be dropped.
    pub(super) async fn idle(&mut self) -> Error {
        loop {
            match self.read().await {
                Ok(message) if message.tag == b'E' => return error_of(&message.body),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// Says goodbye; a server that does not hear it finds the connection closed.
    pub(super) async fn end(mut self) {
        let _ = self.write(Some(b'X'), &[]).await;
        let _ = self.stream.shutdown().await;
    }

    async fn send_query(&mut self, sql: &str) -> Result<()> {
        let mut body = BytesMut::new();
        put_text(&mut body, sql)?;
        self.write(Some(b'Q'), &body).await
    }

    async fn write(&mut self, tag: Option<u8>, body: &[u8]) -> Result<()> {
        let mut message = BytesMut::with_capacity(body.len() + 5);
        message.extend(tag);
        let len = u32::try_from(body.len() + 4).map_err(|_| Error::internal("a message of 4 GiB"))?;
        message.put_u32(len);
        message.put_slice(body);
        self.stream.write_all(&message).await.map_err(lost)
    }

    /// Keeps what it has read when it is dropped while it waits.
    async fn read(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.next_read()? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.input).await.map_err(lost)? == 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn next_read(&mut self) -> Result<Option<Message>> {
        let Some(header) = self.input.get(..5) else { return Ok(None) };
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if !(4..=MESSAGE_MAX).contains(&len) {
            return Err(Error::corrupt("what answers does not speak PostgreSQL's protocol"));
        }
        if self.input.len() < len + 1 {
            self.input.reserve(len + 1 - self.input.len());
            return Ok(None);
        }
        let mut message = self.input.split_to(len + 1).freeze();
        let tag = message.get_u8();
        message.advance(4);
        Ok(Some(Message { tag, body: message }))
    }
}

async fn dial(address: &Address) -> Result<Box<dyn Io>> {
    let failed = |e: io::Error| {
        let missing = matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        let kind = if e.kind() == io::ErrorKind::PermissionDenied {
            ErrorKind::Denied
        } else {
            ErrorKind::Unavailable
        };
        let what = if missing { "no PostgreSQL server answers at" } else { "connect to PostgreSQL at" };
        Error::new(kind, format!("{what} {address}")).with_source(e).with_hint(
            "start the server, or set engine.host (its socket directory, or 127.0.0.1) and engine.port",
        )
    };
    Ok(match address {
        Address::Socket(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        Address::Tcp(to) => {
            let stream = TcpStream::connect(to).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Box::new(stream)
        }
    })
}

fn put_text(to: &mut BytesMut, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid("a zero byte in what is sent to PostgreSQL"));
    }
    to.put_slice(text.as_bytes());
    to.put_u8(0);
    Ok(())
}

fn lost(error: io::Error) -> Error {
    Error::unavailable("the connection to PostgreSQL broke")
        .with_source(error)
        .with_hint("the server ended, or ended the session: its log says why")
}

fn unexpected(message: &Message) -> Error {
    Error::corrupt(format!("an unexpected message {:?} of PostgreSQL", char::from(message.tag)))
}

#[cfg(test)]
mod tests;
