//! A timeline's history file: which timelines came before it, and where each was left.
//!
//! ```text
//! 1<tab>0/3000158<tab>before 2026-11-22 17:00:00+00
//! ```
//! A server that recovered towards a timeline and stopped before that began names it all the same: then a line's end lies
//! before the end of a line above it, and the history has nothing of its timeline.
use palinurus_repository::{Error, Result};

use super::logs::WalIdentity;
use super::lsn::Lsn;
use crate::engine::Fork;

/// The parents that the history has something of, the oldest first.
pub(super) fn parents(system_identifier: u64, account: &[u8]) -> Result<Vec<Fork>> {
    let wrong = || Error::corrupt("a timeline's history does not parse");
    let mut parents: Vec<Fork> = Vec::new();
    let mut before = 0;
    for line in String::from_utf8_lossy(account).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut parts = line.split_whitespace();
        let timeline: u32 = parts.next().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let until: Lsn = parts.next().ok_or_else(wrong)?.parse()?;
        if timeline <= before {
            return Err(wrong());
        }
        before = timeline;
        let identity = WalIdentity { system_identifier, timeline }.encode();
        match parents.iter().position(|parent| parent.until >= until.0) {
            Some(at) => {
                parents.truncate(at + 1);
                parents[at].until = until.0;
            }
            None => parents.push(Fork { identity, until: until.0 }),
        }
    }
    Ok(parents)
}

/// As PostgreSQL names the file.
pub(super) fn name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgresql_writes_it() {
        let text =
            b"1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 2000-01-01 00:00:00+00\n";
        let parents = parents(7, text).unwrap();
        let fork = |timeline, until| Fork {
            identity: WalIdentity { system_identifier: 7, timeline }.encode(),
            until,
        };
        assert_eq!(parents, [fork(1, 0x300_0158), fork(2, 0x500_0000)]);
        let early = b"1\t0/3000158\tx\n2\t0/5000000\tx\n4\t0/4000000\tbefore timeline 4 began\n";
        assert_eq!(super::parents(7, early).unwrap(), [fork(1, 0x300_0158), fork(2, 0x400_0000)]);
        assert_eq!(super::parents(7, b"1\t0/9\tx\n2\t0/8\tx\n3\t0/7\tx\n").unwrap(), [fork(1, 7)]);
        assert_eq!(super::parents(7, b"# nothing\n").unwrap(), []);
        for bad in [&b"x\t0/1\n"[..], b"1\n", b"2\t0/1\n1\t0/2\n", b"1\tx\n"] {
            assert!(super::parents(7, bad).is_err(), "{bad:?}");
        }
        assert_eq!(name(11), "0000000B.history");
    }
}
