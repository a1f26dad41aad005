//! Which tables of a backup are restored, and under which names.
//!
//! ```text
//! choice = names {"," names}            rename = names "=" names, both of a database or both of a table
//! names  = name ["." name]              a database alone stands for all of its tables
//! name   = bare, where * is any part of a name, or `quoted`, where nothing is special but \` \\ \n \t \r \0
//! ```
use std::fmt;

use palinurus_repository::{Error, Result};

use crate::v1;

/// Of patterns and renames, and of the bytes of each.
const CHOICES_MAX: usize = 1000;
const LEN_MAX: usize = 4096;

/// A database, and one of its tables.
pub type Names = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    patterns: Vec<Pattern>,
    renames: Vec<Rename>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    database: Name,
    table: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    text: String,
    from: (Vec<u8>, Option<Vec<u8>>),
    to: (Vec<u8>, Option<Vec<u8>>),
}

/// Bytes, and `None` for any number of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name(Vec<Option<u8>>);

impl Choice {
    pub fn parse(wire: &v1::Choice) -> Result<Self> {
        let all = wire.tables.iter().chain(&wire.renames);
        if wire.tables.len() + wire.renames.len() > CHOICES_MAX
            || all.clone().any(|text| text.len() > LEN_MAX)
        {
            return Err(Error::invalid(format!(
                "more than {CHOICES_MAX} names, or one of more than {LEN_MAX} bytes"
            ))
            .with_hint("name whole databases, as database.*"));
        }
        let (mut patterns, mut renames) = (Vec::new(), Vec::new());
        for text in &wire.tables {
            each(text, |at| pattern(at).map(|(found, rest)| (patterns.push(found), rest).1))?;
        }
        for text in &wire.renames {
            each(text, |at| rename(at).map(|(found, rest)| (renames.push(found), rest).1))?;
        }
        if patterns.is_empty() {
            return Err(Error::invalid("no tables are named")
                .with_hint("say which tables to restore: database.table, or database.*"));
        }
        Ok(Self { patterns, renames })
    }

    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    pub fn renames(&self) -> &[Rename] {
        &self.renames
    }

    pub fn has(&self, database: &[u8], table: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_of(database, table))
    }

    /// What a table is called here. What was said of the table goes before what was said of its database.
    pub fn renamed(&self, database: &[u8], table: &[u8]) -> Names {
        let of = |whole: bool| {
            self.renames
                .iter()
                .find(|rename| rename.is_of_database() == whole && rename.is_of(database, table))
        };
        match of(false).or_else(|| of(true)) {
            None => (database.to_vec(), table.to_vec()),
            Some(rename) => (rename.to.0.clone(), rename.to.1.clone().unwrap_or_else(|| table.to_vec())),
        }
    }
}

impl Pattern {
    pub fn is_of(&self, database: &[u8], table: &[u8]) -> bool {
        self.database.is(database) && self.table.as_ref().is_none_or(|name| name.is(table))
    }

    pub fn is_of_database(&self, database: &[u8]) -> bool {
        self.database.is(database)
    }
}

impl Rename {
    pub fn is_of(&self, database: &[u8], table: &[u8]) -> bool {
        self.from.0 == database && self.from.1.as_ref().is_none_or(|name| name == table)
    }

    fn is_of_database(&self) -> bool {
        self.from.1.is_none()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text.escape_debug())
    }
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text.escape_debug())
    }
}

impl Name {
    fn is(&self, name: &[u8]) -> bool {
        let (mut at, mut from) = (0, 0);
        // The last `*`, and how far the name had come when it was met: there it takes one byte more.
        let mut star: Option<(usize, usize)> = None;
        while from < name.len() {
            match self.0.get(at) {
                Some(Some(byte)) if *byte == name[from] => (at, from) = (at + 1, from + 1),
                Some(None) => (star, at) = (Some((at, from)), at + 1),
                _ => match star {
                    Some((place, came)) => (star, at, from) = (Some((place, came + 1)), place + 1, came + 1),
                    None => return false,
                },
            }
        }
        self.0[at..].iter().all(Option::is_none)
    }

    fn plain(self) -> Option<Vec<u8>> {
        self.0.into_iter().collect()
    }
}

/// What stands between commas.
fn each<'a>(text: &'a str, mut one: impl FnMut(&'a str) -> Option<&'a str>) -> Result<()> {
    let unusable = || {
        Error::invalid(format!("{text:?} names no tables"))
            .with_hint("write database.table or database.*; put names with other signs into backquotes: `my db`.`a,b`; rename with database=other or database.table=other.name")
    };
    let mut rest = one(text).ok_or_else(unusable)?;
    while !rest.is_empty() {
        rest = rest.strip_prefix(',').and_then(&mut one).ok_or_else(unusable)?;
    }
    Ok(())
}

fn pattern(at: &str) -> Option<(Pattern, &str)> {
    let (database, table, rest) = names(at)?;
    Some((Pattern { text: at[..at.len() - rest.len()].trim().to_owned(), database, table }, rest))
}

