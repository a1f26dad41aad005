use proptest::prelude::*;

use super::*;

fn renamed(database: &Text, table: &Text) -> Option<(Text, Text)> {
    match (database.to_string().as_str(), table.to_string().as_str()) {
        ("d", "t") => Some(("e f".into(), "u`".into())),
        ("d", _) => Some(("e".into(), table.clone())),
        _ => None,
    }
}

fn again(text: &str) -> String {
    let uuids = [("o".to_owned(), "n".to_owned()), ("io".to_owned(), "in".to_owned())].into();
    String::from_utf8(Tokens::of(text.as_bytes()).rewritten(&renamed, &uuids, None)).unwrap()
}

#[test]
fn tables_get_their_names_and_nothing_else_does() {
    for (text, want) in [
        ("VIEW v AS SELECT a FROM d.x", "VIEW v AS SELECT a FROM `e`.`x`"),
        ("SELECT t.a FROM d.t", "SELECT t.a FROM `e f`.`u\\`` AS `t`"),
        ("SELECT y.a FROM d.t AS y", "SELECT y.a FROM `e f`.`u\\`` AS y"),
        ("SELECT a FROM `d` . \"t\" WHERE 1", "SELECT a FROM `e f` . `u\\`` WHERE 1"),
        ("SELECT d.x.a, d.z FROM d.x", "SELECT `e`.`x`.a, d.z FROM `e`.`x`"),
        ("SELECT d.x.a FROM c.x AS d", "SELECT d.x.a FROM c.x AS d"),
        ("SELECT d.a, 'FROM d.x', `FROM d.x` FROM c.d", "SELECT d.a, 'FROM d.x', `FROM d.x` FROM c.d"),
        (
            "SELECT 1 FROM d.x, d.y WHERE d.x IN d.z, d.q",
            "SELECT 1 FROM `e`.`x`, `e`.`y` WHERE d.x IN `e`.`z`, d.q",
        ),
        ("SELECT f(a FROM d.x, b) ARRAY JOIN d.n", "SELECT f(a FROM `e`.`x`, b) ARRAY JOIN d.n"),
        (
            "FROM (SELECT 1, d.y FROM c.c) JOIN d.x USING a",
            "FROM (SELECT 1, d.y FROM c.c) JOIN `e`.`x` USING a",
        ),
        (
            "ATTACH MATERIALIZED VIEW _ UUID 'o' TO INNER UUID 'io' (a UUID) AS SELECT",
            "ATTACH MATERIALIZED VIEW _ UUID 'n' TO INNER UUID 'in' (a UUID) AS SELECT",
        ),
        ("VIEW _ UUID 'other' TO d.x (a UInt8)", "VIEW _ UUID 'other' TO `e`.`x` (a UInt8)"),
        ("TTL a TO DISK 'd.x'", "TTL a TO DISK 'd.x'"),
        ("ENGINE = Distributed('c', 'd', 't', rand())", "ENGINE = Distributed('c', 'e f', 'u`', rand())"),
        ("ENGINE = Distributed(d, d, x)", "ENGINE = Distributed(d, `e`, `x`)"),
        ("ENGINE = Buffer('d', 'x', 1)", "ENGINE = Buffer('e', 'x', 1)"),
        ("a DEFAULT dictGet('d.x', 'v', 'd.x')", "a DEFAULT dictGet('e.x', 'v', 'd.x')"),
        (
            "SOURCE(CLICKHOUSE(HOST 'localhost' DB 'd' TABLE 'x' USER 'd'))",
            "SOURCE(CLICKHOUSE(HOST 'localhost' DB 'e' TABLE 'x' USER 'd'))",
        ),
        (
            "SOURCE(CLICKHOUSE(HOST 'far' DB 'd' TABLE 'x'))",
            "SOURCE(CLICKHOUSE(HOST 'far' DB 'd' TABLE 'x'))",
        ),
        ("FROM 1.5, 'unended", "FROM 1.5, 'unended"),
    ] {
        assert_eq!(again(text), want);
    }
}

#[test]
fn what_is_needed_is_found() {
    let text =
        b"VIEW v TO d.to AS SELECT dictGet('d.dict', 'a', 1) FROM d.x AS y JOIN system.one WHERE a IN d.set";
    let tables = Tokens::of(text).tables();
    let needed: Vec<String> =
        tables.iter().filter(|it| it.is_needed()).map(|it| format!("{}.{}", it.database, it.table)).collect();
    assert_eq!(needed, ["d.to", "d.x", "system.one", "d.set"]);
    assert!(Tokens::of(b"DEFAULT twice(a)").calls(&"twice".into()));
    assert!(!Tokens::of(b"DEFAULT 'twice('").calls(&"twice".into()));
}

proptest! {
    #[test]
    fn odd_names_are_rewritten_and_read_again(
        names in prop::collection::vec(".{1,8}", 4), column in ".{1,8}", text in ".{0,20}",
    ) {
        let name = |at: usize| Text::from(names[at].as_str());
        prop_assume!(names[0] != names[2]);
        let statement = |database: &Text, table: &Text| [
            b"CREATE VIEW v AS SELECT ".as_slice(), &Text::from(column.as_str()).quoted(), b", ",
            &Text::from(text.as_str()).literal(), b" FROM ", &database.quoted(), b".", &table.quoted(), b" AS x WHERE 1",
        ].concat();
        let before = statement(&name(0), &name(1));
        let given = |database: &Text, table: &Text| {
            (*database == name(0) && *table == name(1)).then(|| (name(2), name(3)))
        };
        let after = Tokens::of(&before).rewritten(&given, &HashMap::new(), None);
        prop_assert_eq!(&after, &statement(&name(2), &name(3)));
        prop_assert_eq!(Tokens::of(&after).rewritten(&given, &HashMap::new(), None), after);
    }

    #[test]
    fn what_nobody_renames_stays_as_it_is(text in ".{0,60}") {
        prop_assert_eq!(Tokens::of(text.as_bytes()).rewritten(&|_, _| None, &HashMap::new(), None), text.into_bytes());
    }
}
