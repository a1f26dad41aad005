use super::*;
use crate::engine::clickhouse::facts::tests::table;

fn database(statement: &str) -> Database {
    Database { name: "d`b".into(), engine: ENGINE.into(), statement: statement.into(), replica: None }
}

#[test]
fn a_database_meets_its_replicas_where_its_macros_say() {
    let macros: BTreeMap<String, String> =
        [("shard", "s1"), ("replica", "{host}-1"), ("host", "n1")].map(|(k, v)| (k.into(), v.into())).into();
    for (arguments, want) in [
        ("('/dbs/{database}', '{shard}', '{replica}')", Some(("/dbs/d`b", "s1|n1-1"))),
        ("('dbs/{uuid}/', 'a', 'b\\'c')\nSETTINGS x = 1", Some(("/dbs/u-1", "a|b'c"))),
        ("('/dbs', 'a')", None),
        ("", None),
    ] {
        let of = database(&format!("ATTACH DATABASE _ UUID 'u-1'\nENGINE = Replicated{arguments}"));
        let found = of.replica(&macros).map(|replica| (replica.path, replica.name));
        assert_eq!(found, want.map(|(path, name)| (path.to_owned(), name.to_owned())), "{arguments}");
    }
    let mut atomic = [Database { engine: "Atomic".into(), ..database("ATTACH DATABASE _ ENGINE = Atomic") }];
    locate(&mut atomic, &macros);
    assert!(!atomic[0].is_replicated() && atomic[0].replica.is_none());
    assert!(!database("").is_replicated(), "a drill's");
}

#[test]
fn a_server_that_freezes_on_all_nodes_is_refused() {
    for (server, engine, fits) in [
        ("23.7.9.1", ENGINE, false),
        ("23.8.1", ENGINE, true),
        ("26.9", ENGINE, true),
        ("18.16.1", "Lazy", true),
    ] {
        let databases = vec![Database { engine: engine.into(), ..database("ATTACH DATABASE _") }];
        let facts = Facts { server: server.into(), databases, ..Facts::default() };
        assert_eq!(check_version(&facts).is_ok(), fits, "{server} {engine}");
    }
}

#[test]
fn who_is_known_to_zookeeper_is_told_what_to_drop() {
    let replica = Some(Replica { path: "/dbs/d".into(), name: "s1|n'1".into(), made: String::new() });
    let of = Database { replica, ..database("ATTACH DATABASE _") };
    let error = known(&of, Fault::Refused(TAKEN, "it is there".into()));
    let told = "SYSTEM DROP DATABASE REPLICA 'n\\'1' FROM SHARD 's1' FROM ZKPATH '/dbs/d'";
    assert!(error.hint().is_some_and(|hint| hint.contains(told)), "{error:?}");
    assert!(known(&of, Fault::Refused(1, "no".into())).hint().is_none());
}

#[test]
fn views_that_read_a_table_are_known() {
    let view = |name: &str, source: &str| Table {
        engine: "MaterializedView".into(),
        kept: Kept::Schema,
        statement: format!(
            "ATTACH MATERIALIZED VIEW _ UUID 'u' TO d.log (a UInt8) AS SELECT a FROM d.{source}"
        )
        .as_str()
        .into(),
        ..table(name)
    };
    let log = Table { kept: Kept::Rows, ..table("log") };
    let tables = vec![log.clone(), view("reads", "log"), view("writes", "other")];
    let facts = Facts { tables, ..Facts::default() };
    assert_eq!(readers(&facts, &log).map(Table::label).collect::<Vec<_>>(), ["d.reads"]);
}
