//! What an engine adds to a backup when everything that the snapshot listed has been read: a list of its own, whose
//! files go the same way. The draft of both together stands where the upload's stood, so the manifest phase sees one.
use std::cmp::Ordering;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use palinurus_proto::v1::UploadResult;
use palinurus_repository::manifest::entry::compare_paths;
use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::draft::{DraftWriter, Drafts};
use super::run::run;
use super::spool::{DRAFT_HEAD, DRAFT_TAIL, Uploaded};
use super::upload::threads;

/// In the spool: the drafts of what was added.
const ADDED: &str = "drafts-added";

/// `context` names the list of what is added and the tree where it lies. May be repeated like an upload, and ends
/// with the result of both.
pub(crate) async fn append(context: Context, cancel: CancellationToken) -> Result<UploadResult> {
    let uploaded = Uploaded::read(&context.spool)?;
    if uploaded.appended {
        return Ok(uploaded.result(&context.node));
    }
    if uploaded.unchanged {
        return Err(Error::internal("nothing can be added to a backup that stands for its base"));
    }
    let (spool, node, progress) = (context.spool.clone(), context.node.clone(), context.progress.clone());
    crate::durable::create_dir(&spool.join(ADDED))?;
    let (read, new) = (progress.bytes_read.load(Relaxed), progress.bytes_new.load(Relaxed));
    let drafts = spool.join(ADDED);
    let more = run(context, cancel, move |run| threads(&run, &drafts)).await?;
    let read = progress.bytes_read.load(Relaxed).saturating_sub(read);
    let new = progress.bytes_new.load(Relaxed).saturating_sub(new);
    let merge = move || {
        let to = uploaded.other_draft();
        let added = [DRAFT_HEAD, DRAFT_TAIL].map(|draft| format!("{ADDED}/{draft}"));
        merge(&spool, &uploaded.drafts, &added, to)?;
        let uploaded = uploaded.appended(to, &more, read, new);
        uploaded.write(&spool)?;
        Ok(uploaded.result(&node))
    };
    tokio::task::spawn_blocking(merge).await.map_err(|e| Error::internal("append").with_source(e))?
}

/// Writes the entries of both, in order, to one draft.
fn merge(spool: &Path, ours: &[String], added: &[String], to: &str) -> Result<()> {
    let mut writer = DraftWriter::create(spool.join(to))?;
    let (mut ours, mut added) = (Drafts::open(spool, ours)?, Drafts::open(spool, added)?);
    let (mut our, mut more) = (ours.next()?, added.next()?);
    loop {
        let order = match (&our, &more) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(more)) => compare_paths(&our.source.path, &more.source.path),
        };
        let draft = match order {
            Ordering::Less => std::mem::replace(&mut our, ours.next()?),
            Ordering::Greater => std::mem::replace(&mut more, added.next()?),
            Ordering::Equal => return Err(Error::internal("what the engine adds was listed before")),
        };
        if let Some(draft) = draft {
            writer.push(&draft)?;
        }
    }
    writer.finish()
}
