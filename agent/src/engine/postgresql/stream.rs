//! WAL as it comes from the server, in order, with the places in it that a restore may aim at.
use std::fmt;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use palinurus_repository::{Error, ErrorKind, Result};

use super::client::Client;
use super::lsn::{Lsn, Segment};
use super::records::{EPOCH, Scanner};
use crate::engine::{LogStream, Next, ServerEnd};

pub(super) struct WalStream {
    replication: Client,
    system_identifier: u64,
    /// The one that the next byte belongs to.
    segment: Segment,
    received: Lsn,
    scanner: Scanner,
    written: Written,
    more: bool,
}

/// How far the server had written. What it says with bytes is that; with a sign of life it only says how far it has sent.
#[derive(Debug, Default)]
struct Written(u64);

impl Written {
    fn with_bytes(&mut self, said: ServerEnd) -> ServerEnd {
        self.0 = self.0.max(said.position);
        said
    }

    fn with_none(&self, said: ServerEnd) -> ServerEnd {
        ServerEnd { position: said.position.max(self.0), ..said }
    }
}

impl fmt::Debug for WalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalStream({} of timeline {})", self.received, self.segment.timeline)
    }
}

impl WalStream {
    /// From the start of `first` on; `more`: the server sends.
    pub(super) fn new(replication: Client, first: Segment, system_identifier: u64, more: bool) -> Self {
        let scanner = Scanner::new(first.start().0, first.size);
        let (received, written) = (first.start(), Written::default());
        Self { replication, system_identifier, segment: first, received, scanner, written, more }
    }

    fn bytes(&mut self, start: Lsn, bytes: Bytes, server: ServerEnd) -> Result<Next> {
        if start != self.received {
            return Err(Error::corrupt(format!("WAL is missing between {} and {start}", self.received)));
        }
        let (mut rest, mut marks) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            if self.received == self.segment.start() {
                self.segment.check_header(rest, self.system_identifier)?;
            }
            let room = (self.segment.end().0 - self.received.0) as usize;
            let (part, after) = rest.split_at(room.min(rest.len()));
            self.scanner.feed(part, &mut marks);
            self.received.0 += part.len() as u64;
            if self.received == self.segment.end() {
                self.segment = self.segment.next();
            }
            rest = after;
        }
        Ok(Next::Bytes { bytes, marks, server })
    }
}

#[async_trait]
impl LogStream for WalStream {
    async fn next(&mut self) -> Result<Next> {
        if !self.more {
            return Ok(Next::Ended);
        }
        let mut message = match self.replication.copy().await {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.more = false;
                return Ok(Next::Ended);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Next::Gone(error.chain())),
            Err(error) => return Err(error),
        };
        match (message.first().copied(), message.len()) {
            (Some(b'w'), 25..) => {
                message.advance(1);
                let start = Lsn(message.get_u64());
                let server = self.written.with_bytes(server_end(&mut message));
                self.bytes(start, message, server)
            }
            (Some(b'k'), 18..) => {
                message.advance(1);
                let server = self.written.with_none(server_end(&mut message));
                Ok(Next::Quiet { server, asks: message.get_u8() == 1 })
            }
            _ => Err(Error::corrupt("a message of WAL is cut short")),
        }
    }

    async fn release(&mut self, position: u64) -> Result<()> {
        if !self.more {
            return Ok(());
        }
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(self.received.0);
        // Below what it may reuse the server keeps whole segments: never ahead of what is stored.
        status.put_u64(position.min(self.received.0));
        status.put_u64(0);
        status.put_u64(0);
        status.put_u8(0);
        self.replication.put_copy(&status).await
    }
}

fn server_end(message: &mut Bytes) -> ServerEnd {
    let position = message.get_u64();
    let ms = message.get_i64().saturating_add(EPOCH) / 1000;
    ServerEnd { position, ms: u64::try_from(ms).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_not_all_that_is_written() {
        let mut written = Written::default();
        let said = |position, ms| ServerEnd { position, ms };
        assert_eq!(written.with_bytes(said(90, 1)), said(90, 1));
        assert_eq!(written.with_none(said(40, 2)), said(90, 2));
        assert_eq!(written.with_none(said(90, 3)), said(90, 3));
        assert_eq!(written.with_none(said(95, 4)), said(95, 4));
    }
}
