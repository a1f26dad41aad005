use super::*;
use crate::engine::clickhouse::facts::{Named, tests::table};
use palinurus_proto::v1;
use palinurus_repository::ErrorKind;

fn choice(tables: &[&str], renames: &[&str]) -> Choice {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Choice::parse(&v1::Choice { tables: texts(tables), renames: texts(renames) }).unwrap()
}

fn of(engine: &str, name: &str, uuid: &str, statement: &str) -> Table {
    Table { engine: engine.into(), uuid: uuid.into(), statement: statement.into(), ..table(name) }
}

fn facts(mut tables: Vec<Table>) -> Facts {
    tables.iter_mut().enumerate().for_each(|(number, table)| table.number = number);
    let database = Database {
        name: "d".into(),
        engine: "Atomic".into(),
        statement: "ATTACH DATABASE _ UUID 'db'\nENGINE = Atomic".into(),
        replica: None,
    };
    Facts { version: 1, databases: vec![database], tables, ..Facts::default() }
}

fn shop() -> Facts {
    facts(vec![
        of("MergeTree", "t", "u-t", "ATTACH TABLE _ UUID 'u-t' (a UInt8) ENGINE = MergeTree"),
        of("View", "v", "u-v", "ATTACH VIEW _ UUID 'u-v' (a UInt8) AS SELECT a FROM d.t"),
        of("MergeTree", ".inner_id.u-m", "u-i", "ATTACH TABLE _ UUID 'u-i' (a UInt8) ENGINE = MergeTree"),
        of(
            "MaterializedView",
            "m",
            "u-m",
            "ATTACH MATERIALIZED VIEW _ UUID 'u-m' TO INNER UUID 'u-i' (a UInt8) AS SELECT a FROM d.t",
        ),
        of("Kafka", "k", "u-k", "ATTACH TABLE _ UUID 'u-k' (a UInt8) ENGINE = Kafka"),
    ])
}

fn made(tables: &[&str], renames: &[&str], there: &Facts, uuids: &[&str]) -> Result<Facts> {
    let uuids = uuids.iter().map(|uuid| (*uuid).to_owned()).collect();
    choose(&shop(), &choice(tables, renames), Now { facts: there, uuids: &uuids }, "seed")
}

fn names(facts: &Facts) -> Vec<String> {
    facts.tables.iter().map(Table::label).collect()
}

#[test]
fn tables_come_back_as_they_were() {
    let found = made(&["d.m,d.t"], &[], &Facts::default(), &[]).unwrap();
    assert_eq!(names(&found), ["d.t", "d..inner_id.u-m", "d.m"]);
    let before = shop();
    for table in &found.tables {
        assert_eq!(*table, before.tables[table.number]);
    }
    assert_eq!(found.databases, before.databases);
    assert_eq!(made(&["d.t"], &[], &facts(vec![]), &[]).unwrap().databases, []);
}

#[test]
fn another_name_is_another_table_all_through() {
    let found = made(&["d.t", "d.v", "d.m"], &["d=e", "d.t=e.t2"], &facts(vec![]), &["db"]).unwrap();
    let [t, v, inner, m] = found.tables.as_slice() else { panic!("{found:?}") };
    assert_eq!((t.label(), v.label(), m.label()), ("e.t2".into(), "e.v".into(), "e.m".into()));
    assert_eq!(inner.label(), format!("e..inner_id.{}", m.uuid));
    let said = |table: &Table| table.statement.to_string();
    assert!(said(v).ends_with("FROM `e`.`t2`"), "{v:?}");
    assert!(
        m.uuid != "u-m"
            && said(m).contains(&format!("UUID \\'{}\\' TO INNER UUID \\'{}\\'", m.uuid, inner.uuid)),
        "{m:?}"
    );
    let database = found.databases[0].statement.to_string();
    assert!(found.databases[0].name == "e".into() && !database.contains("'db"), "{database}");
    // Every node comes to the same.
    assert_eq!(made(&["d.t", "d.v", "d.m"], &["d=e", "d.t=e.t2"], &facts(vec![]), &["db"]).unwrap(), found);
}

