//! The tables that a stored statement names, found and given other names. The server stores statements in one form, with
//! every table of a query named in full: so a pair of names is a table where a table must stand, and nowhere else.
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::statement::enclosed;
use super::text::{Text, unescaped};

/// What ends the list of a query's tables.
const ENDS: [&str; 14] = [
    "SELECT",
    "PREWHERE",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "UNION",
    "SETTINGS",
    "WINDOW",
    "QUALIFY",
    "FORMAT",
    "INTERSECT",
    "EXCEPT",
];
/// Functions whose first argument is a table, as they begin.
const CALLS: [&str; 3] = ["dictget", "dicthas", "joinget"];
const HERE: [&[u8]; 3] = [b"localhost", b"127.0.0.1", b"::1"];

/// A database, and one of its tables.
pub(super) type Pair = (Text, Text);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) database: Text,
    pub(super) table: Text,
    /// The same one for both: a string that holds them with a dot between.
    at: [Range<usize>; 2],
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Where it could have an alias, and has none.
    Bare,
    /// It must be there.
    Needed,
    Column,
    /// Asked for when rows are, by name.
    Told,
}

impl Found {
    /// Whether the statement cannot be run without it.
    pub(super) fn is_needed(&self) -> bool {
        matches!(self.form, Form::Bare | Form::Needed)
    }
}

#[derive(Clone, Debug)]
struct Token {
    at: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Literal,
    Sign(u8),
}

/// A statement as tokens.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    tokens: Vec<Token>,
}

