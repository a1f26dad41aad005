//! A restored data directory that is to recover along the log: its settings, and which file is meant by a name that the
//! server asks for.
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use palinurus_repository::{Error, Result};

use super::logs::WalIdentity;
use super::lsn::Lsn;
use super::{fork, timelines};
use crate::durable;
use crate::engine::{Plan, Target, Wanted};

pub(super) const SETTINGS: &str = "postgresql.auto.conf";
const SIGNAL: &str = "recovery.signal";
pub(super) const STANDBY: &str = "standby.signal";
/// Fetched ahead of the server.
const AHEAD: u64 = 8;
/// Another recovery took this number; nobody reads more of the file than that it is there.
const TAKEN: &str = "# this timeline belongs to another recovery\n";

/// As PostgreSQL names a segment.
fn segment(name: &str) -> Option<(u32, u64, u64)> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    Some((part(0)?, u64::from(part(8)?), u64::from(part(16)?)))
}

pub(super) fn wanted(name: &str, plan: &Plan) -> Wanted {
    let timeline_of = |identity: &[u8]| WalIdentity::decode(identity).ok().map(|known| known.timeline);
    let of_chain = |timeline: u32| {
        plan.chain.iter().position(|section| timeline_of(&section.lineage.identity) == Some(timeline))
    };
    if let Some(number) = name.strip_suffix(".history") {
        let Ok(timeline) = u32::from_str_radix(number, 16) else { return Wanted::Absent };
        let highest = plan.known.iter().filter_map(|identity| timeline_of(identity)).max().unwrap_or(0);
        return match of_chain(timeline) {
            // The first timeline has no history, in no archive.
            _ if timeline < 2 || timelines::name(timeline) != name => Wanted::Absent,
            Some(at) => Wanted::Account(at),
            // A server that is promoted asks upwards for the first number that is free.
            None if timeline <= highest => Wanted::Text(TAKEN.into()),
            None => Wanted::Absent,
        };
    }
    let Some((timeline, high, low)) = segment(name) else { return Wanted::Absent };
    // All that is needed came with the backup. What is stored may be forgotten up to beyond it.
    if plan.target == Target::Immediate || plan.end <= plan.first {
        return Wanted::Absent;
    }
    let Some(section) = of_chain(timeline).and_then(|at| plan.chain.get(at)) else { return Wanted::Absent };
    let len = u64::from(section.lineage.segment);
    let of_id = of_id(section.lineage.segment);
    let from = of_id.checked_mul(high).and_then(|before| (before + low).checked_mul(len));
    let Some(from) = from.filter(|_| low < of_id) else { return Wanted::Absent };
    let stop = plan.end.min(section.to.unwrap_or(u64::MAX));
    let to = (from + len).min(stop);
    // Before a timeline began, its parent's files are meant; before `first`, those that came with the backup.
    if from + len <= section.lineage.from.max(plan.first) || from >= to {
        return Wanted::Absent;
    }
    // A standby streams the rest, and asks for the file again when it is promoted: with less in it than it has applied by
    // then, it would not open any more.
    if plan.target == Target::Follow && to < from + len {
        return Wanted::Absent;
    }
    Wanted::Bytes { from, to, len }
}

pub(super) fn following(name: &str, plan: &Plan) -> Vec<String> {
    let Some((timeline, high, low)) = segment(name) else { return Vec::new() };
    let Some(section) = plan.chain.last() else { return Vec::new() };
    let of_id = of_id(section.lineage.segment);
    let next = |more: u64| {
        let (high, low) = (high + (low + more) / of_id, (low + more) % of_id);
        format!("{timeline:08X}{high:08X}{low:08X}")
    };
    if low < of_id { (1..=AHEAD).map(next).collect() } else { Vec::new() }
}

/// How many segments a name counts before its middle part is one more.
fn of_id(segment: u32) -> u64 {
    (1 << 32) / u64::from(segment.max(1))
}

