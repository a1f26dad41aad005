//! What an agent says is held to sizes before anything keeps it: long texts are cut and long lists shortened; names
//! and references that no agent makes so long end its session.
use palinurus_proto::v1::{self, agent_message, task_result};
use palinurus_repository::{Error, Result};

use crate::operation::record::{DAMAGES_KEPT, WARNINGS_KEPT};

/// One message of a session, and one of a claim stream: a pack's summary is the longest, the list of its chunks.
pub(crate) const MESSAGE_MAX: usize = 8 << 20;
const NAME_MAX: usize = 256;
const TEXT_MAX: usize = 2 << 10;
const PATH_MAX: usize = 4 << 10;
/// An encoded reference, or an engine's facts.
const BYTES_MAX: usize = 64 << 10;
/// Of the tasks in a hello.
const TASKS_MAX: usize = 1000;
/// A list of damaged objects.
const OBJECTS_MAX: usize = 256 << 10;
const LIST_MAX: usize = 10_000;
/// Of the parents of a log.
const FORKS_MAX: usize = 150;
/// Sums of these stay numbers.
const COUNT_MAX: u64 = 1 << 50;

pub(crate) fn message(message: &mut v1::AgentMessage) -> Result<()> {
    match &mut message.message {
        Some(agent_message::Message::Report(told)) => report(told),
        Some(agent_message::Message::Goodbye(goodbye)) => {
            text(&mut goodbye.reason);
            Ok(())
        }
        Some(agent_message::Message::Heartbeat(beat)) => {
            beat.log_failure.as_mut().map_or(Ok(()), failure)?;
            name(&beat.recovered)
        }
        // A second hello is refused for what it is.
        Some(agent_message::Message::Hello(_)) | None => Ok(()),
    }
}

pub(crate) fn log_status(status: &mut v1::LogStatus) -> Result<()> {
    status.failure.as_mut().map_or(Ok(()), failure)
}

fn failure(failure: &mut v1::Failure) -> Result<()> {
    name(&failure.kind)?;
    name(&failure.node)?;
    text(&mut failure.message);
    text(&mut failure.hint);
    Ok(())
}

/// What names the agent; the log itself is held to the rules of lineages.
pub(crate) fn log_open(open: &v1::LogOpen) -> Result<()> {
    let names = [&open.service, &open.node, &open.instance, &open.kind];
    names.into_iter().try_for_each(|text| name(text))?;
    match open.history.len() {
        0..=FORKS_MAX => Ok(()),
        more => Err(Error::invalid(format!("a log with {more} parents"))),
    }
}

pub(crate) fn hello(hello: &mut v1::Hello) -> Result<()> {
    let names = [&hello.service, &hello.node, &hello.instance, &hello.version, &hello.engine];
    names.into_iter().try_for_each(|text| name(text))?;
    if hello.tasks.len() > TASKS_MAX {
        return Err(Error::invalid(format!("{} tasks in a hello", hello.tasks.len())).with_hint(format!(
            "{TASKS_MAX} are the most: see what the agent keeps in its state directory"
        )));
    }
    hello.tasks.iter_mut().try_for_each(report)
}

fn report(report: &mut v1::TaskReport) -> Result<()> {
    name(&report.operation)?;
    name(&report.task)?;
    if let Some(progress) = &mut report.progress {
        let v1::Progress {
            files_total,
            files_done,
            bytes_total,
            bytes_done,
            bytes_read,
            bytes_new,
            bytes_stored,
            requests,
        } = progress;
        count([files_total, files_done, bytes_total, bytes_done, bytes_read]);
        count([bytes_new, bytes_stored]);
        requests.iter_mut().for_each(asked);
    }
    report.failure.as_mut().map_or(Ok(()), failure)?;
    report.result.as_mut().and_then(|result| result.result.as_mut()).map_or(Ok(()), result)
}

fn asked(requests: &mut v1::Requests) {
    let v1::Requests { puts, gets, sizes, lists, deletes, deleted, retries, bytes_sent, bytes_received } =
        requests;
    count([puts, gets, sizes, lists, deletes, deleted, retries, bytes_sent, bytes_received]);
}

