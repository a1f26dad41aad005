//! Parts of the old kind, `20180101_20180131_1_5_1`, of tables made as `MergeTree(day, id, 8192)`. They have no count of their rows:
//! the server that froze them is asked.
use std::collections::HashMap;
use std::path::PathBuf;

use palinurus_repository::Result;

use super::client::Client;
use super::facts::Facts;
use super::text::Text;
use crate::warning::Warnings;

/// A frozen part without a count.
#[derive(Debug)]
pub(super) struct Uncounted {
    /// Its table's place among the facts'.
    pub(super) table: usize,
    pub(super) part: String,
    pub(super) path: PathBuf,
}

/// The fields of such a name: its month, then its first block.
pub(super) fn month_and_block(part: &str) -> Option<(&str, &str)> {
    let fields: Vec<&str> = part.split('_').collect();
    let is_day = |field: &str| field.len() == 8 && field.bytes().all(|byte| byte.is_ascii_digit());
    (fields.len() == 5 && is_day(fields[0]) && is_day(fields[1])).then(|| (&fields[0][..6], fields[2]))
}

/// Adds what the server says of them to their tables. Any other part without a count may be broken, and is told.
pub(super) async fn ask(
    client: &Client,
    facts: &mut Facts,
    uncounted: Vec<Uncounted>,
    warnings: &mut Warnings,
) -> Result<()> {
    let mut known: HashMap<usize, HashMap<Text, u64>> = HashMap::new();
    for Uncounted { table: number, part, path } in uncounted {
        if month_and_block(&part).is_none() {
            warnings
                .push(path.to_string_lossy().as_bytes(), "a part without a count of rows: it may be broken");
            continue;
        }
        let table = &mut facts.tables[number];
        if let std::collections::hash_map::Entry::Vacant(vacant) = known.entry(number) {
            // A part that was merged since is there for some minutes.
            let sql = [
                b"SELECT name, toString(rows) FROM system.parts WHERE database = ".as_slice(),
                &table.database.literal(),
                b" AND table = ",
                &table.name.literal(),
            ];
            let rows = client.rows(sql.concat(), 2).await?.into_iter();
            let count =
                |row: Vec<Text>| Some((row[0].clone(), String::from_utf8_lossy(&row[1].0).parse().ok()?));
            vacant.insert(rows.filter_map(count).collect());
        }
        match known.get(&number).and_then(|parts| parts.get(&Text::from(part.as_str()))) {
            Some(rows) => {
                table.rows += rows;
                table.told += rows;
            }
            None => table.unknown += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_old_kind_are_known_by_their_names() {
        for (part, want) in [
            ("20180101_20180131_1_5_1", Some(("201801", "1"))),
            ("201801_1_5_1", None),
            ("20180101_1_5_1", None),
            ("20180101_1_5_1_7", None),
            ("all_1_5_1", None),
        ] {
            assert_eq!(month_and_block(part), want, "{part}");
        }
    }
}
