//! The statement by which a table is made again, from the one that the server keeps of it.
use super::text::{Text, quoted};

const DATABASE: &str = "DATABASE";
const KINDS: [&str; 7] =
    ["MATERIALIZED VIEW", "LIVE VIEW", "WINDOW VIEW", "TABLE", "VIEW", "DICTIONARY", DATABASE];

/// A stored statement taken apart: `ATTACH TABLE _ UUID '..' (a UInt64) ...`, or `CREATE ..` as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    pub(super) kind: &'static str,
    /// With its quotes.
    uuid: Option<&'a [u8]>,
    rest: &'a [u8],
}

impl<'a> Statement<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let mut at = text.trim_ascii();
        at = word(at, "ATTACH").or_else(|| word(at, "CREATE"))?;
        let (kind, mut at) = KINDS.iter().find_map(|kind| Some((*kind, words(at, kind)?)))?;
        at = words(at, "IF NOT EXISTS").unwrap_or(at);
        at = identifier(at)?;
        if let Some(table) = at.strip_prefix(b".") {
            at = identifier(table)?;
        }
        let mut uuid = None;
        if let Some(value) = word(at.trim_ascii_start(), "UUID") {
            let value = value.trim_ascii_start();
            let end = value.iter().skip(1).position(|byte| *byte == b'\'')? + 2;
            uuid = Some(&value[..end]);
            at = &value[end..];
        }
        Some(Self { kind, uuid, rest: at })
    }

    /// For the table of this name. A materialized view is attached: to create it would make a second inner table.
    pub(super) fn compose(&self, database: &Text, table: &Text, with_uuid: bool) -> Vec<u8> {
        let verb = if self.kind == "MATERIALIZED VIEW" { "ATTACH" } else { "CREATE" };
        self.written(&format!("{verb} {}", self.kind), &quoted(database, table), with_uuid)
    }

    /// The same where another node may make it at any time.
    pub(super) fn compose_once(&self, database: &Text, table: &Text) -> Vec<u8> {
        let verb = if self.kind == "MATERIALIZED VIEW" { "ATTACH" } else { "CREATE" };
        self.written(&format!("{verb} {} IF NOT EXISTS", self.kind), &quoted(database, table), true)
    }

    /// For the database of this name, if it is one's.
    pub(super) fn compose_database(&self, name: &Text) -> Option<Vec<u8>> {
        (self.kind == DATABASE).then(|| self.written("CREATE DATABASE IF NOT EXISTS", &name.quoted(), true))
    }

    fn written(&self, verb: &str, name: &[u8], with_uuid: bool) -> Vec<u8> {
        let mut sql = [verb.as_bytes(), b" ", name].concat();
        if let Some(uuid) = self.uuid.filter(|_| with_uuid) {
            sql.extend([b" UUID ", uuid].concat());
        }
        sql.extend(self.rest);
        sql
    }
}

fn words<'a>(at: &'a [u8], phrase: &str) -> Option<&'a [u8]> {
    phrase.split(' ').try_fold(at, |at, expected| word(at, expected))
}

/// What follows `expected`, which must end there.
fn word<'a>(at: &'a [u8], expected: &str) -> Option<&'a [u8]> {
    let at = at.trim_ascii_start();
    let (head, rest) = at.split_at_checked(expected.len())?;
    let ends = rest.first().is_none_or(|byte| !is_of_word(*byte));
    (head.eq_ignore_ascii_case(expected.as_bytes()) && ends).then_some(rest)
}

/// What follows a name, quoted or bare.
fn identifier(at: &[u8]) -> Option<&[u8]> {
    let at = at.trim_ascii_start();
    let end = match at.first()? {
        b'`' | b'"' => enclosed(at)?,
        _ => at.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(at.len()),
    };
    (end > 0).then(|| &at[end..])
}

/// How long what is quoted here is, with its quotes.
pub(super) fn enclosed(at: &[u8]) -> Option<usize> {
    let mark = at.first().filter(|mark| b"`\"'".contains(mark))?;
    let mut bytes = at.iter().enumerate().skip(1);
    while let Some((number, byte)) = bytes.next() {
        if *byte == b'\\' {
            bytes.next();
        } else if byte == mark {
            return Some(number + 1);
        }
    }
    None
}