/// Takes out what an earlier recovery left, in the backup or by a restore that was broken off: a standby made of this data
/// would stop at its target. Blocks.
pub(super) fn forget(root: &Path) -> Result<()> {
    for signal in [SIGNAL, STANDBY] {
        durable::remove(&root.join(signal))?;
    }
    let old = read(root)?;
    let text = without_recovery(&old);
    if text == old { Ok(()) } else { give(root, SETTINGS, text.as_bytes()) }
}

pub(super) fn read(root: &Path) -> Result<String> {
    let path = root.join(SETTINGS);
    match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|e| Error::io(format!("read {}", path.display()), e)),
    }
}

/// Blocks.
pub(super) fn prepare(root: &Path, plan: &Plan, command: &[String]) -> Result<()> {
    let text = settings(&read(root)?, plan, command)?;
    // The signal last: without it the settings mean nothing.
    for (name, text) in [(SETTINGS, text.as_str()), (SIGNAL, "")] {
        give(root, name, text.as_bytes())?;
    }
    Ok(())
}

/// Writes it as the server's user would have. The directory itself is given its owner last of all.
pub(super) fn give(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io(format!("write {name} into {}", root.display()), e);
    let owner = root.join("PG_VERSION").metadata().map_err(failed)?;
    let path = root.join(name);
    durable::write(&path, bytes)?;
    lchown(&path, Some(owner.uid()), Some(owner.gid())).map_err(failed)
}

pub(super) fn without_recovery(old: &str) -> String {
    let of_recovery = ["restore_command", "primary_conninfo", "primary_slot_name"];
    without(old, |key| key.starts_with("recovery_target") || of_recovery.contains(&key))
}

/// The lines that set something else. Names count in any case.
pub(super) fn without(old: &str, stale: impl Fn(&str) -> bool) -> String {
    let stays = |line: &&str| {
        let key = line.split(|c: char| c == '=' || c.is_whitespace()).find(|word| !word.is_empty());
        !stale(&key.unwrap_or_default().to_ascii_lowercase())
    };
    old.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}

fn settings(old: &str, plan: &Plan, command: &[String]) -> Result<String> {
    let mut text = without_recovery(old);
    if plan.fork {
        text = fork::alone(&text)?;
    }
    let get = restore_command(command);
    let (mut name, mut time, mut lsn, mut immediate) = Default::default();
    match &plan.target {
        // Where the log ends, because nothing is given beyond.
        Target::End | Target::Follow => {}
        Target::Name(wanted) => name = wanted.clone(),
        Target::Time(at) => time = timestamp(*at),
        Target::Position(at) => lsn = Lsn(*at).to_string(),
        Target::Immediate => immediate = "immediate".to_owned(),
    }
    // A position is a place between two records: what begins there is not wanted any more.
    let inclusive = if lsn.is_empty() { "on" } else { "off" };
    // Of those that the target lies on or before: a server that stops before a timeline began says that it was on it.
    let reaches = |to: Option<u64>| match (&plan.target, to) {
        (Target::Position(at), Some(to)) => *at <= to,
        (_, to) => to.is_none(),
    };
    let last = plan.chain.iter().find(|section| reaches(section.to)).or(plan.chain.last());
    let last = last.map(|section| WalIdentity::decode(&section.lineage.identity)).transpose()?;
    let timeline = match last {
        Some(last) if plan.target != Target::Immediate => last.timeline.to_string(),
        _ => "current".to_owned(),
    };
    // Not those that are empty, which a server refuses beside another. It refuses, too, when postgresql.conf has one.
    for (key, value) in [
        ("restore_command", get.as_str()),
        ("recovery_target", &immediate),
        ("recovery_target_name", &name),
        ("recovery_target_time", &time),
        ("recovery_target_lsn", &lsn),
        ("recovery_target_inclusive", inclusive),
        ("recovery_target_timeline", &timeline),
        ("recovery_target_action", "promote"),
    ] {
        if !value.is_empty() {
            text.push_str(&setting(key, value)?);
        }
    }
    Ok(text)
}

