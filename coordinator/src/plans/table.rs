//! What each plan of each type promises. A row a type, a column a plan, in the order of [`super::TIERS`].
use std::time::Duration;

use super::{Backups, Every, Keep, Type};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// The plan does not exist for that type.
const ABSENT: Option<Backups> = None;
const NONE: Option<Backups> = Some(Backups::Nothing);
/// One, for the service's own recovery only.
const SINGLE: Option<Backups> = kept(Every::Day, Keep::Single);
const SINGLE_DAY: Option<Backups> = kept(Every::Day, Keep::SingleDay);

const fn kept(every: Every, keep: Keep) -> Option<Backups> {
    Some(Backups::Kept { every, keep })
}

const fn pitr(days: u32) -> Option<Backups> {
    kept(Every::Day, Keep::AnyMoment { days })
}

const fn hourly_then_daily(days: u32) -> Option<Backups> {
    kept(Every::Hour, Keep::HourlyThenDaily { days })
}

const fn for_hours(every: Every, hours: u64) -> Option<Backups> {
    kept(every, Keep::Within(Duration::from_secs(hours * HOUR)))
}

const fn for_days(every: Every, days: u64) -> Option<Backups> {
    kept(every, Keep::Within(Duration::from_secs(days * DAY)))
}

const NO_KAFKA: &str =
    "Kafka carries data more than it keeps it, and its durability is its replication across the cluster";
const MIRROR_OR_SINK: &str = "mirror it to another cluster with MirrorMaker 2, or sink what passes through it into an object \
     store with Kafka Connect's S3 sink";
const NO_M3: &str = "aggregators and coordinators of M3 hold nothing of their own";
const M3_ITSELF: &str = "back up the M3 that they serve";

pub(super) const TYPES: [Type; 14] = [
    Type::new("kafka", [NONE; 4]).noted(NO_KAFKA, MIRROR_OR_SINK),
    Type::new("postgresql", [SINGLE, pitr(2), pitr(14), pitr(30)]).replicated().exported("pg_dump"),
    Type::new("mysql", [SINGLE, pitr(2), pitr(14), pitr(30)]).replicated().exported("mysqldump"),
    Type::new("opensearch", [SINGLE, hourly_then_daily(3), hourly_then_daily(14), hourly_then_daily(30)])
        .exported("elasticdump"),
    Type::new("cassandra", [ABSENT, SINGLE_DAY, SINGLE_DAY, SINGLE_DAY]).exported("cqlsh"),
    Type::new(
        "redis",
        [SINGLE, for_days(Every::HalfDay, 1), for_days(Every::HalfDay, 3), for_days(Every::HalfDay, 13)],
    )
    .exported("redis-cli"),
    Type::new("influxdb", [ABSENT, for_hours(Every::HalfDay, 60), ABSENT, ABSENT]).exported("influxd"),
    Type::new("flink", [ABSENT, for_hours(Every::Hour, 2), for_hours(Every::Hour, 2), ABSENT]),
    Type::new("m3", [ABSENT, SINGLE_DAY, for_days(Every::Day, 6), for_days(Every::Day, 13)]),
    Type::new("m3-aggregator", [ABSENT, ABSENT, NONE, NONE]).noted(NO_M3, M3_ITSELF),
    Type::new("m3-coordinator", [ABSENT, ABSENT, NONE, NONE]).noted(NO_M3, M3_ITSELF),
    Type::new("grafana", [ABSENT, for_days(Every::Hour, 1), ABSENT, ABSENT]),
    Type::new(
        "clickhouse",
        [
            for_days(Every::Day, 2),
            for_days(Every::Day, 2),
            for_days(Every::Day, 14),
            for_days(Every::Day, 30),
        ],
    )
    .sharded(),
    // Ours: a directory is kept as ClickHouse is.
    Type::new(
        "files",
        [
            for_days(Every::Day, 2),
            for_days(Every::Day, 2),
            for_days(Every::Day, 14),
            for_days(Every::Day, 30),
        ],
    ),
];
