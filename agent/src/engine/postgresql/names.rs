//! What the names in a data directory mean to a backup.
use palinurus_repository::Result;

use crate::walk::Rules;

/// Directories whose contents are the running server's own, or made anew by every start. They are kept, empty.
const EMPTIED: [&str; 8] = [
    "pg_wal",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];
const LEFT_OUT: [&str; 12] = [
    "pgsql_tmp*",
    "pg_internal.init*",
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "recovery.signal",
    "standby.signal",
];

pub(super) fn rules() -> Result<Rules> {
    let mut exclude: Vec<String> = EMPTIED.iter().map(|name| format!("{name}/*")).collect();
    exclude.extend(LEFT_OUT.iter().map(|name| (*name).to_owned()));
    exclude.extend(["backup_manifest*", "global/pg_control"].map(str::to_owned));
    Rules::new(&[], &exclude)
}

/// Of a tablespace's directory.
pub(super) fn tablespace_rules() -> Result<Rules> {
    Rules::new(&[], &["pgsql_tmp*", "pg_internal.init*"].map(str::to_owned))
}

/// A directory that is kept empty: where it is a symlink, a restore makes a directory of it.
pub(super) fn is_emptied(path: &[u8]) -> bool {
    EMPTIED.iter().any(|name| name.as_bytes() == path)
}

/// A file of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relation<'a> {
    /// The directory and the number that all of its files share.
    pub(super) base: &'a [u8],
    pub(super) fork: &'a [u8],
    /// Which gigabyte of it.
    pub(super) segment: u32,
}

/// By its path below the data directory: `base/5/16384_fsm.2`.
pub(super) fn relation(path: &[u8]) -> Option<Relation<'_>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = match parts.as_slice() {
        [b"global", name] | [b"base", _, name] | [b"pg_tblspc", _, _, _, name] => *name,
        _ => return None,
    };
    let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, segment) = match name[digits..].iter().position(|byte| *byte == b'.') {
        Some(dot) => (&name[digits..digits + dot], number(&name[digits + dot + 1..])?),
        None => (&name[digits..], 0),
    };
    let fork = match rest {
        b"" => &b""[..],
        b"_fsm" | b"_vm" | b"_init" => &rest[1..],
        _ => return None,
    };
    (digits > 0).then(|| Relation { base: &path[..path.len() - name.len() + digits], fork, segment })
}

/// A temporary relation's file: `t3_16384`, with forks and segments like any other's.
pub(super) fn is_temporary(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let inside = path.starts_with(b"base/") || path.starts_with(b"pg_tblspc/");
    let Some(rest) = name.strip_prefix(b"t").filter(|_| inside) else { return false };
    let backend = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    backend > 0 && rest.get(backend) == Some(&b'_') && rest.get(backend + 1).is_some_and(u8::is_ascii_digit)
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::Verdict;

    #[test]
    fn relations_and_what_only_looks_like_one() {
        let relation_of = |path: &'static str| {
            relation(path.as_bytes())
                .map(|r| (String::from_utf8_lossy(r.base), String::from_utf8_lossy(r.fork), r.segment))
        };
        assert_eq!(relation_of("base/5/16384"), Some(("base/5/16384".into(), "".into(), 0)));
        assert_eq!(relation_of("base/5/16384_fsm.2"), Some(("base/5/16384".into(), "fsm".into(), 2)));
        assert_eq!(relation_of("base/5/16384_init"), Some(("base/5/16384".into(), "init".into(), 0)));
        assert_eq!(relation_of("global/1262"), Some(("global/1262".into(), "".into(), 0)));
        assert_eq!(
            relation_of("pg_tblspc/16390/PG_15_202209061/5/16391.1"),
            Some(("pg_tblspc/16390/PG_15_202209061/5/16391".into(), "".into(), 1))
        );
        for no in [
            "base/5/PG_VERSION",
            "global/pg_control",
            "base/5/1_x",
            "base/5/1.x",
            "pg_xact/0000",
            "base/5/t1_2",
        ] {
            assert_eq!(relation_of(no), None, "{no}");
        }
        for yes in ["base/5/t3_16384", "base/5/t3_16384_fsm", "pg_tblspc/1/PG_15_1/5/t3_16384.1"] {
            assert!(is_temporary(yes.as_bytes()), "{yes}");
        }
        for no in ["base/5/16384", "t1_2", "base/5/tx_1", "base/5/t1", "base/5/t1_"] {
            assert!(!is_temporary(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn what_is_left_out() {
        let rules = rules().unwrap();
        for out in [
            "pg_wal/0000000100000000000000AB",
            "pg_wal/archive_status",
            "pg_replslot/slot",
            "base/pgsql_tmp",
            "base/5/pg_internal.init",
            "global/pg_internal.init.123",
            "postmaster.pid",
            "backup_label.old",
            "backup_manifest",
            "standby.signal",
            "global/pg_control",
            "pg_stat_tmp/x",
            "base/pgsql_tmp123",
        ] {
            assert_eq!(rules.verdict(out.as_bytes(), true), Verdict::Excluded, "{out}");
        }
        for kept in [
            "pg_wal",
            "pg_stat_tmp",
            "pg_stat/pgstat.stat",
            "pg_twophase/1",
            "pg_xact/0000",
            "base/5/1259",
            "postgresql.conf",
            "pg_logical/replorigin_checkpoint",
            "PG_VERSION",
            "pg_multixact/members/0000",
        ] {
            assert_eq!(rules.verdict(kept.as_bytes(), true), Verdict::Included, "{kept}");
        }
    }
}
