//! What the database writes between two backups: what of it is stored, and which moments it leads to.
use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;
use serde::Serialize;

use crate::exit::Outcome;
use crate::human::hex;
use crate::output::{Output, fields, table};
use crate::target::position;
use crate::{Global, client, human};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Who stores a service's log, how far it is behind, and what can be restored from it.
    Show {
        /// May be left out when there is only one.
        service: Option<String>,
    },
}

#[derive(Serialize)]
struct Logs {
    service: String,
    writer: Option<Writer>,
    /// Of nodes that cannot even open theirs.
    failures: Vec<Failing>,
    lineages: Vec<Lineage>,
    windows: Vec<Window>,
}

#[derive(Serialize)]
struct Failing {
    node: String,
    failure: String,
    hint: String,
}

#[derive(Serialize)]
struct Writer {
    node: String,
    lineage: String,
    streaming: bool,
    stored: String,
    lag_bytes: u64,
    lag_ms: u64,
    /// Why nothing is stored.
    failure: Option<String>,
    gaps: Vec<Stretch>,
}

#[derive(Serialize)]
struct Lineage {
    id: String,
    parent: String,
    kind: String,
    begins: String,
    stretches: Vec<Stretch>,
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
pub(super) struct Stretch {
    pub(super) from: String,
    pub(super) to: String,
}

impl Stretch {
    pub(super) fn of(from: u64, to: u64) -> Self {
        Self { from: position(from), to: position(to) }
    }
}

#[derive(Serialize)]
struct Window {
    backup: String,
    node: String,
    lineage: String,
    from: String,
    to: String,
    from_time: Option<String>,
    to_time: Option<String>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let Verb::Show { service } = verb;
    let mut client = client::connect(global).await?;
    let service = client::service(&mut client, service).await?;
    let request = v1::ShowLogsRequest { service };
    let logs = view(client.show_logs(request).await.map_err(from_status)?.into_inner());
    output.data(&logs, show);
    Ok(Outcome::Done)
}

fn view(logs: v1::Logs) -> Logs {
    let lineages = logs.lineages.iter().map(|view| {
        let lineage = view.lineage.clone().unwrap_or_default();
        Lineage {
            id: hex(&lineage.id),
            parent: hex(&lineage.parent),
            kind: lineage.kind,
            begins: position(lineage.from),
            stretches: view.stretches.iter().map(|it| Stretch::of(it.from, it.to)).collect(),
            objects: view.objects,
            bytes: view.bytes,
        }
    });
    let windows = logs.windows.iter().map(|window| Window {
        backup: window.backup_id.clone(),
        node: window.node.clone(),
        lineage: window.chain.last().map(|id| hex(id)).unwrap_or_default(),
        from: position(window.from),
        to: position(window.to),
        from_time: human::rfc3339(window.from_ms),
        to_time: human::rfc3339(window.to_ms),
    });
    let failures = logs.failures.into_iter().map(|it| {
        let failure = it.failure.unwrap_or_default();
        Failing { node: it.node, failure: failure.message, hint: failure.hint }
    });
    Logs {
        failures: failures.collect(),
        lineages: lineages.collect(),
        windows: windows.collect(),
        writer: logs.writer.map(writer),
        service: logs.service,
    }
}

fn writer(writer: v1::LogWriterView) -> Writer {
    let status = writer.status.unwrap_or_default();
    Writer {
        node: writer.node,
        lineage: hex(&writer.lineage),
        streaming: writer.streaming,
        stored: position(status.stored),
        lag_bytes: writer.lag_bytes,
        lag_ms: writer.lag_ms,
        failure: status.failure.map(|failure| failure.message),
        gaps: writer.gaps.iter().map(|gap| Stretch::of(gap.from, gap.to)).collect(),
    }
}
fn show(logs: &Logs) -> String {
    let mut text = match &logs.writer {
        None => format!("nobody stores the log of {}\n", logs.service),
        Some(writer) => fields(&[
            ("service", logs.service.clone()),
            ("stored by", format!("{}{}", writer.node, if writer.streaming { "" } else { " (away)" })),
            ("stored up to", writer.stored.clone()),
            ("behind", format!("{}, {}", human::size(writer.lag_bytes), human::seconds(writer.lag_ms))),
            ("failure", writer.failure.clone().unwrap_or_else(|| "-".into())),
        ]),
    };
    for Failing { node, failure, hint } in &logs.failures {
        text.push_str(&format!("{node} cannot read its log: {failure}\n"));
        text.push_str(&if hint.is_empty() { String::new() } else { format!("hint: {hint}\n") });
    }
    for gap in logs.writer.iter().flat_map(|writer| &writer.gaps) {
        text.push_str(&format!("lost: {} to {}\n", gap.from, gap.to));
    }
    if logs.lineages.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = logs.lineages.iter().flat_map(rows_of).collect();
    text.push('\n');
    text.push_str(&table(&["LINEAGE", "PARENT", "STORED FROM", "TO", "OBJECTS", "SIZE"], &[4, 5], &rows));
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into()).replacen('T', " ", 1);
    let rows: Vec<Vec<String>> = logs
        .windows
        .iter()
        .map(|it| {
            let lineage = short(&it.lineage);
            vec![
                it.backup.clone(),
                lineage,
                it.from.clone(),
                it.to.clone(),
                time(&it.from_time),
                time(&it.to_time),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["BACKUP", "LINEAGE", "FROM", "TO", "FROM TIME", "TO TIME"], &[], &rows));
    text
}

fn rows_of(lineage: &Lineage) -> Vec<Vec<String>> {
    let row = |from: &str, to: &str| {
        vec![
            short(&lineage.id),
            short(&lineage.parent),
            from.to_owned(),
            to.to_owned(),
            human::count(lineage.objects),
            human::size(lineage.bytes),
        ]
    };
    match lineage.stretches.is_empty() {
        true => vec![row(&lineage.begins, &lineage.begins)],
        false => lineage.stretches.iter().map(|it| row(&it.from, &it.to)).collect(),
    }
}

/// As `--lineage` takes it.
fn short(id: &str) -> String {
    if id.is_empty() { "-".into() } else { id.chars().take(8).collect() }
}
