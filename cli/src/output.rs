//! stdout is data: a table for eyes, or one JSON object. stderr is talk.
use std::io::{IsTerminal, Write};

use serde::Serialize;

#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    /// Whether stderr is a terminal that wants moving bars.
    pub(crate) bars: bool,
    /// Whether progress is wanted as JSON lines.
    pub(crate) progress_lines: bool,
}

impl Output {
    pub(crate) fn new(json: bool, no_progress: bool) -> Self {
        let bars = !json && !no_progress && std::io::stderr().is_terminal();
        Self { json, bars, progress_lines: json && !no_progress }
    }

    /// The command's answer: `value` under `--json`, else what `show` makes of it.
    pub(crate) fn data<T: Serialize>(&self, value: &T, show: impl FnOnce(&T) -> String) {
        let text = if self.json { to_json(value, true) } else { show(value) };
        // A reader that went away (`| head`) is no failure of the command.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Talk for a person; silent under `--json`, where stderr is for programs too.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.json {
            self.say(text);
        }
    }

    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        if self.json {
            self.json_line(&serde_json::json!({ "warning": text.as_ref() }));
        } else {
            self.say(format!("warning: {}", text.as_ref()));
        }
    }

    /// One line of JSON on stderr.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) {
        self.say(to_json(value, false));
    }
}

fn to_json<T: Serialize>(value: &T, pretty: bool) -> String {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    // Our own structs of strings and numbers: it cannot fail, and saying so beats a panic.
    text.unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}

/// Columns aligned by the widest cell, two spaces between. Columns named in `right` are numbers.
pub(crate) fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (i, cell) in cells.enumerate() {
            let pad = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
            let cell = if right.contains(&i) { pad + cell } else { cell.to_owned() + &pad };
            if i > 0 {
                text.push_str("  ");
            }
            text.push_str(&cell);
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// `name: value` lines, the values aligned.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    pairs.iter().map(|(name, value)| format!("{:width$} {value}\n", format!("{name}:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_names_left_and_numbers_right() {
        let rows = vec![vec!["n1".into(), "7".into()], vec!["node-2".into(), "1234".into()]];
        assert_eq!(table(&["NODE", "FILES"], &[1], &rows), "NODE    FILES\nn1          7\nnode-2   1234\n");
        assert_eq!(fields(&[("id", "a".into()), ("state", "b".into())]), "id:    a\nstate: b\n");
    }
}
