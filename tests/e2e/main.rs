//! End to end: the real binary, real processes, real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

mod access;
mod archiving;
mod bench;
mod changing;
mod check_logs;
mod classes;
mod clickhouse;
mod clickhouse_chosen;
mod clickhouse_disks;
mod clickhouse_full;
mod clickhouse_keeper_map;
mod clickhouse_parts;
mod clickhouse_replaced;
mod clickhouse_replicated;
mod clickhouse_shards;
mod crash;
mod damage;
mod demo;
mod drill;
mod drill_clickhouse;
mod drill_postgresql;
mod failover;
mod flood;
mod forks;
mod freeze;
mod full_disk;
mod keys;
mod limits;
mod logs;
mod metrics;
mod moments;
mod notify;
mod odd_tree;
mod offline;
mod partial;
mod postgresql;
mod postgresql_killed;
mod postgresql_mistakes;
mod power;
mod pushed;
mod quarantine;
mod rebuilt;
mod refusals;
mod replicas;
mod retention;
mod schedule;
mod scrub;
mod simulated;
mod tenant;
mod up;
