//! A second place for a repository.
use indicatif::{ProgressBar, ProgressStyle};
use palinurus_repository::{Result, copy, storage};
use serde::Serialize;

use crate::command::repository::KnownPlace;
use crate::exit::Outcome;
use crate::given::Given;
use crate::human;
use crate::output::{Output, fields, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// The repository: file:///path, s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    from: String,
    /// An empty place, or an earlier copy of the same repository.
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    given: Given,
}

#[derive(Serialize)]
struct Copied {
    objects: u64,
    bytes: u64,
    objects_there: u64,
    records: u64,
    backups: u64,
    damaged_count: u64,
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct Damaged {
    object: String,
    what: String,
}

pub(crate) async fn run(wanted: Copy, output: &Output) -> Result<Outcome> {
    let from = KnownPlace::new(wanted.from, wanted.given).open(output).await?;
    let to = storage::open(&wanted.to)?;
    let bar = output.bars.then(ProgressBar::new_spinner);
    if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{spinner} {msg}  {elapsed}")) {
        bar.set_style(style);
    }
    let progress = |at: copy::Progress| {
        if let Some(bar) = &bar {
            bar.set_message(format!("{} objects, {}", human::count(at.objects), human::size(at.bytes)));
            bar.tick();
        }
    };
    let done = copy::copy(&from, &to, &progress).await;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let done = done?;
    let damaged = done.damaged.iter();
    let view = Copied {
        objects: done.objects,
        bytes: done.bytes,
        objects_there: done.objects_there,
        records: done.records,
        backups: done.backups,
        damaged_count: done.damaged_count,
        damaged: damaged
            .map(|(object, what)| Damaged { object: object.clone(), what: human::name(what.as_bytes()) })
            .collect(),
    };
    output.data(&view, show);
    Ok(if view.damaged_count > 0 { Outcome::Corrupt } else { Outcome::Done })
}

fn show(copied: &Copied) -> String {
    let head = fields(&[
        ("copied", format!("{} objects, {}", human::count(copied.objects), human::size(copied.bytes))),
        ("there", format!("{} objects", human::count(copied.objects_there))),
        ("backups", human::count(copied.backups)),
    ]);
    if copied.damaged_count == 0 {
        return head;
    }
    let rows: Vec<Vec<String>> =
        copied.damaged.iter().map(|damaged| vec![damaged.object.clone(), damaged.what.clone()]).collect();
    let more = copied.damaged_count.saturating_sub(copied.damaged.len() as u64);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    format!("{head}\nnot copied\n{}{more}", table(&["OBJECT", "BECAUSE"], &[], &rows))
}
