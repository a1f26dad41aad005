//! What the server sends, taken apart. It may be anything: every length is checked.
use bytes::{Buf, Bytes};
use palinurus_repository::{Error, ErrorKind, Result};

use super::Row;

#[derive(Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A `DataRow` of text columns.
pub(super) fn row(body: &Bytes) -> Result<Row> {
    let cut = || Error::corrupt("a row of PostgreSQL is cut short");
    let mut body = body.clone();
    let columns = if body.len() >= 2 { body.get_u16() } else { return Err(cut()) };
    let mut row = Vec::new();
    for _ in 0..columns {
        let len = if body.len() >= 4 { body.get_i32() } else { return Err(cut()) };
        let Ok(len) = usize::try_from(len) else {
            row.push(None);
            continue;
        };
        if body.len() < len {
            return Err(cut());
        }
        let text = String::from_utf8(body.split_to(len).to_vec());
        row.push(Some(
            text.map_err(|e| Error::corrupt("a column of PostgreSQL is not UTF-8").with_source(e))?,
        ));
    }
    Ok(row)
}

/// An `ErrorResponse`: the server's words are the message, its hint is the hint.
pub(super) fn error_of(body: &Bytes) -> Error {
    let (mut code, mut message, mut detail, mut hint) = (String::new(), String::new(), None, None);
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => code = text,
            b'M' => message = text,
            b'D' => detail = Some(text),
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    let kind = match code.as_bytes() {
        b"42501" | [b'2', b'8', ..] => ErrorKind::Denied,
        b"42704" | b"42883" | [b'2', b'2', ..] => ErrorKind::Invalid,
        b"58P01" => ErrorKind::NotFound,
        [b'5', b'5', ..] => ErrorKind::Conflict,
        [b'X', b'X', ..] => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    let mut error = Error::new(kind, format!("PostgreSQL says: {message} ({code})"));
    if let Some(detail) = detail {
        error = error.with_source(detail);
    }
    error.with_hint(hint.unwrap_or_else(|| {
        match code.as_bytes() {
            b"53300" => "raise max_connections, or max_wal_senders",
            [b'5', b'7', b'P', ..] => {
                "the server is starting, stopping or ended the session: its log says why"
            }
            _ => "the server's log says more",
        }
        .to_owned()
    }))
}
