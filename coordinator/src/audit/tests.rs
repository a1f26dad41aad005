use palinurus_proto::v1;
use palinurus_repository::clock::ManualClock;
use palinurus_repository::{ErrorKind, Timestamp};
use prost::Message;

use super::*;

const DELETE: &str = "/palinurus.v1.Coordinator/DeleteBackup";

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

async fn open(path: &Path) -> Audit {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    Audit::open(path, "c", clock, Blocking::Inline).await.unwrap()
}

fn call() -> Call {
    let caller =
        Caller::Token { name: "ada".into(), role: palinurus_identity::Role::Admin, services: Vec::new() };
    let mut call = Call::new(&caller, Some("10.0.0.9:1".parse().unwrap()), DELETE);
    let request = v1::DeleteBackupRequest { service: "shop".into(), backup: "latest".into() };
    call.request = described(DELETE, &framed(&request));
    call
}

fn lines(path: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    read(path, |line| lines.push(line)).unwrap();
    lines
}

#[tokio::test]
async fn who_asked_for_what_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = open(&path).await;
    let asked = audit.asked(call()).await.unwrap();
    audit.refused(call(), &Error::denied("no")).await;
    audit.answered(asked, None, "op1".to_owned()).await;
    drop(audit);
    let audit = open(&path).await;
    audit.asked(call()).await.unwrap();

    let lines = lines(&path);
    let events: Vec<_> = lines.iter().map(|line| (line.event.as_str(), line.call)).collect();
    assert_eq!(
        events,
        [("opened", 0), ("asked", 1), ("refused", 2), ("answered", 1), ("opened", 2), ("asked", 3)]
    );
    let first = &lines[1];
    assert_eq!((first.who.as_str(), first.role.as_str(), first.by.as_str()), ("ada", "admin", "token"));
    assert_eq!((first.from.as_str(), first.rpc.as_str()), ("10.0.0.9:1", "DeleteBackup"));
    assert_eq!(first.request, serde_json::json!({ "service": "shop", "backup": "latest" }));
    assert_eq!(first.time, "1970-01-01T00:00:01.000Z");
    assert_eq!((lines[2].outcome.as_str(), lines[3].operation.as_str()), ("denied: no", "op1"));
}

#[tokio::test]
async fn whatever_is_changed_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let audit = open(&path).await;
    for _ in 0..5 {
        audit.asked(call()).await.unwrap();
    }
    let whole = std::fs::read_to_string(&path).unwrap();
    let verified = read(&path, |_| {}).unwrap();
    assert_eq!((verified.lines, verified.torn), (6, 0));
    let all: Vec<&str> = whole.lines().collect();
    let renamed = whole.replacen("\"ada\"", "\"bob\"", 1);
    let without = [&all[..2], &all[3..]].concat().join("\n");
    let swapped = [all[0], all[2], all[1], all[3]].join("\n");
    let twice = [all[0], all[1], all[1]].join("\n");
    let headless = all[1..].join("\n");
    for bad in [renamed, without, swapped, twice, headless] {
        std::fs::write(&path, bad).unwrap();
        assert_eq!(read(&path, |_| {}).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    // The end alone can go unseen, but for whoever noted the head.
    std::fs::write(&path, all[..4].join("\n")).unwrap();
    assert_ne!(read(&path, |_| {}).unwrap().head, verified.head);
}

#[tokio::test]
async fn a_line_that_a_crash_tore_is_left_and_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    open(&path).await.asked(call()).await.unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"time\":\"19")).unwrap();
    open(&path).await.asked(call()).await.unwrap();
    let verified = read(&path, |_| {}).unwrap();
    assert_eq!((verified.lines, verified.torn), (4, 1));
    std::fs::write(&path, "something else\n").unwrap();
    let error =
        Audit::open(&path, "c", Arc::new(ManualClock::default()), Blocking::Inline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn what_is_asked_is_told_without_secrets_and_without_end() {
    let service = v1::Service {
        name: "s".into(),
        repository: "s3://key:secret@bucket/prefix?token=secret".into(),
        nodes: vec![v1::NodeSpec { name: "n".into(), spare: true, ..Default::default() }; 100],
        settings: [("failover".to_owned(), "x".repeat(10_000))].into(),
        ..Default::default()
    };
    let request = v1::ApplyServiceRequest { service: Some(service), ..Default::default() };
    let told = described("/palinurus.v1.Coordinator/ApplyService", &framed(&request));
    assert_eq!(told["service"]["repository"], "s3://bucket/prefix");
    assert_eq!(told["service"]["nodes"][0], serde_json::json!({ "name": "n", "spare": true }));
    let text = told.to_string();
    assert!(!text.contains("secret") && text.len() < LINE_MAX, "{text}");
    for bad in [&b""[..], b"\0\0\0\0\x02\xff", b"\0\0\0\0\x02\x0a\xff", b"\x01\0\0\0\0"] {
        assert!(!described(DELETE, bad).is_object() || bad.is_empty(), "{bad:?}");
    }
    let started = v1::Operation { id: "op".into(), ..Default::default() };
    assert_eq!(operation(DELETE, &framed(&started)), "op");
    assert_eq!(operation("/palinurus.v1.Coordinator/ApplyService", &framed(&started)), "");
}