/// Where each `name = value` begins that no quotes and no brackets hold, and where its value does.
pub(super) fn assignments(statement: &[u8], name: &str) -> Vec<(usize, usize)> {
    let (mut at, mut depth, mut found) = (0, 0, Vec::new());
    while at < statement.len() {
        let rest = &statement[at..];
        match rest[0] {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'`' | b'"' | b'\'' => at += enclosed(rest).unwrap_or(1) - 1,
            _ if depth == 0 && (at == 0 || !is_of_word(statement[at - 1])) => {
                let value = word(rest, name).and_then(|behind| behind.trim_ascii_start().strip_prefix(b"="));
                if let Some(value) = value.filter(|_| !rest[0].is_ascii_whitespace()) {
                    found.push((at, statement.len() - value.trim_ascii_start().len()));
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// For a server that has not the disks it asks for: its parts lie where the server puts them.
pub(super) fn anywhere(statement: &[u8]) -> Option<Vec<u8>> {
    let setting = |name| assignments(statement, name).pop();
    let (from, value) = setting("storage_policy").or_else(|| setting("disk"))?;
    let given = &statement[value..];
    let len = enclosed(given).or_else(|| call(given))?;
    Some([&statement[..from], b"storage_policy = 'default'", &given[len..]].concat())
}

/// How long `name(..)` is.
fn call(at: &[u8]) -> Option<usize> {
    let (mut end, mut depth) = (0, 0);
    while end < at.len() {
        match at[end] {
            b'`' | b'"' | b'\'' => end += enclosed(&at[end..])? - 1,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(end + 1),
            b')' => depth -= 1,
            _ => {}
        }
        end += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str, with_uuid: bool) -> String {
        let statement = Statement::parse(text.as_bytes()).unwrap();
        String::from_utf8(statement.compose(&"d`b".into(), &"t".into(), with_uuid)).unwrap()
    }

    #[test]
    fn stored_statements_are_made_to_create() {
        for (text, want) in [
            (
                "ATTACH TABLE _ UUID 'u-1'\n(\n    `a` UInt64\n)\nENGINE = MergeTree",
                "CREATE TABLE `d\\`b`.`t` UUID 'u-1'\n(\n    `a` UInt64\n)\nENGINE = MergeTree",
            ),
            ("ATTACH TABLE `x\\`\\ny` (a UInt64)", "CREATE TABLE `d\\`b`.`t` (a UInt64)"),
            (
                "CREATE VIEW default.`v w` (a UInt64) AS SELECT 1",
                "CREATE VIEW `d\\`b`.`t` (a UInt64) AS SELECT 1",
            ),
            (
                "ATTACH MATERIALIZED VIEW _ UUID 'u' TO INNER UUID 'i' (a UInt64) AS SELECT a",
                "ATTACH MATERIALIZED VIEW `d\\`b`.`t` UUID 'u' TO INNER UUID 'i' (a UInt64) AS SELECT a",
            ),
            ("create dictionary if not exists \"d\".d (x UInt8)", "CREATE DICTIONARY `d\\`b`.`t` (x UInt8)"),
        ] {
            assert_eq!(again(text, true), want);
        }
        assert_eq!(again("ATTACH TABLE _ UUID 'u' (a UInt8)", false), "CREATE TABLE `d\\`b`.`t` (a UInt8)");
        let view = "ATTACH MATERIALIZED VIEW _ UUID 'u' TO INNER UUID 'i' AS SELECT a";
        let once = Statement::parse(view.as_bytes()).unwrap().compose_once(&"d".into(), &"t".into());
        let want = "ATTACH MATERIALIZED VIEW IF NOT EXISTS `d`.`t` UUID 'u' TO INNER UUID 'i' AS SELECT a";
        assert_eq!(String::from_utf8(once).unwrap(), want);
        let database = Statement::parse(b"ATTACH DATABASE _ UUID 'u'\nENGINE = Atomic").unwrap();
        let made = database.compose_database(&"d b".into()).unwrap();
        assert_eq!(made, b"CREATE DATABASE IF NOT EXISTS `d b` UUID 'u'\nENGINE = Atomic");
        for bad in ["", "DROP TABLE x", "ATTACH TABLES x (", "ATTACH TABLE `x", "ATTACH TABLE x UUID 'u"] {
            assert_eq!(Statement::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_table_can_be_laid_where_there_is_room() {
        let made = |text: &str| anywhere(text.as_bytes()).map(|made| String::from_utf8(made).unwrap());
        for (settings, want) in [
            ("storage_policy = 'two', a = 1", "storage_policy = 'default', a = 1"),
            ("a = 1, storage_policy='t\\'wo' COMMENT 'c'", "a = 1, storage_policy = 'default' COMMENT 'c'"),
            ("disk = 'd1', a = 1", "storage_policy = 'default', a = 1"),
            ("disk = disk(name = ')', disk = disk(path = '/p')), a = 1", "storage_policy = 'default', a = 1"),
        ] {
            let head =
                "ATTACH TABLE _ (`storage_policy = ` String COMMENT 'disk = 1') ENGINE = MergeTree SETTINGS ";
            assert_eq!(made(&format!("{head}{settings}")), Some(format!("{head}{want}")));
        }
        for none in ["SETTINGS a = 'storage_policy = 1'", "disk_x = 1", "storage_policy = 'x", "disk = disk("]
        {
            assert_eq!(made(none), None, "{none}");
        }
    }
}
