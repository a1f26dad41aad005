//! Restores a node's part of a backup beside the data, and has it proved. What says something about the backup is a
//! finding; a task fails only when it cannot tell.
use std::path::Path;
use std::sync::Arc;

use palinurus_proto::v1::{DrillCheck, DrillResult, DrillTask};
use palinurus_repository::manifest::{ManifestReader, ManifestRef};
use palinurus_repository::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::Call;
use crate::drill::{Scratch, guard_words};
use crate::engine::{Check, Proof, ProofOrder};
use crate::log::{self, Recovery};
use crate::repositories::Unlocked;
use crate::restore::{Request, compare};

/// Kept of the findings; all are counted.
const FINDINGS_TOLD: usize = 50;

pub(super) async fn run(call: &Call, order: &DrillTask) -> Result<DrillResult> {
    let host = &call.host;
    let scratch = Scratch::of(&host.config);
    scratch.check(&*host.engine)?;
    let proved = tokio::select! {
        biased;
        () = call.cancel.cancelled() => Err(Error::unavailable("the drill was cancelled")),
        proved = prove(call, order, &scratch) => proved,
    };
    // Whatever came of it. What cannot be removed now is by the release, or by the next agent.
    let removed = scratch.remove(call.operation(), &*host.engine).await;
    let result = proved?;
    removed.map(|()| result)
}

async fn prove(call: &Call, order: &DrillTask, scratch: &Scratch) -> Result<DrillResult> {
    let host = &call.host;
    let manifest = ManifestRef::decode(&order.manifest)?;
    let unlocked = call.unlock().await?;
    unlocked.keys.learn(&*unlocked.storage, &palinurus_proto::sealed(&call.task.key_epochs)?).await?;
    let mut drill = Drill { result: DrillResult::default(), began: Instant::now() };
    let opened = ManifestReader::open(unlocked.storage.clone(), &unlocked.keys, &manifest).await;
    let Some(reader) = drill.found(opened)? else { return Ok(drill.result) };
    (drill.result.files, drill.result.bytes) = (reader.footer().files, reader.footer().bytes);
    let recovery = Recovery::of(&call.task, order.logs.as_ref());
    let plan = recovery.plan()?;
    let logged = host.engine.logs().filter(|logs| order.logs.is_some() || logs.is_stored());
    if order.logs.is_some() && logged.is_none() {
        return Err(Error::invalid(format!("the {} engine has no log to recover along", host.engine.name()))
            .with_hint("drill without --to"));
    }
    let (scratch, operation) = (scratch.clone(), call.operation().to_owned());
    let room = reader.footer().bytes.saturating_add(plan.end.saturating_sub(plan.first));
    let place = host.seams.blocking.run(move || scratch.create(&operation, room)).await?;
    let data = place.join("data");
    let Unlocked { storage, keys, .. } = unlocked;
    let request = Request {
        storage,
        keys: keys.clone(),
        manifest,
        target: data.clone(),
        delta: false,
        include: Vec::new(),
        workers: host.config.limits.workers(),
        progress: Arc::clone(&call.counters),
        pace: Arc::clone(&call.host.pace),
        settle: None,
    };
    let restored = host.seams.mover.restore(request, call.cancel.child_token()).await;
    if drill.found(restored)?.is_none() {
        return Ok(drill.result);
    }
    drill.result.restored_ms = millis(drill.began);
    drill.check("restore", drill.began, format!("{} files", drill.result.files));
    let files = match logged {
        Some(logs) => Some(log::Beside::open(host, logs, &place, &data, &recovery)?),
        None => None,
    };
    let given = files.as_ref().map(|files| (plan.clone(), files.command().to_vec()));
    let order = ProofOrder {
        data: data.clone(),
        place: place.clone(),
        settings: host.config.drill.clone(),
        recovery: given,
        guard: guard_words(&host.seams.program),
        began: drill.began,
    };
    let proving = host.engine.prove(order);
    let proof = match &files {
        Some(files) => tokio::select! {
            biased;
            proof = proving => files.blame(proof),
            never = files.serve() => match never {},
        },
        None => proving.await,
    };
    match drill.found(proof)? {
        None => {}
        Some(Some(proof)) => drill.proved(proof),
        Some(None) => {
            drill.result.rto_ms = millis(drill.began);
            compared(call, &mut drill, reader, keys, &data).await?;
        }
    }
    Ok(drill.result)
}

/// An engine without a proof of its own: every byte is read again and held against the manifest.
async fn compared(
    call: &Call,
    drill: &mut Drill,
    reader: ManifestReader,
    keys: palinurus_repository::Keys,
    data: &Path,
) -> Result<()> {
    let began = Instant::now();
    let blocking = call.host.seams.blocking;
    let compared = compare(reader, keys, data, blocking, &call.counters, &call.cancel).await;
    let Some(compared) = drill.found(compared)? else { return Ok(()) };
    drill.check("compare", began, format!("{} files, {} bytes", compared.files, compared.bytes));
    drill.result.finding_count += compared.different_count;
    drill.result.findings.extend(compared.different.into_iter().take(FINDINGS_TOLD));
    Ok(())
}

struct Drill {
    result: DrillResult,
    began: Instant,
}

impl Drill {
    /// What cannot be trusted or is not there is found; with it the proof is at its end.
    fn found<T>(&mut self, tried: Result<T>) -> Result<Option<T>> {
        match tried {
            Ok(done) => Ok(Some(done)),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                self.result.findings.push(e.chain());
                self.result.finding_count += 1;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn check(&mut self, name: &str, began: Instant, told: String) {
        let took_ms = millis(began);
        self.result.checks.push(DrillCheck { name: name.to_owned(), took_ms, told, skipped: false });
    }

    fn proved(&mut self, proof: Proof) {
        let result = &mut self.result;
        result.rto_ms = proof.rto.as_millis() as u64;
        (result.recovered_ms, result.position, result.reached) =
            (proof.recovered_ms, proof.position, proof.reached);
        for Check { name, took, told, skipped, findings } in proof.checks {
            result.finding_count += findings.len() as u64;
            let room = FINDINGS_TOLD.saturating_sub(result.findings.len());
            result.findings.extend(findings.into_iter().take(room).map(|text| format!("{name}: {text}")));
            result.checks.push(DrillCheck { name, took_ms: took.as_millis() as u64, told, skipped });
        }
    }
}

fn millis(began: Instant) -> u64 {
    (began.elapsed().as_millis() as u64).max(1)
}
