//! Names and statements as ClickHouse has them: bytes, which need not be UTF-8.
use std::fmt;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

/// In JSON a string, or `{"hex": ".."}` where it is no UTF-8.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Text(pub(super) Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes { hex: String },
}

impl From<Text> for Written {
    fn from(text: Text) -> Self {
        String::from_utf8(text.0).map_or_else(
            |e| Self::Bytes { hex: e.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect() },
            Self::Text,
        )
    }
}

impl From<Written> for Text {
    fn from(written: Written) -> Self {
        let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
        match written {
            Written::Text(text) => Self(text.into_bytes()),
            Written::Bytes { hex } => Self(
                hex.as_bytes().chunks(2).map(|two| two.iter().fold(0, |n, c| n << 4 | digit(*c))).collect(),
            ),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0).escape_debug())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an identifier in a statement.
    pub(super) fn quoted(&self) -> Vec<u8> {
        enclosed(&self.0, b'`')
    }

    /// As a string in a statement.
    pub(super) fn literal(&self) -> Vec<u8> {
        enclosed(&self.0, b'\'')
    }

    /// The name of its file or directory, as ClickHouse makes it.
    pub(super) fn file_name(&self) -> String {
        let escaped = |byte: &u8| match byte {
            b if b.is_ascii_alphanumeric() || *b == b'_' => char::from(*b).to_string(),
            b => format!("%{b:02X}"),
        };
        self.0.iter().map(escaped).collect()
    }
}

fn enclosed(bytes: &[u8], mark: u8) -> Vec<u8> {
    let mut out = vec![mark];
    for byte in bytes {
        match byte {
            b'\\' => out.extend(b"\\\\"),
            0 => out.extend(b"\\0"),
            byte if *byte == mark => out.extend([b'\\', mark]),
            byte => out.push(*byte),
        }
    }
    out.push(mark);
    out
}

/// `db`.`table`
pub(super) fn quoted(database: &Text, table: &Text) -> Vec<u8> {
    [database.quoted(), table.quoted()].join(&b'.')
}

/// The rows of a `TabSeparated` answer, each of `columns` values.
pub(super) fn rows(answer: &[u8], columns: usize) -> Result<Vec<Vec<Text>>> {
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() || columns == 1);
    let mut rows: Vec<Vec<Text>> =
        lines.map(|line| line.split(|byte| *byte == b'\t').map(unescaped).collect()).collect();
    if columns == 1 {
        // What follows the last line's end is no row.
        rows.pop();
    }
    match rows.iter().all(|row| row.len() == columns) {
        true => Ok(rows),
        false => Err(Error::corrupt("ClickHouse answered with rows of another shape")),
    }
}

pub(super) fn unescaped(value: &[u8]) -> Text {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'0') => 0,
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    Text(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_come_through() {
        let odd = Text(b"a`'\\\"\n\t\0\xff\xc3\xa9 %.".to_vec());
        assert_eq!(odd.quoted(), b"`a\\`'\\\\\"\n\t\\0\xff\xc3\xa9 %.`");
        assert_eq!(odd.literal(), b"'a`\\'\\\\\"\n\t\\0\xff\xc3\xa9 %.'");
        assert_eq!(Text::from("odd db'é").file_name(), "odd%20db%27%C3%A9");
        let json = serde_json::to_string(&odd).unwrap();
        assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), odd);
        assert_eq!(serde_json::to_string(&Text::from("plain é")).unwrap(), "\"plain é\"");
    }

    #[test]
    fn answers_are_taken_apart() {
        let answer = b"a\\tb\\n\\\\\\'\tc\n\t\xff\n";
        let want = vec![vec![Text::from("a\tb\n\\'"), "c".into()], vec![Text::default(), Text(vec![0xff])]];
        assert_eq!(rows(answer, 2).unwrap(), want);
        assert!(rows(answer, 3).is_err());
        assert_eq!(rows(b"\nx\n", 1).unwrap(), vec![vec![Text::default()], vec!["x".into()]]);
        assert!(rows(b"", 1).unwrap().is_empty() && rows(b"", 4).unwrap().is_empty());
    }
}
