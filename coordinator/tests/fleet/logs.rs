//! Log streams: who may write, what is shown, and what can be restored.
use std::time::Duration;

use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, log_reply, log_request, log_target};
use palinurus_proto::{from_status, logs};
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::log::{At, Lineage, Piece, RestorePoint, Trail, seal};
use palinurus_repository::{Epoch, ErrorKind, LineageId, Result, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::peer::Peer;
use crate::world::{Operator, SERVICE, World};

const SEGMENT: u32 = 4096;

fn identity(timeline: u8) -> Vec<u8> {
    [vec![1; 8], vec![timeline]].concat()
}

fn opening(node: &str, timeline: u8, position: u64) -> v1::LogOpen {
    v1::LogOpen {
        service: SERVICE.to_owned(),
        node: node.to_owned(),
        instance: format!("instance-of-{node}"),
        kind: "postgresql".to_owned(),
        identity: identity(timeline).into(),
        position,
        segment: SEGMENT,
        ..Default::default()
    }
}

/// An agent's log stream.
struct Writer {
    out: mpsc::Sender<v1::LogRequest>,
    told: Streaming<v1::LogReply>,
    lineage: Lineage,
    epoch: u32,
    until: u64,
}

impl Writer {
    async fn open(world: &World, open: v1::LogOpen) -> Result<Self> {
        let mut client = FleetClient::connect(world.address()).await.unwrap();
        let (out, outgoing) = mpsc::channel(8);
        out.send(v1::LogRequest { message: Some(log_request::Message::Open(open)) }).await.unwrap();
        let mut told = client.log(ReceiverStream::new(outgoing)).await.map_err(from_status)?.into_inner();
        let first = told.message().await.map_err(from_status)?.unwrap();
        let grant = granted(first);
        Ok(Self { out, told, lineage: grant.0, epoch: grant.1, until: grant.2 })
    }

    async fn say(&self, message: log_request::Message) {
        self.out.send(v1::LogRequest { message: Some(message) }).await.unwrap();
    }

    async fn tell(&self, stored: u64, ms: u64) {
        self.say(log_request::Message::Status(status(stored, ms))).await;
    }

    async fn next(&mut self) -> v1::LogReply {
        let next = tokio::time::timeout(Duration::from_secs(120), self.told.message()).await;
        next.unwrap().unwrap().unwrap()
    }

    async fn next_grant(&mut self) {
        let reply = self.next().await;
        (self.lineage, self.epoch, self.until) = granted(reply);
    }

    async fn put(&self, world: &World, from: u64, to: u64, commit_ms: i64, name: &str) {
        let piece = Piece { lineage: self.lineage.id, epoch: self.epoch, from, to, whole: false };
        let point = (!name.is_empty()).then(|| RestorePoint { name: name.to_owned(), position: to });
        let trail = Trail {
            first_commit: Some(commit_ms * 1000),
            last_commit: Some(commit_ms * 1000),
            points: point.into_iter().collect(),
            as_of: Timestamp(commit_ms as u64 + 100),
        };
        let store = world.repository().await.logs();
        let plain: Vec<u8> = (from..to).map(|at| at as u8).collect();
        let object = seal(store.keys(), None, &piece, &trail, &plain, 1).unwrap();
        store.put(&piece, None, object).await.unwrap();
    }
}

fn status(stored: u64, ms: u64) -> v1::LogStatus {
    v1::LogStatus {
        stored,
        received: stored,
        server_end: stored + 10,
        server_ms: ms + 50,
        stored_ms: ms,
        ..Default::default()
    }
}

fn granted(reply: v1::LogReply) -> (Lineage, u32, u64) {
    let Some(log_reply::Message::Grant(grant)) = reply.message else { panic!("no grant: {reply:?}") };
    let lineage = logs::lineage(grant.lineage.as_ref().unwrap()).unwrap();
    let epoch = lineage.last_grant().unwrap().epoch;
    assert!(grant.repository.starts_with("file://") && reply.epoch > 0);
    (lineage, epoch, grant.until)
}

fn span(writer: &Writer, start: u64, stop: u64) -> v1::LogSpan {
    v1::LogSpan { lineage: writer.lineage.id.as_bytes().to_vec().into(), start, stop, ..Default::default() }
}

impl Operator {
    async fn logs(&mut self) -> v1::Logs {
        let request = v1::ShowLogsRequest { service: SERVICE.to_owned() };
        self.0.show_logs(request).await.unwrap().into_inner()
    }

    /// Once there are so many backups, all operations ended.
    async fn until_backups(&mut self, count: usize) -> Vec<v1::Backup> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            let running = v1::ListOperationsRequest { service: SERVICE.to_owned(), running: true };
            let running = self.0.list_operations(running).await.unwrap().into_inner().operations;
            let backups = self.backups().await;
            if backups.len() >= count && running.is_empty() {
                return backups;
            }
            assert!(tokio::time::Instant::now() < deadline, "{} backups, {running:?}", backups.len());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    async fn plan(&mut self, target: log_target::Target) -> Result<v1::RestorePlan> {
        let request = v1::RestoreRequest {
            service: SERVICE.to_owned(),
            nodes: vec!["n1".to_owned()],
            delta: true,
            target: Some(v1::LogTarget { target: Some(target), lineage: String::new() }),
            ..Default::default()
        };
        self.0.plan_restore(request).await.map(tonic::Response::into_inner).map_err(from_status)
    }
}

async fn world(nodes: &[&str]) -> (World, Operator, Vec<Peer>) {
    let world = World::new().await;
    let operator = world.apply(nodes).await;
    let peers: Vec<Peer> = nodes.iter().map(|node| world.peer(node, &[("a", vec![1, 2])])).collect();
    for peer in &peers {
        peer.connected().await;
    }
    (world, operator, peers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_makes_moments_restorable_and_asks_for_the_backup_that_they_need() {
    let (world, mut operator, peers) = world(&["n1"]).await;
    peers[0].hold("manifest");
    let mut writer = Writer::open(&world, opening("n1", 1, 5_000)).await.unwrap();
    assert_eq!((writer.lineage.from, writer.epoch, writer.until), (4096, 1, 0));
    peers[0].writes_log(span(&writer, 5_100, 5_200));
    writer.put(&world, 4_096, 5_300, 10_000, "").await;
    writer.put(&world, 5_300, 6_000, 20_000, "release").await;
    peers[0].let_go();
    let backups = operator.until_backups(1).await;
    writer.tell(6_000, 20_100).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let shown = loop {
        let shown = operator.logs().await;
        if shown.writer.as_ref().is_some_and(|writer| writer.status.is_some()) {
            break shown;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let told = shown.writer.unwrap();
    assert_eq!((told.node.as_str(), told.streaming, told.lag_bytes, told.lag_ms), ("n1", true, 10, 50));
    assert_eq!(shown.lineages[0].stretches, [v1::LogStretch { from: 4_096, to: 6_000 }]);
    let window = &shown.windows[0];
    assert_eq!((window.from, window.to, window.from_ms, window.to_ms), (5_200, 6_000, 10_100, 20_100));
    assert_eq!(window.backup_id, backups[0].id);

    use log_target::Target as T;
    let plan = operator.plan(T::TimeUs(15_000_000)).await.unwrap();
    let restore = plan.logs.unwrap();
    assert_eq!((plan.backup_id.as_str(), restore.first, restore.end), (backups[0].id.as_str(), 5_200, 6_000));
    assert_eq!(restore.target.unwrap().target, Some(T::TimeUs(15_000_000)));
    assert_eq!(logs::chain(&restore.chain).unwrap().len(), 1);
    let latest = operator.plan(T::Latest(true)).await.unwrap().logs.unwrap();
    assert_eq!(latest.target.unwrap().target, Some(T::Position(6_000)));
    operator.plan(T::Name("release".to_owned())).await.unwrap();
    for outside in [T::TimeUs(9_000_000), T::TimeUs(20_200_000), T::Position(5_150), T::Position(6_001)] {
        let refused = operator.plan(outside).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert!(refused.hint().unwrap().contains("nearest window"), "{refused:?}");
    }
    assert!(
        operator.plan(T::Latest(false)).await.is_err()
            && operator.plan(T::Name(String::new())).await.is_err()
    );

    // The same process again has the same grant; another one the next.
    let held = v1::LogOpen {
        held: writer.lineage.id.as_bytes().to_vec().into(),
        held_epoch: writer.epoch,
        ..opening("n1", 1, 6_010)
    };
    let again = Writer::open(&world, held).await.unwrap();
    assert_eq!((again.lineage.id, again.epoch), (writer.lineage.id, 1));
    drop(again);
    let next = Writer::open(&world, opening("n1", 1, 6_010)).await.unwrap();
    assert_eq!(
        (next.lineage.id, next.epoch, next.lineage.last_grant().unwrap().from),
        (writer.lineage.id, 2, 6_000)
    );
    let revoked = writer.next().await;
    assert!(matches!(revoked.message, Some(log_reply::Message::Revoked(_))), "{revoked:?}");
    assert!(writer.told.message().await.unwrap().is_none(), "and the stream ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_an_earlier_leader_wanted_is_made_and_two_histories_at_once_are_not_guessed_between() {
    let (world, mut operator, peers) = world(&["n1", "n2"]).await;
    // An earlier leader made the history known, and ended.
    let repository = world.repository().await;
    let epoch = loop {
        repository.refresh().await.unwrap();
        let epoch = repository.read(|state| state.leader().0).await;
        // Before it leads there, another's record would be void when it does.
        if epoch > Epoch(0) {
            break epoch;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let new = Lineage {
        id: LineageId([0; 16]),
        parent: None,
        from: 4_096,
        kind: "postgresql".to_owned(),
        identity: identity(1),
        segment: SEGMENT,
        grants: Vec::new(),
        floor: 0,
        number: 0,
    };
    let id = repository.add_lineage(epoch, new, &SeededEntropy::new(7)).await.unwrap().id;
    let span = v1::LogSpan {
        lineage: id.as_bytes().to_vec().into(),
        start: 4_100,
        stop: 4_200,
        ..Default::default()
    };
    peers[0].writes_log(span);
    let one = Writer::open(&world, opening("n1", 1, 5_000)).await.unwrap();
    assert_eq!(one.lineage.id, id);
    operator.until_backups(1).await;
    one.put(&world, 4_096, 6_000, 1_000, "").await;
    operator.plan(log_target::Target::Latest(true)).await.unwrap();
    // The same history, set back on another node.
    let two = Writer::open(&world, opening("n2", 1, 5_500)).await.unwrap();
    let refused = operator.plan(log_target::Target::Latest(true)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    for id in [one.lineage.id, two.lineage.id] {
        assert!(refused.what().contains(&id.to_string()), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_said_and_a_new_backup_begins_behind_it() {
    let (world, mut operator, peers) = world(&["n1"]).await;
    let mut writer = Writer::open(&world, opening("n1", 1, 4_096)).await.unwrap();
    peers[0].writes_log(span(&writer, 4_100, 4_200));
    writer.put(&world, 4_096, 5_000, 1_000, "").await;
    operator.until_backups(1).await;
    let gap = Some(v1::LogGap { from: 5_000, to: 9_000 });
    writer.say(log_request::Message::Status(v1::LogStatus { gap, ..status(5_000, 1_100) })).await;
    writer.next_grant().await;
    // From the next log file on.
    assert_eq!((writer.epoch, writer.lineage.last_grant().unwrap().from), (2, 12_288));
    peers[0].writes_log(span(&writer, 12_300, 12_400));
    writer.put(&world, 12_288, 13_000, 2_000, "").await;
    operator.until_backups(2).await;
    let shown = operator.logs().await;
    assert_eq!(shown.lineages[0].stretches.len(), 2);
    assert_eq!(shown.writer.unwrap().gaps, [v1::LogGap { from: 5_000, to: 12_288 }]);
    let ends: Vec<_> = shown.windows.iter().map(|window| (window.from, window.to)).collect();
    assert!(ends.contains(&(12_400, 13_000)), "{ends:?}");
    assert!(ends.iter().all(|(_, to)| *to <= 5_000 || *to == 13_000), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_fills_its_parent_and_the_old_primary_is_out() {
    let (world, mut operator, _peers) = world(&["n1", "n2"]).await;
    let mut old = Writer::open(&world, opening("n1", 1, 4_096)).await.unwrap();
    old.put(&world, 4_096, 5_000, 1_000, "").await;
    let promoted = v1::LogOpen {
        history: vec![v1::LogFork { identity: identity(1).into(), until: 5_600 }],
        ..opening("n2", 2, 5_700)
    };
    let mut new = Writer::open(&world, promoted).await.unwrap();
    assert_eq!((new.lineage.id, new.epoch, new.until), (old.lineage.id, 2, 5_600));
    // The old primary is on the other side of a cut, and puts what nobody will read.
    old.put(&world, 5_000, 7_000, 5_000, "").await;
    let revoked = old.next().await;
    assert!(matches!(revoked.message, Some(log_reply::Message::Revoked(_))), "{revoked:?}");
    new.put(&world, 5_000, 5_600, 1_500, "").await;
    new.tell(5_600, 1_600).await;
    let parent = new.lineage.id;
    new.next_grant().await;
    assert_eq!((new.lineage.parent, new.lineage.from, new.epoch, new.until), (Some(parent), 5_600, 1, 0));
    let shown = operator.logs().await;
    let of = |id| shown.lineages.iter().find(|it| it.lineage.as_ref().unwrap().id == id).unwrap();
    assert_eq!(of(parent.as_bytes().to_vec()).stretches, [v1::LogStretch { from: 4_096, to: 5_600 }]);
    // A clone of the new primary, under the old name: what is written now is another's.
    let clone = v1::LogOpen {
        history: vec![v1::LogFork { identity: identity(1).into(), until: 5_600 }],
        ..opening("n1", 2, 5_800)
    };
    let refused = Writer::open(&world, clone).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    let other = v1::LogOpen { identity: vec![9; 9].into(), ..opening("n1", 1, 5_000) };
    assert_eq!(Writer::open(&world, other).await.err().unwrap().kind(), ErrorKind::Conflict);
    let stranger = v1::LogOpen { instance: "somebody".to_owned(), ..opening("n1", 1, 7_000) };
    assert_eq!(Writer::open(&world, stranger).await.err().unwrap().kind(), ErrorKind::Unavailable);
    let nowhere = v1::LogOpen { history: vec![v1::LogFork::default(); 151], ..opening("n1", 1, 7_000) };
    assert_eq!(Writer::open(&world, nowhere).await.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_its_place_loses_its_grant_before_anything_is_restored() {
    let world = World::new().await;
    let mut operator = world.operator().await;
    let settings = [("failover", "automatic"), ("failover_patience", "1s")];
    operator.apply(world.service_with(&["n1", "n2"], &["s1"], &settings)).await.unwrap();
    let (one, two) = (world.peer("n1", &[("a", vec![1])]), world.peer("n2", &[("b", vec![2])]));
    one.connected().await;
    two.connected().await;
    let mut old = Writer::open(&world, opening("n2", 1, 4_096)).await.unwrap();
    operator.until_backups(1).await;
    // An object is lost, and the beginning is given up: neither lets the fence throw away the rest.
    for (from, to) in [(4_096, 4_500), (4_500, 5_000), (5_100, 5_400)] {
        old.put(&world, from, to, 1_000, "").await;
    }
    let repository = world.repository().await;
    let epoch = repository.read(|state| state.leader().0).await;
    repository.raise_floor(epoch, At { lineage: old.lineage.id, position: 4_600 }).await.unwrap();
    let spare = world.peer_with("s1", &[], |config| config.data_empty = true);
    spare.hold("restore");
    spare.connected().await;
    two.cut().await;
    let begun = operator.failover(0).await;
    let revoked = old.next().await;
    assert!(matches!(revoked.message, Some(log_reply::Message::Revoked(_))), "{revoked:?}");
    assert_eq!(spare.restored(), None, "nothing is restored yet");
    // It does not know, and puts on.
    old.put(&world, 5_400, 9_000, 2_000, "").await;
    spare.let_go();
    assert_eq!(operator.finished(&begun.id).await.state(), v1::OperationState::Succeeded);
    let shown = operator.logs().await;
    let stretch = |from, to| v1::LogStretch { from, to };
    assert_eq!(shown.lineages[0].stretches, [stretch(4_500, 5_000), stretch(5_100, 5_400)]);
    let last = shown.lineages[0].lineage.as_ref().unwrap().grants.last().unwrap().clone();
    assert_eq!((last.node.as_str(), last.from, last.epoch), ("s1", 5_400, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_rises_when_the_policy_says_so_and_not_under_a_recovery() {
    let world = World::new().await;
    let settings = [("keep_last", "9"), ("logs", "1s"), ("retention_interval", "off")];
    let mut operator = world.apply_with(&["n1"], &settings).await;
    let peer = world.peer("n1", &[("a", vec![1, 2])]);
    peer.connected().await;
    peer.hold("manifest");
    let writer = Writer::open(&world, opening("n1", 1, 5_000)).await.unwrap();
    peer.writes_log(span(&writer, 5_100, 5_200));
    for (from, to) in [(4_096, 9_000), (9_000, 20_000), (20_000, 30_000)] {
        writer.put(&world, from, to, 10_000, "").await;
    }
    peer.let_go();
    let first = operator.until_backups(1).await.remove(0).id;

    // What is restored is on its way along the log, and the operation has ended.
    let target =
        Some(v1::LogTarget { target: Some(log_target::Target::Position(9_500)), ..Default::default() });
    let (backup, nodes) = (first, vec!["n1".to_owned()]);
    let request = v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup,
        nodes,
        delta: true,
        target,
        ..Default::default()
    };
    let restore = operator.0.apply_restore(request).await.unwrap().into_inner();
    let ended = operator.finished(&restore.id).await;
    assert_eq!(ended.state(), v1::OperationState::Succeeded, "{ended:#?}");
    peer.writes_log(span(&writer, 20_100, 20_200));
    let full = v1::StartBackupRequest { service: SERVICE.to_owned(), full: true };
    let full = operator.0.start_backup(full).await.unwrap().into_inner();
    assert_eq!(operator.finished(&full.id).await.state(), v1::OperationState::Succeeded);

    let request = v1::RetentionRequest { service: SERVICE.to_owned(), backups: Vec::new() };
    let mut asking = operator.clone();
    let mut retention = async || {
        let run = asking.0.apply_retention(request.clone()).await.unwrap().into_inner();
        let run = asking.finished(&run.id).await;
        assert_eq!(run.state(), v1::OperationState::Succeeded, "{run:#?}");
        let view = asking.logs().await.lineages.remove(0);
        let holds: Vec<_> = run.retention.unwrap().holds.into_iter().map(|hold| hold.operation).collect();
        (holds, view.lineage.unwrap().floor, view.stretches.last().unwrap().to)
    };
    // Up to the file that the recovery begins with, and no further.
    assert_eq!(retention().await, (vec![restore.id.clone()], 4_096, 30_000));
    peer.recovers(&restore.id);
    // Where the newest backup begins that is old enough.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let (holds, floor, to) = retention().await;
        if floor == 16_384 {
            assert_eq!((holds, to), (vec![], 30_000));
            break;
        }
        assert_eq!((floor, to), (4_096, 30_000));
        assert!(tokio::time::Instant::now() < deadline, "it never rises, and is held by {holds:?}");
    }
    let mut operator = operator.clone();
    let gone = v1::LogTarget { target: Some(log_target::Target::Position(9_500)), ..Default::default() };
    let request = v1::RestoreRequest {
        service: SERVICE.to_owned(),
        nodes: vec!["n1".to_owned()],
        delta: true,
        target: Some(gone),
        ..Default::default()
    };
    assert!(operator.0.plan_restore(request).await.is_err(), "and what lies before is not offered any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_without_a_target_knows_every_history() {
    let (world, mut operator, peers) = world(&["n1"]).await;
    peers[0].hold("manifest");
    let writer = Writer::open(&world, opening("n1", 1, 5_000)).await.unwrap();
    peers[0].writes_log(span(&writer, 5_100, 5_200));
    writer.put(&world, 4_096, 6_000, 10_000, "").await;
    peers[0].let_go();
    operator.until_backups(1).await;
    let request = v1::RestoreRequest {
        service: SERVICE.to_owned(),
        backup: "latest".to_owned(),
        nodes: vec!["n1".to_owned()],
        delta: true,
        ..Default::default()
    };
    let restore = operator.0.plan_restore(request).await.unwrap().into_inner().logs.unwrap();
    assert_eq!(restore.target.as_ref().unwrap().target, Some(log_target::Target::Immediate(true)));
    let ids: Vec<_> = restore.known.iter().map(|lineage| lineage.id.to_vec()).collect();
    assert_eq!(ids, [writer.lineage.id.as_bytes().to_vec()]);
    assert_eq!((restore.first, restore.end, restore.chain.len()), (5_200, 5_200, 1));
    assert!(restore.known[0].grants.is_empty(), "names are enough");
}