fn result(result: &mut task_result::Result) -> Result<()> {
    use task_result::Result as R;
    match result {
        R::Inspect(r) => {
            text(&mut r.no_share);
            name(&r.shard)?;
            bytes(&r.facts, BYTES_MAX)
        }
        R::Probe(r) => {
            text(&mut r.told);
            Ok(())
        }
        R::Thaw(r) => {
            text(&mut r.changed);
            Ok(())
        }
        R::Snapshot(r) => {
            count([&mut r.files, &mut r.bytes]);
            warnings(&mut r.warnings, &mut r.warning_count);
            r.largest.truncate(WARNINGS_KEPT);
            r.largest.iter().try_for_each(|path| bytes(path, PATH_MAX))
        }
        R::Upload(r) => {
            count([&mut r.borrowed]);
            warnings(&mut r.warnings, &mut r.warning_count);
            Ok(())
        }
        R::Manifest(r) => {
            warnings(&mut r.warnings, &mut r.warning_count);
            if let Some(summary) = &mut r.summary {
                name(&summary.node)?;
                count([&mut summary.files, &mut summary.bytes, &mut summary.bytes_read]);
                count([&mut summary.bytes_new, &mut summary.bytes_stored, &mut summary.warnings]);
            }
            bytes(&r.manifest, BYTES_MAX)?;
            if r.segments.len() > LIST_MAX {
                return Err(Error::invalid(format!("{} index segments", r.segments.len())));
            }
            r.segments.iter().try_for_each(|key| bytes(key, NAME_MAX))
        }
        R::Restore(r) => {
            count([&mut r.files, &mut r.bytes, &mut r.bytes_written, &mut r.bytes_fetched]);
            text(&mut r.told);
            warnings(&mut r.warnings, &mut r.warning_count);
            Ok(())
        }
        R::Drill(r) => {
            count([&mut r.restored_ms, &mut r.rto_ms, &mut r.recovered_ms, &mut r.files, &mut r.bytes]);
            r.finding_count = r.finding_count.max(r.findings.len() as u64);
            count([&mut r.finding_count]);
            r.checks.truncate(WARNINGS_KEPT);
            r.findings.truncate(WARNINGS_KEPT);
            [&mut r.node, &mut r.source, &mut r.reached].into_iter().chain(&mut r.findings).for_each(text);
            for check in &mut r.checks {
                text(&mut check.name);
                text(&mut check.told);
                count([&mut check.took_ms]);
            }
            Ok(())
        }
        R::Verify(r) => {
            r.detail.iter_mut().for_each(damages);
            r.detail.iter().try_for_each(|found| {
                bytes(&found.damaged, OBJECTS_MAX)?;
                bytes(&found.whole, OBJECTS_MAX)
            })
        }
    }
}

fn warnings(warnings: &mut Vec<v1::Warning>, counted: &mut u64) {
    *counted = (*counted).max(warnings.len() as u64);
    count([counted]);
    warnings.truncate(WARNINGS_KEPT);
    for warning in warnings {
        text(&mut warning.node);
        text(&mut warning.message);
        warning.path.truncate(PATH_MAX);
    }
}

fn damages(found: &mut v1::VerifyDetail) {
    found.damage_count = found.damage_count.max(found.damages.len() as u64);
    count([&mut found.packs_checked, &mut found.backups_checked, &mut found.damage_count]);
    found.damages.truncate(DAMAGES_KEPT);
    for damage in &mut found.damages {
        text(&mut damage.object);
        text(&mut damage.what);
        damage.backups.truncate(WARNINGS_KEPT);
        damage.backups.iter_mut().for_each(text);
    }
}

fn name(name: &str) -> Result<()> {
    bytes(name.as_bytes(), NAME_MAX)
}

fn bytes(bytes: &[u8], most: usize) -> Result<()> {
    if bytes.len() > most {
        return Err(Error::invalid(format!("{} bytes where {most} are the most", bytes.len())));
    }
    Ok(())
}

fn text(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
}

fn count<const N: usize>(counts: [&mut u64; N]) {
    for count in counts {
        *count = (*count).min(COUNT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::ErrorKind;

    use super::*;

    fn said(report: v1::TaskReport) -> (Result<()>, v1::TaskReport) {
        let mut said = v1::AgentMessage { message: Some(agent_message::Message::Report(report)) };
        let result = message(&mut said);
        let Some(agent_message::Message::Report(report)) = said.message else { panic!() };
        (result, report)
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_no_name_is_refused() {
        let warning = v1::Warning {
            path: vec![b'x'; 1 << 20].into(),
            message: "ü".repeat(1 << 20),
            ..Default::default()
        };
        let upload = v1::UploadResult { warnings: vec![warning; 200], warning_count: 3, borrowed: u64::MAX };
        let report = v1::TaskReport {
            operation: "o".repeat(NAME_MAX),
            progress: Some(v1::Progress { bytes_done: u64::MAX, ..Default::default() }),
            failure: Some(v1::Failure { message: "m".repeat(1 << 20), ..Default::default() }),
            result: Some(v1::TaskResult { result: Some(task_result::Result::Upload(upload)) }),
            ..Default::default()
        };
        let (result, cut) = said(report.clone());
        result.unwrap();
        assert!(prost::Message::encoded_len(&cut) < 1 << 20);
        assert_eq!(cut.progress.unwrap().bytes_done, COUNT_MAX);
        let Some(task_result::Result::Upload(upload)) = cut.result.unwrap().result else { panic!() };
        assert_eq!((upload.warnings.len(), upload.warning_count), (WARNINGS_KEPT, 200), "all are counted");

        let failure = report.failure.clone();
        let beat = v1::Heartbeat { log_failure: failure, ..Default::default() };
        let mut said_so = v1::AgentMessage { message: Some(agent_message::Message::Heartbeat(beat)) };
        message(&mut said_so).unwrap();
        assert!(prost::Message::encoded_len(&said_so) < 4 << 10);

        let (result, _) = said(v1::TaskReport { task: "t".repeat(NAME_MAX + 1), ..report.clone() });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
        let mut many =
            v1::Hello { tasks: vec![v1::TaskReport::default(); TASKS_MAX + 1], ..Default::default() };
        assert_eq!(hello(&mut many).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
