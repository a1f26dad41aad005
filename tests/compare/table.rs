//! The result: medians over the rounds, and how they compare.
use std::fmt::Write;

use crate::meter::Cost;

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

#[derive(Debug)]
struct Row {
    name: String,
    better: Better,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Row {
    /// How many times better ours is.
    fn ratio(&self) -> Option<f64> {
        let (ours, theirs) = (median(&self.ours)?, median(&self.theirs)?);
        Some(if self.better == Better::Less { theirs / ours } else { ours / theirs })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    fn row(&mut self, name: &str, better: Better) -> &mut Row {
        let at = self.0.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.0.push(Row { name: name.to_owned(), better, ours: Vec::new(), theirs: Vec::new() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(crate) fn ours(&mut self, name: &str, better: Better, value: f64) {
        println!("  {name}: {value:.3}");
        self.row(name, better).ours.push(value);
    }

    pub(crate) fn theirs(&mut self, name: &str, better: Better, value: f64) {
        println!("  {name}, pgbackrest: {value:.3}");
        self.row(name, better).theirs.push(value);
    }

    pub(crate) fn one(&mut self, ours: bool, name: &str, better: Better, value: f64) {
        if ours { self.ours(name, better, value) } else { self.theirs(name, better, value) }
    }

    pub(crate) fn cost(&mut self, ours: bool, step: &str, cost: Cost) {
        self.one(ours, &format!("{step}, s"), Better::Less, cost.seconds);
        self.one(ours, &format!("{step}, cpu s"), Better::Less, cost.cpu);
    }

    pub(crate) fn show(&self) -> String {
        let mut text =
            format!("{:<34} {:>11} {:>11} {:>8}\n", "medians", "palinurus", "pgbackrest", "better");
        let number =
            |values: &[f64]| median(values).map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        for row in &self.0 {
            let ratio = row.ratio().map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}x"));
            let (ours, theirs) = (number(&row.ours), number(&row.theirs));
            writeln!(text, "{:<34} {ours:>11} {theirs:>11} {ratio:>8}", row.name).unwrap();
        }
        text
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let rows = self.0.iter().map(|row| {
            serde_json::json!({
                "name": row.name,
                "palinurus": median(&row.ours),
                "pgbackrest": median(&row.theirs),
                "better": row.ratio(),
                "of_palinurus": row.ours,
                "of_pgbackrest": row.theirs,
            })
        });
        serde_json::json!({ "rows": rows.collect::<Vec<_>>() })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