/// As the server hands it to a shell.
pub(super) fn restore_command(command: &[String]) -> String {
    let shell: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    format!("{} %f \"%p\"", shell.join(" ").replace('%', "%%"))
}

/// A line of the server's own settings.
pub(super) fn setting(key: &str, value: &str) -> Result<String> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(Error::invalid(format!("{key} would have a line break: {value:?}")));
    }
    let value = value.replace('\\', r"\\").replace('\'', "''");
    Ok(format!("{key} = '{value}'\n"))
}

/// As PostgreSQL reads it, whatever its time zone.
fn timestamp(us: i64) -> String {
    let (days, rest) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let (seconds, us) = (rest / 1_000_000, rest % 1_000_000);
    // Days since 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{us:06}+00")
}

#[cfg(test)]
mod tests {
    use palinurus_proto::v1;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn identity(timeline: u32) -> Vec<u8> {
        WalIdentity { system_identifier: 7, timeline }.encode()
    }

    /// Timeline 1 until 40 MiB, then 3; 2 and 5 are of others.
    fn plan(target: Target) -> Plan {
        let lineage = |number: u8, parent: &[u8], from, timeline, to| v1::LogLineage {
            id: vec![number; 16].into(),
            parent: parent.to_vec().into(),
            from,
            to,
            kind: "postgresql".into(),
            identity: identity(timeline).into(),
            segment: 16 << 20,
            ..v1::LogLineage::default()
        };
        let (first, second) = (lineage(1, &[], 16 * MIB, 1, 40 * MIB), lineage(2, &[1; 16], 40 * MIB, 3, 0));
        Plan {
            chain: palinurus_proto::logs::chain(&[first, second]).unwrap(),
            known: [1, 2, 3, 5].map(identity).to_vec(),
            first: 17 * MIB,
            end: 70 * MIB,
            target,
            fork: false,
        }
    }

    #[test]
    fn what_a_server_asks_for() {
        let plan = plan(Target::End);
        let ask = |name: &str| wanted(name, &plan);
        let bytes = |from, to| Wanted::Bytes { from: from * MIB, to: to * MIB, len: 16 * MIB };
        assert_eq!(ask("000000010000000000000000"), Wanted::Absent, "it came with the backup");
        assert_eq!(ask("000000010000000000000001"), bytes(16, 32));
        assert_eq!(ask("000000010000000000000002"), bytes(32, 40), "up to the fork");
        assert_eq!(ask("000000030000000000000002"), bytes(32, 48), "the parent's bytes are in it");
        assert_eq!(ask("000000030000000000000001"), Wanted::Absent, "before the fork");
        assert_eq!(ask("000000010000000000000003"), Wanted::Absent, "behind the fork");
        assert_eq!(ask("000000030000000000000004"), bytes(64, 70), "to the planned end");
        assert_eq!(ask("000000030000000000000005"), Wanted::Absent);
        assert_eq!(ask("000000020000000000000002"), Wanted::Absent, "another's timeline");
        assert_eq!(ask("00000003.history"), Wanted::Account(1));
        for taken in ["00000002.history", "00000004.history", "00000005.history"] {
            assert_eq!(ask(taken), Wanted::Text(TAKEN.into()), "{taken}");
        }
        let absent = [
            "00000001.history",
            "00000006.history",
            "5.history",
            "../x",
            "",
            "x.history",
            "0000000100000000000000FF",
        ];
        for name in absent {
            assert_eq!(ask(name), Wanted::Absent, "{name}");
        }
        for target in [Target::Immediate, Target::End] {
            let end = if target == Target::End { plan.first } else { plan.end };
            let alone = Plan { target, end, ..plan.clone() };
            assert_eq!(wanted("000000010000000000000001", &alone), Wanted::Absent, "the backup is enough");
            assert_eq!(wanted("00000003.history", &alone), Wanted::Account(1));
        }
        let standby = Plan { target: Target::Follow, ..plan.clone() };
        assert_eq!(wanted("000000030000000000000003", &standby), bytes(48, 64));
        for name in ["000000010000000000000002", "000000030000000000000004"] {
            assert_eq!(wanted(name, &standby), Wanted::Absent, "not the whole file");
        }
        let name = "0000000300000001000000FE";
        assert_eq!(following(name, &plan)[..2], ["0000000300000001000000FF", "000000030000000200000000"]);
        assert!(following("00000003.history", &plan).is_empty());
        let mut large = plan.clone();
        for section in &mut large.chain {
            section.lineage.segment = 128 << 20;
        }
        let next = following("00000003000000010000001E", &large);
        assert_eq!(next[..2], ["00000003000000010000001F", "000000030000000200000000"]);
        assert_eq!(wanted("000000010000000000000020", &Plan { end: u64::MAX, ..large }), Wanted::Absent);
    }

