//! What a server committed, in the order of its WAL, by PostgreSQL's own `pg_waldump`: the oracle for a restore to a moment.
use std::collections::BTreeSet;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::postgres::{Postgres, as_user, bin};

/// Of a WAL page.
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 24;
const SEGMENT: u64 = 16 << 20;

/// The end of a transaction, as recovery meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub xid: u32,
    /// Where its record begins.
    pub at: u64,
    /// Behind its last byte.
    pub end: u64,
    pub time_us: i64,
    /// It ends a recovery like any other, and has left nothing.
    aborted: bool,
}

/// A moment, as recovery takes it.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    TimeUs(i64),
    Position(u64),
    /// The log ends there.
    End(u64),
}

pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// All that ended on the first timeline, as far back as its WAL is in the directory, whose server may be dead.
pub fn commits(data: &Path) -> Vec<Commit> {
    let wal = data.join("pg_wal");
    let names =
        std::fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let first = names.filter(|name| name.len() == 24 && name.starts_with("00000001")).min().expect("WAL");
    let number = |part: &str| u64::from_str_radix(part, 16).unwrap();
    let start = format!("{:X}/{:X}", number(&first[8..16]), number(&first[16..]) * SEGMENT);
    let mut dump = as_user(&bin().join("pg_waldump"));
    dump.env("TZ", "UTC").arg("-p").arg(wal).args(["-r", "Transaction", "-s", &start]);
    // It fails at the end of the WAL, as it should: that is where a server would write on.
    let output = dump.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<Commit> = text.lines().filter_map(parse).collect();
    assert!(!found.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    found
}

/// `rmgr: Transaction len (rec/tot):  34/  34, tx: 725, lsn: 0/017595A0, prev …, desc: COMMIT 2026-11-22 20:33:22.310944 UTC`.
fn parse(line: &str) -> Option<Commit> {
    let behind = |word: &str| line.split_once(word).map(|(_, rest)| rest.trim_start());
    let until = |text: &str, end: char| text.split(end).next().unwrap_or_default().trim().to_owned();
    let what = behind("desc: ")?;
    let aborted = what.starts_with("ABORT ");
    if !aborted && !what.starts_with("COMMIT ") {
        return None;
    }
    let length: u64 = until(&until(behind("(rec/tot):")?.split_once('/')?.1, ','), ' ').parse().ok()?;
    let at = lsn(&until(behind("lsn: ")?, ','));
    let time = what.split_once(' ')?.1.split(" UTC").next()?;
    let crossed = (at + length) / PAGE - at / PAGE;
    Some(Commit {
        xid: until(behind("tx: ")?, ',').parse().ok()?,
        at,
        end: at + length + crossed * PAGE_HEADER,
        time_us: time_us(time)?,
        aborted,
    })
}

/// `2026-11-22 20:33:22.310944`.
fn time_us(text: &str) -> Option<i64> {
    let zoned = text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_microsecond())
}

/// The transactions that a recovery to `moment` brings back: those before the first record that it stops at.
pub fn until(all: &[Commit], moment: Moment) -> BTreeSet<u32> {
    let stops = |commit: &&Commit| match moment {
        Moment::TimeUs(time) => commit.time_us <= time,
        Moment::Position(at) => commit.at < at,
        Moment::End(end) => commit.end <= end,
    };
    all.iter().take_while(stops).filter(|commit| !commit.aborted).map(|commit| commit.xid).collect()
}

/// The transactions whose rows are there.
pub fn present(server: &Postgres, table: &str) -> BTreeSet<u32> {
    let xids = server.sql(&format!("select string_agg(xmin::text, ' ') from {table}"));
    xids.split_whitespace().map(|xid| xid.parse().unwrap()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_pg_waldump() {
        let line = "rmgr: Transaction len (rec/tot):     66/    66, tx:        723, lsn: 1/017414B0, prev 1/01741410, \
             desc: COMMIT 2026-11-22 20:33:20.952650 UTC; inval msgs: snapshot 2396";
        let commit = parse(line).unwrap();
        assert_eq!((commit.xid, commit.at, commit.aborted), (723, 0x1_0174_14b0, false));
        assert_eq!((commit.end, commit.time_us), (0x1_0174_14f2, 1_795_379_600_952_650));
        assert!(parse(&line.replace("COMMIT", "ABORT")).unwrap().aborted);
        assert_eq!(parse(&line.replace("COMMIT", "ASSIGNMENT")), None);
        let later = Commit {
            xid: 724,
            at: commit.end + 6,
            end: commit.end + 40,
            time_us: commit.time_us - 5,
            ..commit
        };
        let all = [commit, later];
        assert_eq!(until(&all, Moment::TimeUs(commit.time_us - 1)), BTreeSet::new(), "the first ends it");
        assert_eq!(until(&all, Moment::TimeUs(commit.time_us)), BTreeSet::from([723, 724]));
        assert_eq!(until(&all, Moment::Position(later.at)), BTreeSet::from([723]));
    }
}
