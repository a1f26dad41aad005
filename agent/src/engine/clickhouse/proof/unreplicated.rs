//! A table's statement made fit for a server that has no ZooKeeper.
use crate::engine::clickhouse::statement::{assignments, enclosed};

/// With an engine of its own where it had a replicated one; as it is otherwise.
pub(super) fn unreplicated(statement: &[u8]) -> Vec<u8> {
    let Some(&(_, at)) = assignments(statement, "ENGINE").first() else { return statement.to_vec() };
    let (head, tail) = statement.split_at(at);
    let Some(tail) = tail.strip_prefix(b"Replicated") else { return statement.to_vec() };
    let end = tail.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(tail.len());
    let (name, rest) = tail.split_at(end);
    let mut made = [head, name].concat();
    match rest.trim_ascii_start().strip_prefix(b"(") {
        // Its path in ZooKeeper and its name there, where they are given.
        Some(mut arguments) => {
            for _ in 0..2 {
                arguments = arguments.trim_ascii_start();
                let Some(text) = enclosed(arguments).filter(|_| arguments.starts_with(b"'")) else { break };
                arguments = arguments[text..].trim_ascii_start();
                arguments = arguments.strip_prefix(b",").unwrap_or(arguments);
            }
            made.push(b'(');
            made.extend(arguments.trim_ascii_start());
        }
        None => made.extend(rest),
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replicated_table_becomes_one_of_its_own() {
        for (statement, want) in [
            (
                "ATTACH TABLE _ (`ENGINE = x` String DEFAULT 'ENGINE = ReplicatedMergeTree')\nENGINE = ReplicatedMergeTree('/a/{shard}\\'', '{replica}')\nORDER BY a",
                "ATTACH TABLE _ (`ENGINE = x` String DEFAULT 'ENGINE = ReplicatedMergeTree')\nENGINE = MergeTree()\nORDER BY a",
            ),
            (
                "ATTACH TABLE t (a UInt64) ENGINE = ReplicatedReplacingMergeTree('/a', 'r', v) ORDER BY a",
                "ATTACH TABLE t (a UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY a",
            ),
            (
                "ATTACH TABLE t (d Date) ENGINE = ReplicatedMergeTree('/a', 'r', d, (a), 8192)",
                "ATTACH TABLE t (d Date) ENGINE = MergeTree(d, (a), 8192)",
            ),
            (
                "CREATE TABLE t (a UInt8) engine = ReplicatedMergeTree ORDER BY a",
                "CREATE TABLE t (a UInt8) engine = MergeTree ORDER BY a",
            ),
            (
                "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a",
                "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a",
            ),
            ("ATTACH TABLE `x", "ATTACH TABLE `x"),
        ] {
            assert_eq!(String::from_utf8(unreplicated(statement.as_bytes())).unwrap(), want);
        }
    }
}