    #[test]
    fn the_settings_name_one_target_and_keep_the_rest() {
        let old = "# edited by ALTER SYSTEM\nwork_mem = '8MB'\nRecovery_Target_Time='2001-01-01'\nrestore_command = 'x'\n";
        let command = ["/opt/it's 100%/palinurus-agent".to_owned(), "wal-get".to_owned()];
        let written = |target| settings(old, &plan(target), &command).unwrap();
        let text = written(Target::Time(1_000_000_000_123_456));
        assert!(text.starts_with("# edited by ALTER SYSTEM\nwork_mem = '8MB'\nrestore_command = "), "{text}");
        assert!(
            text.contains(r#"'''/opt/it''\\''''s 100%%/palinurus-agent'' ''wal-get'' %f "%p"'"#),
            "{text}"
        );
        assert!(text.contains("recovery_target_time = '2001-09-09 01:46:40.123456+00'\n"), "{text}");
        assert!(text.contains("recovery_target_timeline = '3'\n") && !text.contains("2001-01-01"));
        assert_eq!(settings(&text, &plan(Target::Time(1_000_000_000_123_456)), &command).unwrap(), text);
        assert!(written(Target::Position(0x16_b374_d848)).contains("lsn = '16/B374D848'\n"));
        assert!(written(Target::Position(1)).contains("inclusive = 'off'"));
        assert!(written(Target::Position(40 * MIB)).contains("timeline = '1'"));
        assert!(written(Target::Position(40 * MIB + 1)).contains("timeline = '3'"));
        let immediate = written(Target::Immediate);
        assert!(
            immediate.contains("recovery_target = 'immediate'") && immediate.contains("timeline = 'current'")
        );
        assert!(settings(old, &plan(Target::Name("a\nb".into())), &command).is_err());
        assert_eq!(timestamp(951_782_400_000_000), "2000-02-29 00:00:00.000000+00");
        assert_eq!(timestamp(-1), "1969-12-31 23:59:59.999999+00");
    }

    #[test]
    fn what_an_earlier_recovery_left_is_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        forget(root).unwrap();
        assert!(!root.join(SETTINGS).exists());
        fs::write(root.join("PG_VERSION"), "15\n").unwrap();
        let kept = "work_mem = '8MB'\n# recovery_target = 'not a setting'\n";
        fs::write(root.join(SETTINGS), kept).unwrap();
        prepare(root, &plan(Target::Time(1)), &["get".to_owned()]).unwrap();
        assert!(root.join(SIGNAL).exists() && fs::read_to_string(root.join(SETTINGS)).unwrap() != kept);
        for _ in 0..2 {
            forget(root).unwrap();
            assert!(!root.join(SIGNAL).exists());
            assert_eq!(fs::read_to_string(root.join(SETTINGS)).unwrap(), kept);
        }
    }
}
