//! Writes this node's manifest, when all nodes have uploaded.
use std::path::Path;

use palinurus_proto::v1::{LogSpan, ManifestResult, ManifestTask};
use palinurus_repository::{Error, LineageId, Result};

use super::snapshot::SPAN;
use super::{Call, transfer};
use crate::engine::Span;

pub(super) async fn run(call: &Call, order: &ManifestTask) -> Result<ManifestResult> {
    let context = transfer::context(call, &order.transaction, &order.base).await?;
    let span = span(&context.spool)?;
    let mut result = call.host.seams.mover.manifest(context, call.cancel.clone()).await?;
    let writes = call.host.writes.borrow().clone();
    result.log = span.and_then(|span| told(span, writes));
    Ok(result)
}

/// Which lineage that is, is known only where it is stored from.
fn told(span: Span, writes: Option<(Vec<u8>, LineageId)>) -> Option<LogSpan> {
    let Span { identity, start, stop, follows } = span;
    match writes.filter(|(written, _)| *written == identity) {
        Some((_, lineage)) => {
            Some(LogSpan { lineage: lineage.0.to_vec().into(), start, stop, ..Default::default() })
        }
        None if follows => Some(LogSpan { identity: identity.into(), start, stop, ..Default::default() }),
        None => None,
    }
}

/// What the engine has left there.
fn span(spool: &Path) -> Result<Option<Span>> {
    let path = spool.join(SPAN);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::corrupt(format!("{} does not parse", path.display())).with_source(e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}