impl<'a> Tokens<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let rest = &text[at..];
            let (kind, len) = match (rest[0], enclosed(rest)) {
                (byte, _) if byte.is_ascii_whitespace() => {
                    at += 1;
                    continue;
                }
                (b'\'', Some(len)) => (Kind::Literal, len),
                (_, Some(len)) => (Kind::Quoted, len),
                (byte, None) if is_word(&byte) => {
                    (Kind::Word, rest.iter().position(|byte| !is_word(byte)).unwrap_or(rest.len()))
                }
                (byte, None) => (Kind::Sign(byte), 1),
            };
            tokens.push(Token { at: at..at + len, kind });
            at += len;
        }
        Self { text, tokens }
    }

    fn slice(&self, at: usize) -> &'a [u8] {
        self.tokens.get(at).map_or(&[], |token| &self.text[token.at.clone()])
    }

    fn is(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Word)
            && self.slice(at).eq_ignore_ascii_case(word.as_bytes())
    }

    fn has_sign(&self, at: usize, sign: u8) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Sign(sign))
    }

    fn name(&self, at: usize) -> Option<Text> {
        let token = self.tokens.get(at)?;
        match token.kind {
            Kind::Word => (!self.slice(at)[0].is_ascii_digit()).then(|| Text(self.slice(at).to_vec())),
            Kind::Quoted => Some(self.inner(at)),
            _ => None,
        }
    }

    fn literal(&self, at: usize) -> Option<Text> {
        (self.tokens.get(at)?.kind == Kind::Literal).then(|| self.inner(at))
    }

    fn inner(&self, at: usize) -> Text {
        let quoted = self.slice(at);
        unescaped(&quoted[1..quoted.len() - 1])
    }

    /// A name or a string, as engines take either.
    fn value(&self, at: usize) -> Option<Text> {
        self.name(at).or_else(|| self.literal(at))
    }

    fn pair(&self, database: usize, table: usize, form: Form) -> Option<Found> {
        Some(Found {
            database: self.value(database)?,
            table: self.value(table)?,
            at: [self.tokens[database].at.clone(), self.tokens[table].at.clone()],
            form,
        })
    }

    /// `database.table` at a place.
    fn dotted(&self, at: usize, form: Form) -> Option<Found> {
        let names = self.name(at).is_some() && self.has_sign(at + 1, b'.') && self.name(at + 2).is_some();
        self.pair(at, at + 2, form).filter(|_| names)
    }

    /// `'database.table'`
    fn joined(&self, at: usize) -> Option<Found> {
        let text = self.literal(at)?;
        let dot = text.0.iter().position(|byte| *byte == b'.')?;
        let place = self.tokens[at].at.clone();
        Some(Found {
            database: Text(text.0[..dot].to_vec()),
            table: Text(text.0[dot + 1..].to_vec()),
            at: [place.clone(), place],
            form: Form::Told,
        })
    }

    pub(super) fn tables(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut expects = None;
        // Whether a comma brings another table, within each parenthesis.
        let mut lists = vec![false];
        let mut at = 0;
        while at < self.tokens.len() {
            if let Some(form) = expects.take()
                && let Some(mut table) = self.dotted(at, form)
            {
                if form == Form::Bare && self.is(at + 3, "AS") {
                    table.form = Form::Needed;
                }
                found.push(table);
                at += 3;
                continue;
            }
            match self.tokens[at].kind {
                Kind::Sign(b'(') => lists.push(false),
                Kind::Sign(b')') if lists.len() > 1 => drop(lists.pop()),
                Kind::Sign(b',') if lists.last() == Some(&true) => expects = Some(Form::Bare),
                Kind::Word | Kind::Quoted => {
                    let behind = at > 0 && self.has_sign(at - 1, b'.');
                    if !behind
                        && self.has_sign(at + 3, b'.')
                        && let Some(column) = self.dotted(at, Form::Column)
                    {
                        found.push(column);
                        at += 3;
                        continue;
                    }
                    expects = self.keyword(at, &mut lists, &mut found);
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// Of a view: those that it reads.
    pub(super) fn sources(&self) -> Vec<Found> {
        let written = |found: &Found| {
            let at = self.tokens.iter().position(|token| token.at.start == found.at[0].start);
            at.is_some_and(|at| at > 0 && self.is(at - 1, "TO"))
        };
        self.tables().into_iter().filter(|found| found.is_needed() && !written(found)).collect()
    }

    /// What a word says of that which follows.
    fn keyword(&self, at: usize, lists: &mut [bool], found: &mut Vec<Found>) -> Option<Form> {
        if self.tokens[at].kind != Kind::Word {
            return None;
        }
        let list = lists.last_mut()?;
        let after = |word| at > 0 && self.is(at - 1, word);
        if self.is(at, "FROM") && !after("DISTINCT") {
            *list = true;
            return Some(Form::Bare);
        }
        if self.is(at, "JOIN") && !after("ARRAY") {
            return Some(Form::Bare);
        }
        if self.is(at, "TO") || self.is(at, "IN") {
            return Some(Form::Needed);
        }
        if ENDS.iter().any(|word| self.is(at, word)) {
            *list = false;
        } else if self.is(at, "ENGINE") && self.has_sign(at + 1, b'=') && self.has_sign(at + 3, b'(') {
            let first = at + 4;
            found.extend(match self.slice(at + 2) {
                b"Distributed" => self.pair(first + 2, first + 4, Form::Told),
                b"Buffer" => self.pair(first, first + 2, Form::Told),
                b"Dictionary" => self.joined(first).or_else(|| self.dotted(first, Form::Told)),
                _ => None,
            });
        } else if self.has_sign(at + 1, b'(') {
            let called = self.slice(at).to_ascii_lowercase();
            if CALLS.iter().any(|call| called.starts_with(call.as_bytes())) {
                found.extend(self.joined(at + 2).or_else(|| self.dotted(at + 2, Form::Told)));
            } else if called == b"clickhouse" {
                found.extend(self.source(at + 2));
            }
        }
        None
    }

    /// Of a dictionary: `CLICKHOUSE(HOST 'h' DB 'd' TABLE 't' ..)`, on this server.
    fn source(&self, from: usize) -> Option<Found> {
        let end = (from..self.tokens.len()).find(|at| self.has_sign(*at, b')'))?;
        let of = |word| (from..end).find(|at| self.is(*at, word)).map(|at| at + 1);
        let host = of("HOST").and_then(|at| self.literal(at));
        let is_here = host.is_none_or(|host| HERE.contains(&host.0.as_slice()));
        self.pair(of("DB")?, of("TABLE")?, Form::Told).filter(|_| is_here)
    }

    /// `name(` anywhere, which may be a function.
    pub(super) fn calls(&self, name: &Text) -> bool {
        (0..self.tokens.len()).any(|at| self.has_sign(at + 1, b'(') && self.name(at).as_ref() == Some(name))
    }

    /// The first that it says, which is its own.
    pub(super) fn uuid(&self) -> Option<String> {
        let uuid = (0..self.tokens.len()).find(|at| self.is(*at, "UUID")).and_then(|at| self.literal(at + 1));
        uuid.map(|uuid| String::from_utf8_lossy(&uuid.0).into_owned())
    }

    /// The path in ZooKeeper of a replicated table, and where it stands.
    pub(super) fn replica_path(&self) -> Option<(Text, Range<usize>)> {
        let engine = (0..self.tokens.len()).find(|at| {
            self.is(*at, "ENGINE")
                && self.has_sign(at + 1, b'=')
                && self.slice(at + 2).starts_with(b"Replicated")
        })?;
        let path = self.literal(engine + 4).filter(|_| self.has_sign(engine + 3, b'('))?;
        Some((path, self.tokens[engine + 4].at.clone()))
    }

    /// What `ENGINE = engine(..)` is given, of strings alone.
    pub(super) fn engine_arguments(&self, engine: &str) -> Option<Vec<Text>> {
        let at = (0..self.tokens.len()).find(|at| {
            self.is(*at, "ENGINE") && self.has_sign(at + 1, b'=') && self.slice(at + 2) == engine.as_bytes()
        })?;
        let (mut at, mut found) = (at + 4, Vec::new());
        while self.has_sign(at - 1, if found.is_empty() { b'(' } else { b',' }) {
            found.push(self.literal(at)?);
            at += 2;
        }
        Some(found)
    }

    /// The statement for tables of other names and other UUIDs, and with another `path` in ZooKeeper.
    pub(super) fn rewritten(
        &self,
        renamed: &dyn Fn(&Text, &Text) -> Option<Pair>,
        uuids: &HashMap<String, String>,
        path: Option<&Text>,
    ) -> Vec<u8> {
        let tables = self.tables();
        let needed: HashSet<(&Text, &Text)> =
            tables.iter().filter(|it| it.is_needed()).map(|it| (&it.database, &it.table)).collect();
        let mut edits: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
        for found in &tables {
            // What looks like a table's column is one if the table is in the query.
            if found.form == Form::Column && !needed.contains(&(&found.database, &found.table)) {
                continue;
            }
            let Some((database, table)) = renamed(&found.database, &found.table) else { continue };
            let [first, second] = &found.at;
            if first == second {
                edits.push((first.clone(), Text([database.0, table.0].join(&b'.')).literal()));
                continue;
            }
            edits.push((first.clone(), self.written(first, &database)));
            let mut written = self.written(second, &table);
            if found.form == Form::Bare && table != found.table && self.is_qualifier(&found.table) {
                written.extend([b" AS ".as_slice(), &found.table.quoted()].concat());
            }
            edits.push((second.clone(), written));
        }
        for at in (0..self.tokens.len()).filter(|at| self.is(*at, "UUID")) {
            let new = self.literal(at + 1).and_then(|old| uuids.get(&*String::from_utf8_lossy(&old.0)));
            edits.extend(new.map(|new| (self.tokens[at + 1].at.clone(), Text::from(new.as_str()).literal())));
        }
        if let (Some((_, at)), Some(path)) = (self.replica_path(), path) {
            edits.push((at, path.literal()));
        }
        self.edited(edits)
    }

    /// As what stood there was written.
    fn written(&self, at: &Range<usize>, name: &Text) -> Vec<u8> {
        if self.text[at.start] == b'\'' { name.literal() } else { name.quoted() }
    }

    /// Whether `name.column` stands anywhere: then the table must go on by that name in its query.
    fn is_qualifier(&self, name: &Text) -> bool {
        (0..self.tokens.len()).any(|at| {
            let behind = at > 0 && self.has_sign(at - 1, b'.');
            !behind && self.has_sign(at + 1, b'.') && self.name(at).as_ref() == Some(name)
        })
    }

    fn edited(&self, mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Vec<u8> {
        edits.sort_by_key(|(at, _)| at.start);
        let (mut out, mut from) = (Vec::with_capacity(self.text.len()), 0);
        for (at, new) in edits {
            // No token has two meanings.
            if at.start >= from {
                out.extend_from_slice(&self.text[from..at.start]);
                out.extend(new);
                from = at.end;
            }
        }
        out.extend_from_slice(&self.text[from..]);
        out
    }
}

#[cfg(test)]
mod tests;
