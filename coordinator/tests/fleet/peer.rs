//! An agent's part of the protocol, with data made up from numbers. It keeps what an agent keeps on disk across
//! sessions, and can be told to hold a task, to fail it, or to be cut off.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{
    self, TaskState, agent_message, claim_request, coordinator_message as told, task, task_result,
};
use palinurus_proto::{failure, from_status};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta, Piece};
use palinurus_repository::manifest::{ManifestReader, ManifestRef, ManifestWriter};
use palinurus_repository::pack::{ChunkAt, PackSummary, PackWriter};
use palinurus_repository::{
    ChunkId, Entropy, Error, ErrorKind, KeyFile, Repository, Result, SystemEntropy, Timestamp, TransactionId,
    WriterId, storage,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 64 << 10;

pub(crate) struct PeerConfig {
    pub(crate) service: String,
    pub(crate) node: String,
    pub(crate) instance: String,
    pub(crate) engine: String,
    pub(crate) epoch: u64,
    pub(crate) data_empty: bool,
    /// What its clock says; 0: nothing.
    pub(crate) now_ms: u64,
    /// Each file's chunks, by the number their bytes are made from.
    pub(crate) files: Vec<(String, Vec<u64>)>,
    pub(crate) key: Arc<KeyFile>,
}

pub(crate) struct Peer {
    inner: Arc<Inner>,
    _running: AbortOnDropHandle<()>,
}

struct Inner {
    config: PeerConfig,
    kept: Mutex<Kept>,
    /// Bumped at each change of what a test may wait for.
    changed: watch::Sender<u64>,
    held: watch::Sender<BTreeSet<&'static str>>,
    cut: watch::Sender<bool>,
    /// Of the session that lives now.
    out: Mutex<Option<Out>>,
    /// Of the coordinator that welcomed it last.
    at: Mutex<String>,
}

/// What an agent has on disk.
#[derive(Default)]
struct Kept {
    epoch: u64,
    /// The last attempt of each.
    running: BTreeMap<(String, String), (u32, CancellationToken)>,
    ended: BTreeMap<(String, String), v1::TaskReport>,
    fails: BTreeSet<&'static str>,
    fails_once: BTreeSet<&'static str>,
    /// What its drills find.
    finds: BTreeSet<String>,
    /// How often each task began.
    began: BTreeMap<String, u32>,
    /// Operations that something was borrowed for.
    holds: BTreeSet<String>,
    packs: Vec<PackSummary>,
    places: BTreeMap<ChunkId, ChunkAt>,
    welcomes: u64,
    away: bool,
    refused: Option<v1::Failure>,
    stood_down: bool,
    node_epoch: u64,
    data_empty: bool,
    recovered: String,
    restored: Option<(u64, u64)>,
    uploads: Vec<v1::UploadTask>,
    asked: Vec<u8>,
    log: Option<v1::LogSpan>,
}

impl Peer {
    /// Tries the addresses in turn, as an agent does.
    pub(crate) fn start(config: PeerConfig, addresses: watch::Receiver<Vec<String>>) -> Self {
        let kept = Kept { epoch: config.epoch, data_empty: config.data_empty, ..Kept::default() };
        let inner = Arc::new(Inner {
            config,
            kept: Mutex::new(kept),
            changed: watch::Sender::default(),
            held: watch::Sender::default(),
            cut: watch::Sender::new(false),
            out: Mutex::new(None),
            at: Mutex::default(),
        });
        let running = AbortOnDropHandle::new(tokio::spawn(inner.clone().run(addresses)));
        Self { inner, _running: running }
    }

    /// From now on a task of that name waits before it does anything.
    pub(crate) fn hold(&self, name: &'static str) {
        self.inner.held.send_modify(|held| {
            held.insert(name);
        });
    }

    pub(crate) fn let_go(&self) {
        self.inner.held.send_modify(BTreeSet::clear);
    }

    pub(crate) fn let_go_of(&self, name: &'static str) {
        self.inner.held.send_modify(|held| {
            held.remove(name);
        });
    }

    pub(crate) fn fail(&self, name: &'static str) {
        self.inner.kept().fails.insert(name);
    }

    /// The next one of that name, and none after it.
    pub(crate) fn fail_once(&self, name: &'static str) {
        self.inner.kept().fails_once.insert(name);
    }

    pub(crate) fn find(&self, what: &str) {
        self.inner.kept().finds.insert(what.to_owned());
    }

    pub(crate) fn mend(&self) {
        self.inner.kept().fails.clear();
    }

    /// Ends the session and stays away until joined again.
    pub(crate) async fn cut(&self) {
        self.inner.cut.send_replace(true);
        self.until(|kept| kept.away).await;
    }

    pub(crate) fn join(&self) {
        self.inner.cut.send_replace(false);
    }

    /// The machine is gone, with all that ran there; what is on its disk comes back when it is joined.
    pub(crate) async fn die(&self) {
        self.cut().await;
        self.inner.kept().running.values().for_each(|(_, stop)| stop.cancel());
        self.until(|kept| kept.running.is_empty()).await;
    }

    /// Its backups say from now on where a recovery begins.
    pub(crate) fn writes_log(&self, span: v1::LogSpan) {
        self.inner.kept().log = Some(span);
    }

    pub(crate) async fn asked(&self) {
        self.until(|kept| !kept.asked.is_empty()).await;
    }

    pub(crate) async fn connected(&self) {
        self.until(|kept| kept.welcomes > 0).await;
    }

    /// It has heard of that leader.
    pub(crate) async fn obeys(&self, epoch: u64) {
        self.until(|kept| kept.epoch >= epoch).await;
    }

    pub(crate) async fn refused(&self) -> Error {
        self.until(|kept| kept.refused.is_some()).await;
        palinurus_proto::from_failure(self.inner.kept().refused.as_ref().unwrap())
    }

    /// Refused, and for good.
    pub(crate) async fn stood_down(&self) -> Error {
        self.until(|kept| kept.stood_down && kept.refused.is_some()).await;
        palinurus_proto::from_failure(self.inner.kept().refused.as_ref().unwrap())
    }

    pub(crate) fn node_epoch(&self) -> u64 {
        self.inner.kept().node_epoch
    }

    /// Its directory holds something from now on, or nothing.
    /// What that operation restored has come to the end of its log.
    pub(crate) fn recovers(&self, operation: &str) {
        operation.clone_into(&mut self.inner.kept().recovered);
    }

    pub(crate) fn set_empty(&self, data_empty: bool) {
        self.inner.kept().data_empty = data_empty;
    }

    pub(crate) async fn released(&self, operation: &str) {
        self.until(|kept| !kept.holds.contains(operation)).await;
    }

    /// It has ended, and the coordinator has said that it knows.
    pub(crate) async fn acknowledged(&self, operation: &str, task: &str) {
        let key = (operation.to_owned(), task.to_owned());
        self.until(|kept| {
            kept.began.contains_key(task)
                && !kept.running.contains_key(&key)
                && !kept.ended.contains_key(&key)
        })
        .await;
    }

    pub(crate) fn began(&self, name: &str) -> u32 {
        self.inner.kept().began.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.inner.kept().epoch
    }

    pub(crate) fn restored(&self) -> Option<(u64, u64)> {
        self.inner.kept().restored
    }

    pub(crate) fn uploads(&self) -> Vec<v1::UploadTask> {
        self.inner.kept().uploads.clone()
    }

    /// The verdicts that uploads were given.
    pub(crate) fn verdicts(&self) -> Vec<u8> {
        std::mem::take(&mut self.inner.kept().asked)
    }

    async fn until(&self, wanted: impl Fn(&Kept) -> bool) {
        self.inner.until(wanted).await;
    }
}

type Out = mpsc::Sender<v1::AgentMessage>;

impl Inner {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    async fn until(&self, wanted: impl Fn(&Kept) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                if wanted(&self.kept()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap();
    }

    async fn run(self: Arc<Self>, mut addresses: watch::Receiver<Vec<String>>) {
        let mut cut = self.cut.subscribe();
        let mut leader = None;
        let mut turn = 0;
        loop {
            self.kept().away = *cut.borrow_and_update();
            self.change();
            cut.wait_for(|cut| !cut).await.unwrap();
            self.kept().away = false;
            let all = addresses.borrow_and_update().clone();
            let to = leader.take().unwrap_or_else(|| all[turn % all.len()].clone());
            let ended = tokio::select! {
                biased;
                _ = cut.wait_for(|cut| *cut) => Ok(None),
                ended = self.clone().session(to) => ended,
            };
            turn += 1;
            *self.out.lock().unwrap() = None;
            match ended {
                Ok(named) => leader = named,
                Err(e) => tracing::debug!(node = self.config.node, error = e.chain(), "session ended"),
            }
            // Any other refusal may be over soon.
            if self.kept().stood_down {
                return;
            }
            // As an agent does, though it waits longer.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The leader's address, when it is told of one.
    async fn session(self: Arc<Self>, address: String) -> Result<Option<String>> {
        let channel = connect(address.clone()).await?;
        let (out, outgoing) = mpsc::channel(64);
        // What ends from here on is reported on this session, what ended before is in the Hello.
        {
            let mut current = self.out.lock().unwrap();
            out.try_send(say(agent_message::Message::Hello(self.hello()))).unwrap();
            *current = Some(out.clone());
        }
        let mut client = FleetClient::new(channel);
        let mut told = client.session(ReceiverStream::new(outgoing)).await.map_err(from_status)?.into_inner();
        let beat = tokio::spawn({
            let (out, inner) = (out.clone(), self.clone());
            async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let (data_empty, recovered) = {
                        let kept = inner.kept();
                        (kept.data_empty, kept.recovered.clone())
                    };
                    let beat = v1::Heartbeat { data_empty, recovered, ..Default::default() };
                    let beat = agent_message::Message::Heartbeat(beat);
                    if out.send(say(beat)).await.is_err() {
                        return;
                    }
                }
            }
        });
        let _beat = AbortOnDropHandle::new(beat);
        while let Some(message) = told.message().await.map_err(from_status)? {
            let refused = matches!(message.message, Some(told::Message::Refused(_)));
            if !refused {
                let mut kept = self.kept();
                assert!(message.epoch >= kept.epoch, "a message of an older epoch");
                kept.epoch = message.epoch;
            }
            match message.message {
                Some(told::Message::Welcome(welcome)) => {
                    self.at.lock().unwrap().clone_from(&address);
                    let mut kept = self.kept();
                    assert!(welcome.node_epoch >= kept.node_epoch, "a node epoch that falls");
                    kept.welcomes += 1;
                    kept.refused = None;
                    kept.node_epoch = welcome.node_epoch;
                }
                Some(told::Message::Refused(refused)) if !refused.leader.is_empty() => {
                    return Ok(Some(format!("http://{}", refused.leader)));
                }
                Some(told::Message::Refused(refused)) => {
                    tracing::debug!(node = self.config.node, ?refused, "peer refused");
                    self.kept().stood_down = refused.stand_down;
                    self.kept().refused = refused.failure;
                    self.change();
                    return Ok(None);
                }
                Some(told::Message::Task(task)) => self.task(task, &out).await,
                Some(told::Message::Cancel(cancel)) => {
                    if let Some((attempt, stop)) = self.kept().running.get(&(cancel.operation, cancel.task)) {
                        assert_eq!(*attempt, cancel.attempt);
                        stop.cancel();
                    }
                }
                Some(told::Message::Acknowledge(known)) => {
                    let key = (known.operation, known.task);
                    let mut kept = self.kept();
                    if kept.ended.get(&key).is_some_and(|ended| ended.attempt == known.attempt) {
                        kept.ended.remove(&key);
                    }
                }
                None => {}
            }
            self.change();
        }
        Ok(None)
    }

    fn hello(&self) -> v1::Hello {
        let kept = self.kept();
        let running = kept.running.iter().map(|((operation, task), (attempt, _))| {
            report(operation, task, *attempt, TaskState::TaskRunning)
        });
        v1::Hello {
            service: self.config.service.clone(),
            node: self.config.node.clone(),
            instance: self.config.instance.clone(),
            version: "test".to_owned(),
            engine: self.config.engine.clone(),
            epoch: kept.epoch,
            data_empty: kept.data_empty,
            node_epoch: kept.node_epoch,
            tasks: running.chain(kept.ended.values().cloned()).collect(),
            protocol: palinurus_proto::PROTOCOL,
            now_ms: self.config.now_ms,
            ..Default::default()
        }
    }

    async fn task(self: &Arc<Self>, task: v1::Task, out: &Out) {
        let key = (task.operation.clone(), task.task.clone());
        let again = {
            let kept = self.kept();
            let running = kept.running.get(&key);
            let running =
                running.map(|(attempt, _)| report(&key.0, &key.1, *attempt, TaskState::TaskRunning));
            kept.ended.get(&key).filter(|ended| ended.attempt >= task.attempt).cloned().or(running)
        };
        if let Some(again) = again {
            let _ = out.send(say(agent_message::Message::Report(again))).await;
            return;
        }
        let stop = CancellationToken::new();
        {
            let mut kept = self.kept();
            kept.running.insert(key.clone(), (task.attempt, stop.clone()));
            *kept.began.entry(task.task.clone()).or_default() += 1;
            if task.task != "release" {
                kept.holds.insert(task.operation.clone());
            }
        }
        let inner = self.clone();
        let _ = out
            .send(say(agent_message::Message::Report(report(
                &key.0,
                &key.1,
                task.attempt,
                TaskState::TaskRunning,
            ))))
            .await;
        // On and on like an agent's task, whatever becomes of the session.
        tokio::spawn(async move {
            let name = task.task.clone();
            let work = async {
                let mut held = inner.held.subscribe();
                held.wait_for(|held| !held.contains(name.as_str())).await.unwrap();
                let fails = {
                    let mut kept = inner.kept();
                    kept.fails_once.remove(name.as_str()) || kept.fails.contains(name.as_str())
                };
                if fails {
                    return Err(Error::unavailable("disk on fire").with_hint("put it out"));
                }
                // What is stored is known, so beginning again after a lost connection repeats nothing.
                loop {
                    match inner.work(&task).await {
                        Err(e) if e.kind() == ErrorKind::Unavailable => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        done => return done,
                    }
                }
            };
            let mut ended = report(&key.0, &key.1, task.attempt, TaskState::TaskDone);
            tokio::select! {
                biased;
                () = stop.cancelled() => ended.set_state(TaskState::TaskCancelled),
                done = work => match done {
                    Ok(result) => ended.result = Some(v1::TaskResult { result }),
                    Err(e) => {
                        ended.set_state(TaskState::TaskFailed);
                        ended.failure = Some(failure(&e));
                    }
                },
            }
            {
                let current = inner.out.lock().unwrap();
                {
                    let mut kept = inner.kept();
                    kept.running.remove(&key);
                    kept.ended.insert(key, ended.clone());
                }
                if let Some(out) = &*current {
                    let _ = out.try_send(say(agent_message::Message::Report(ended)));
                }
            }
            inner.change();
        });
    }

    async fn work(self: &Arc<Self>, task: &v1::Task) -> Result<Option<task_result::Result>> {
        let repository =
            Repository::open(storage::open(&task.repository)?, &[(*self.config.key).clone()]).await?;
        match task.work.as_ref().unwrap() {
            task::Work::Inspect(_) => Ok(Some(task_result::Result::Inspect(v1::InspectResult::default()))),
            task::Work::Freeze(_) | task::Work::Thaw(_) => Ok(None),
            task::Work::Snapshot(_) => Ok(Some(task_result::Result::Snapshot(self.snapshot()))),
            task::Work::Upload(upload) => {
                self.kept().uploads.push(upload.clone());
                self.upload(task, &upload.transaction, &repository).await
            }
            task::Work::Manifest(manifest) => self.manifest(task, manifest, &repository).await,
            task::Work::Release(_) => {
                // As an agent's: it stops the rest first.
                let rest = |key: &(String, String)| key.0 == task.operation && key.1 != "release";
                let running = self.kept().running.clone().into_iter().filter(|(key, _)| rest(key));
                running.for_each(|(_, (_, stop))| stop.cancel());
                self.until(|kept| !kept.running.keys().any(rest)).await;
                let mut kept = self.kept();
                kept.holds.remove(&task.operation);
                kept.packs.clear();
                kept.places.clear();
                Ok(None)
            }
            task::Work::Restore(restore) => self.restore(restore, &repository).await,
            task::Work::Probe(_) => Ok(Some(task_result::Result::Probe(v1::ProbeResult {
                told: "all is well".to_owned(),
                ..Default::default()
            }))),
            task::Work::Drill(_) => {
                let findings: Vec<String> = self.kept().finds.iter().cloned().collect();
                Ok(Some(task_result::Result::Drill(v1::DrillResult {
                    rto_ms: 1500,
                    finding_count: findings.len() as u64,
                    findings,
                    checks: vec![v1::DrillCheck { name: "compare".to_owned(), ..Default::default() }],
                    ..Default::default()
                })))
            }
            task::Work::Verify(_) => Ok(Some(task_result::Result::Verify(v1::VerifyResult {
                detail: Some(v1::VerifyDetail { read_data: true, packs_checked: 3, ..Default::default() }),
            }))),
        }
    }

    fn snapshot(&self) -> v1::SnapshotResult {
        let mut files = self.config.files.clone();
        files.sort_by_key(|(_, chunks)| std::cmp::Reverse(chunks.len()));
        v1::SnapshotResult {
            files: files.len() as u64,
            bytes: files.iter().map(|(_, chunks)| (chunks.len() * CHUNK) as u64).sum(),
            largest: files.into_iter().map(|(name, _)| name.into_bytes().into()).collect(),
            ..Default::default()
        }
    }

    fn chunks(&self, repository: &Repository) -> BTreeMap<ChunkId, Vec<u8>> {
        let all = self.config.files.iter().flat_map(|(_, chunks)| chunks);
        all.map(|n| bytes_of(*n)).map(|bytes| (repository.keys().chunk_id(&bytes), bytes)).collect()
    }

    async fn upload(
        &self,
        task: &v1::Task,
        transaction: &[u8],
        repository: &Repository,
    ) -> Result<Option<task_result::Result>> {
        let chunks = self.chunks(repository);
        let mut claims = Claims::open(self, task, transaction).await?;
        // Asked again, it has no more to do than what it left to others.
        let ids: Vec<ChunkId> =
            chunks.keys().filter(|id| !self.kept().places.contains_key(id)).copied().collect();
        let answers = claims.ask(&ids, false).await?;
        self.kept().asked.extend(answers.iter().map(|(verdict, _)| *verdict));
        self.change();
        let mut mine = Vec::new();
        let mut borrowed = 0;
        for (id, (verdict, place)) in ids.iter().zip(answers) {
            match (verdict, place) {
                (1, _) => mine.push((*id, chunks[id].clone())),
                (2, _) => borrowed += 1,
                (_, place) => drop(self.kept().places.insert(*id, place.unwrap())),
            }
        }
        self.store(task, transaction, repository, mine, &mut claims).await?;
        Ok(Some(task_result::Result::Upload(v1::UploadResult { borrowed, ..Default::default() })))
    }

    /// Packs, puts, tells, and waits until it has been heard.
    async fn store(
        &self,
        _: &v1::Task,
        transaction: &[u8],
        repository: &Repository,
        mine: Vec<(ChunkId, Vec<u8>)>,
        claims: &mut Claims,
    ) -> Result<()> {
        if !mine.is_empty() {
            let mut held = self.held.subscribe();
            held.wait_for(|held| !held.contains("store")).await.unwrap();
            let writer = WriterId(draw()?);
            let key = repository.keys().transaction(TransactionId::from_slice(transaction)?)?;
            let mut pack = PackWriter::new(repository.keys(), &key, writer, 0, 1, Vec::new())?;
            for (id, bytes) in mine {
                pack.append(&bytes, vec![(id, bytes.len() as u32)])?;
            }
            let sealed = pack.finish()?;
            let object = bytes::Bytes::copy_from_slice(&sealed.buffer[..sealed.len]);
            repository.storage().put_new(&sealed.summary.pack.key(), object).await?;
            {
                let mut kept = self.kept();
                kept.places.extend(sealed.summary.chunks());
                kept.packs.push(sealed.summary.clone());
            }
            claims.stored(&sealed.summary).await;
        }
        claims.ask(&[], false).await.map(drop)
    }

    async fn manifest(
        &self,
        task: &v1::Task,
        wanted: &v1::ManifestTask,
        repository: &Repository,
    ) -> Result<Option<task_result::Result>> {
        let chunks = self.chunks(repository);
        let mut claims = Claims::open(self, task, &wanted.transaction).await?;
        let missing: Vec<ChunkId> =
            chunks.keys().filter(|id| !self.kept().places.contains_key(id)).copied().collect();
        let mut mine = Vec::new();
        for (id, (verdict, place)) in missing.iter().zip(claims.ask(&missing, true).await?) {
            match place {
                Some(place) => drop(self.kept().places.insert(*id, place)),
                None => {
                    assert_eq!(verdict, 1, "settling never waits");
                    mine.push((*id, chunks[id].clone()));
                }
            }
        }
        self.store(task, &wanted.transaction, repository, mine, &mut claims).await?;

        let transaction = TransactionId::from_slice(&wanted.transaction)?;
        let (packs, places) = {
            let kept = self.kept();
            (kept.packs.clone(), kept.places.clone())
        };
        let writer = WriterId(draw()?);
        if !packs.is_empty() {
            let (key, object) = IndexSegment::seal(repository.keys(), transaction, writer, 0, &packs)?;
            repository.storage().put_new(&key, object).await?;
        }
        let mut manifest =
            ManifestWriter::new(repository.keys(), transaction, &self.config.node, writer, Timestamp(1))?;
        for entry in self.entries(repository, &places) {
            manifest.push(&entry)?;
        }
        let finished = manifest.finish(Vec::new())?;
        let base = (!wanted.base.is_empty()).then(|| ManifestRef::decode(&wanted.base)).transpose()?;
        let unchanged = base.filter(|base| base.root == finished.reference.root);
        if unchanged.is_none() {
            for (key, part) in finished.parts {
                repository.storage().put_new(&key, part).await?;
            }
        }
        let bytes_stored = packs.iter().map(|pack| pack.size).sum();
        let summary = v1::BackupNode {
            node: self.config.node.clone(),
            files: finished.files,
            bytes: finished.bytes,
            bytes_stored,
            unchanged: unchanged.is_some(),
            ..Default::default()
        };
        let reference = unchanged.unwrap_or(finished.reference);
        Ok(Some(task_result::Result::Manifest(v1::ManifestResult {
            manifest: reference.encode().into(),
            summary: Some(summary),
            log: self.kept().log.clone(),
            ..Default::default()
        })))
    }

    fn entries(&self, repository: &Repository, places: &BTreeMap<ChunkId, ChunkAt>) -> Vec<Entry> {
        let mut entries = vec![Entry { path: b".".to_vec(), meta: Meta::default(), kind: Kind::Directory }];
        for (name, chunks) in &self.config.files {
            let ids: Vec<ChunkId> =
                chunks.iter().map(|n| repository.keys().chunk_id(&bytes_of(*n))).collect();
            let size = (ids.len() * CHUNK) as u64;
            let content = Content {
                size,
                id: repository.keys().file_id(size, ids.iter().copied()),
                pieces: ids.iter().map(|id| Piece::Data(places[id])).collect(),
                pages: None,
            };
            entries.push(Entry {
                path: name.clone().into_bytes(),
                meta: Meta::default(),
                kind: Kind::File(content),
            });
        }
        entries
    }

    /// Reads every entry, as a restore does first.
    async fn restore(
        &self,
        restore: &v1::RestoreTask,
        repository: &Repository,
    ) -> Result<Option<task_result::Result>> {
        let reference = ManifestRef::decode(&restore.manifest)?;
        let mut reader =
            ManifestReader::open(repository.storage().clone(), repository.keys(), &reference).await?;
        let (mut files, mut bytes) = (0, 0);
        while let Some(block) = reader.next_block().await? {
            for content in block.entries.iter().filter_map(Entry::content) {
                files += 1;
                bytes += content.size;
                for frame in content.pieces.iter().filter_map(Piece::frame) {
                    repository.storage().get(&frame.pack.key(), Some(frame.range())).await?;
                }
            }
        }
        {
            let mut kept = self.kept();
            assert!(restore.delta || kept.data_empty, "a restore onto data");
            kept.restored = Some((files, bytes));
            kept.data_empty = false;
        }
        Ok(Some(task_result::Result::Restore(v1::RestoreResult { files, bytes, ..Default::default() })))
    }
}

struct Claims {
    out: mpsc::Sender<v1::ClaimRequest>,
    replies: tonic::Streaming<v1::ClaimReply>,
    sequence: u64,
}

impl Claims {
    /// Until there is a coordinator that runs the operation.
    async fn open(peer: &Inner, task: &v1::Task, transaction: &[u8]) -> Result<Self> {
        loop {
            match Self::try_open(peer, task, transaction).await {
                Err(e) if e.kind() == ErrorKind::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                other => return other,
            }
        }
    }

    async fn try_open(peer: &Inner, task: &v1::Task, transaction: &[u8]) -> Result<Self> {
        let address = peer.at.lock().unwrap().clone();
        let channel = connect(address).await?;
        let (out, outgoing) = mpsc::channel(16);
        let open = v1::ClaimOpen {
            service: peer.config.service.clone(),
            node: peer.config.node.clone(),
            instance: peer.config.instance.clone(),
            operation: task.operation.clone(),
            transaction: bytes::Bytes::copy_from_slice(transaction),
            epoch: peer.kept().epoch,
        };
        out.send(v1::ClaimRequest { message: Some(claim_request::Message::Open(open)) }).await.unwrap();
        let mut client = FleetClient::new(channel);
        let replies = client.claim(ReceiverStream::new(outgoing)).await.map_err(from_status)?.into_inner();
        let mut claims = Self { out, replies, sequence: 0 };
        let packs = peer.kept().packs.clone();
        for pack in &packs {
            claims.stored(pack).await;
        }
        claims.ask(&[], false).await?;
        Ok(claims)
    }

    async fn ask(&mut self, ids: &[ChunkId], settle: bool) -> Result<Vec<(u8, Option<ChunkAt>)>> {
        self.sequence += 1;
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
        let ask = v1::ClaimAsk { sequence: self.sequence, ids: ids.into(), settle, ..Default::default() };
        let _ = self.out.send(v1::ClaimRequest { message: Some(claim_request::Message::Ask(ask)) }).await;
        let reply = self
            .replies
            .message()
            .await
            .map_err(from_status)?
            .ok_or_else(|| Error::unavailable("claims ended"))?;
        assert_eq!(reply.sequence, self.sequence);
        let mut places = reply.places.iter();
        let place = |verdict: u8| (verdict == 3).then(|| ChunkAt::decode(places.next().unwrap()).unwrap());
        Ok(reply.verdicts.iter().copied().zip(reply.verdicts.iter().copied().map(place)).collect())
    }

    async fn stored(&mut self, pack: &PackSummary) {
        let stored = v1::ClaimStored { pack: pack.encode().into() };
        let _ =
            self.out.send(v1::ClaimRequest { message: Some(claim_request::Message::Stored(stored)) }).await;
    }
}

async fn connect(address: String) -> Result<tonic::transport::Channel> {
    let unreachable = |e| Error::unavailable("connect").with_source(e);
    tonic::transport::Endpoint::new(address).map_err(unreachable)?.connect().await.map_err(unreachable)
}

fn draw() -> Result<[u8; 8]> {
    let mut bytes = [0; 8];
    SystemEntropy::new().fill(&mut bytes)?;
    Ok(bytes)
}

fn bytes_of(n: u64) -> Vec<u8> {
    n.to_le_bytes().iter().copied().cycle().take(CHUNK).collect()
}

fn say(message: agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn report(operation: &str, task: &str, attempt: u32, state: TaskState) -> v1::TaskReport {
    let mut report = v1::TaskReport {
        operation: operation.to_owned(),
        task: task.to_owned(),
        attempt,
        ..Default::default()
    };
    report.set_state(state);
    report
}
