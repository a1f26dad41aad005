//! Reads an audit log back, and says whether it is as it was written.
use std::io::BufRead;
use std::path::Path;

use palinurus_repository::{Error, Result};

use super::{CHAIN, Line};

pub(super) const FIRST: blake3::Hash = blake3::Hash::from_bytes([0; 32]);

/// What is true of a log whose chain holds.
#[derive(Clone, Debug)]
pub struct Verified {
    pub lines: u64,
    /// What a crash left half written.
    pub torn: u64,
    /// Noted elsewhere, it shows later whether lines at the end were taken away.
    pub head: String,
}

pub(super) fn link(last: &blake3::Hash, body: &str) -> blake3::Hash {
    blake3::Hasher::new().update(last.as_bytes()).update(body.as_bytes()).finalize()
}

/// The line, its body, and the chain up to it.
pub(super) fn split(text: &str) -> Option<(Line, String, blake3::Hash)> {
    let (open, chain) = text.rsplit_once(CHAIN)?;
    let chain = blake3::Hash::from_hex(chain.strip_suffix("\"}")?).ok()?;
    let body = format!("{open}}}");
    Some((serde_json::from_str(&body).ok()?, body, chain))
}

/// Gives each line to `seen`, and fails at the first that does not follow from those before it.
pub fn read(file: &Path, mut seen: impl FnMut(Line)) -> Result<Verified> {
    let failed = |e| Error::io(format!("read {}", file.display()), e);
    let open = std::fs::File::open(file).map_err(failed)?;
    let (mut last, mut found) = (FIRST, Verified { lines: 0, torn: 0, head: String::new() });
    for (at, text) in std::io::BufReader::new(open).split(b'\n').enumerate() {
        let text = text.map_err(failed)?;
        let Some((line, body, chain)) = std::str::from_utf8(&text).ok().and_then(split) else {
            found.torn += u64::from(!text.is_empty());
            continue;
        };
        if link(&last, &body) != chain {
            return Err(Error::corrupt(format!(
                "{}: line {} does not follow from those before it",
                file.display(),
                at + 1
            ))
            .with_hint("a line was changed, taken away or put in: compare with a copy that lies elsewhere"));
        }
        (last, found.lines) = (chain, found.lines + 1);
        seen(line);
    }
    found.head = last.to_hex().to_string();
    Ok(found)
}