fn rename(at: &str) -> Option<(Rename, &str)> {
    let side = |at| {
        let (database, table, rest) = names(at)?;
        let table = match table {
            Some(table) => Some(table.plain()?),
            None => None,
        };
        Some(((database.plain()?, table), rest))
    };
    let (from, rest) = side(at)?;
    let (to, rest) = side(rest.strip_prefix('=')?)?;
    let text = at[..at.len() - rest.len()].trim().to_owned();
    (from.1.is_some() == to.1.is_some()).then_some((Rename { text, from, to }, rest))
}

fn names(at: &str) -> Option<(Name, Option<Name>, &str)> {
    let (database, rest) = name(at)?;
    let Some(table) = rest.strip_prefix('.') else { return Some((database, None, rest)) };
    let (table, rest) = name(table)?;
    Some((database, Some(table), rest))
}

fn name(at: &str) -> Option<(Name, &str)> {
    let at = at.trim_start();
    let (name, rest) = match at.strip_prefix('`') {
        Some(quoted) => unquoted(quoted)?,
        None => {
            let end = at.find(['.', ',', '=', '`']).unwrap_or(at.len());
            let (bare, rest) = at.split_at(end);
            let star = |byte| if byte == b'*' { None } else { Some(byte) };
            (Name(bare.trim_end().bytes().map(star).collect()), rest)
        }
    };
    (!name.0.is_empty()).then_some((name, rest.trim_start()))
}

/// Up to the quote that ends it.
fn unquoted(text: &str) -> Option<(Name, &str)> {
    let mut name = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        name.push(Some(match byte {
            b'`' => return Some((Name(name), &text[at + 1..])),
            b'\\' => match bytes.next()?.1 {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'0' => 0,
                other => other,
            },
            byte => byte,
        }));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(tables: &[&str], renames: &[&str]) -> Result<Choice> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Choice::parse(&v1::Choice { tables: texts(tables), renames: texts(renames) })
    }

    #[test]
    fn tables_are_chosen_and_renamed() {
        let some = choice(&["a.*, b.t*s", "`odd, db`.`x*\\``,c"], &["a=z,a.u=b.v", "c=`=`"]).unwrap();
        for (database, table, chosen) in [
            ("a", "t", true),
            ("ab", "t", false),
            ("b", "ts", true),
            ("b", "tables", true),
            ("b", "tsx", false),
            ("odd, db", "x*`", true),
            ("odd, db", "xy`", false),
            ("c", "é", true),
        ] {
            assert_eq!(some.has(database.as_bytes(), table.as_bytes()), chosen, "{database}.{table}");
        }
        for (from, to) in [
            (("a", "t"), ("z", "t")),
            (("a", "u"), ("b", "v")),
            (("b", "t"), ("b", "t")),
            (("c", "t"), ("=", "t")),
        ] {
            let found = some.renamed(from.0.as_bytes(), from.1.as_bytes());
            assert_eq!(found, (to.0.into(), to.1.into()), "{from:?}");
        }
    }

    #[test]
    fn what_is_no_choice_is_refused() {
        for bad in ["", ",", "a.", ".b", "a.b.c", "a,", "`a", "`a\\", "a b`c`", "a=b"] {
            assert!(choice(&[bad], &[]).is_err(), "{bad}");
        }
        for bad in ["a", "a=", "=b", "a.*=b.c", "a=b*", "a=b.c", "a.b=c", "a=b=c"] {
            assert!(choice(&["a"], &[bad]).is_err(), "{bad}");
        }
        assert!(choice(&[], &["a=b"]).is_err());
        assert!(choice(&["x".repeat(LEN_MAX + 1).as_str()], &[]).is_err());
    }

    fn quoted(name: &str) -> String {
        format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
    }

    proptest! {
        #[test]
        fn any_name_can_be_quoted(database in ".{1,12}", table in ".{1,12}", other in ".{1,12}") {
            let text = format!("{}.{}", quoted(&database), quoted(&table));
            let to = format!("{}.{}", quoted(&other), quoted(&database));
            let some = choice(&[&text], &[&format!("{text}={to}")]).unwrap();
            prop_assert!(some.has(database.as_bytes(), table.as_bytes()));
            prop_assert_eq!(some.has(database.as_bytes(), other.as_bytes()), table == other);
            let found = some.renamed(database.as_bytes(), table.as_bytes());
            prop_assert_eq!(found, (other.clone().into_bytes(), database.clone().into_bytes()));
        }

        #[test]
        fn stars_match_as_a_slow_matcher_does(pattern in "[ab*]{1,7}", name in "[ab]{0,7}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| slow(rest, &name[at..])),
                    Some((byte, rest)) => name.first() == Some(byte) && slow(rest, &name[1..]),
                }
            }
            let some = choice(&[&pattern], &[]).unwrap();
            prop_assert_eq!(some.has(name.as_bytes(), b"t"), slow(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,40}", rename in ".{0,40}") {
            let _ = choice(&[&text], &[&rename]);
        }
    }
}