#[test]
fn a_uuid_in_use_is_not_used_again() {
    let first = made(&["d.m", "d.t"], &[], &facts(vec![]), &["u-m", "u-t"]).unwrap();
    let [t, inner, m] = first.tables.as_slice() else { panic!("{first:?}") };
    assert!(t.uuid != "u-t" && m.uuid != "u-m" && inner.uuid == "u-i");
    assert_eq!(inner.label(), format!("d..inner_id.{}", m.uuid));
    let again = made(&["d.t"], &[], &facts(vec![]), &["u-t", &t.uuid]).unwrap();
    assert!(again.tables[0].uuid != t.uuid);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let one = facts(vec![table("t")]);
    for (tables, renames, there, kind, words) in [
        (&["d.nothing"][..], &[][..], &one, ErrorKind::NotFound, "d.t, d.v"),
        (&["x.*"], &[], &one, ErrorKind::NotFound, "d.*"),
        (&["d.t"], &[], &one, ErrorKind::Conflict, "d.t"),
        (&["d.v"], &["d.v=d.t"], &one, ErrorKind::Conflict, "already: d.t"),
        (&["d.v"], &[], &facts(vec![]), ErrorKind::Conflict, "d.v needs d.t"),
        (&["d.t"], &["d.v=d.w"], &facts(vec![]), ErrorKind::Invalid, "d.v=d.w"),
        (&["d.t", "d.v"], &["d.v=d.t"], &facts(vec![]), ErrorKind::Invalid, "both be d.t"),
        (&["d.*"], &["d=e"], &facts(vec![]), ErrorKind::Invalid, "Kafka"),
    ] {
        let error = made(tables, renames, there, &[]).unwrap_err();
        let told = format!("{} {}", error.what(), error.hint().unwrap_or_default());
        assert!(error.kind() == kind && told.contains(words), "{error:?}");
    }
    assert!(made(&["d.v"], &[], &one, &[]).is_ok(), "what it needs is there");
    // Where each node would make it for all.
    let mut there = facts(vec![]);
    there.databases[0].engine = "Replicated".into();
    for renames in [&[][..], &["d=e"], &["d.t=d.u"]] {
        there.databases[0].name = if renames == ["d=e"] { "e".into() } else { "d".into() };
        let error = made(&["d.t"], renames, &there, &[]).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Invalid && error.what().contains("engine Replicated"),
            "{error:?}"
        );
    }
    let mut calls =
        facts(vec![of("MergeTree", "c", "", "ATTACH TABLE c (a UInt8 DEFAULT twice(a)) ENGINE = MergeTree")]);
    calls.functions.push(Named { name: "twice".into(), statement: "".into() });
    let now = facts(vec![]);
    let error =
        choose(&calls, &choice(&["d.c"], &[]), Now { facts: &now, uuids: &HashSet::new() }, "").unwrap_err();
    assert!(error.what().contains("function twice"), "{error:?}");
}

#[test]
fn no_view_is_given_the_same_rows_again() {
    let log = Table { kept: Kept::Rows, ..of("Log", "log", "", "ATTACH TABLE log (a UInt8) ENGINE = Log") };
    let view = |text: &str| of("MaterializedView", "m", "", &format!("ATTACH MATERIALIZED VIEW m {text}"));
    let reads = view("TO d.x AS SELECT a FROM d.log");
    let writes = view("TO d.log AS SELECT a FROM d.x");
    let x = table("x");
    for (backup, there, refused) in [
        (vec![log.clone(), reads.clone(), x.clone()], vec![], true),
        (vec![log.clone()], vec![reads], true),
        (vec![log], vec![writes, x], false),
    ] {
        let now = facts(there);
        let now = Now { facts: &now, uuids: &HashSet::new() };
        let error = choose(&facts(backup), &choice(&["d.*"], &[]), now, "").err();
        assert_eq!(error.is_some_and(|e| e.what().contains("view d.m")), refused);
    }
}

#[test]
fn no_more_is_fetched_than_is_needed() {
    let mut found = made(&["d.t"], &[], &facts(vec![]), &[]).unwrap();
    let (name, path) = ("fast ssd".into(), "/f".into());
    found.disks.push(super::super::facts::Disk { name, path, local: true, ..Default::default() });
    found.tables[0].places[0].path = "data/d/a[b".into();
    found.tables.push(Table { kept: Kept::Rows, number: 7, ..table("log") });
    found.tables.push(Table { kept: Kept::Schema, ..table("v") });
    assert_eq!(needs(&found), ["clickhouse.json", "disks/fast%20ssd/data/d/a[[]b", "rows/7.tsv"]);
}
