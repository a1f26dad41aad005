//! What the upload leaves in the operation's spool for the phase that writes the manifest.
use std::path::Path;

use palinurus_proto::v1::UploadResult;
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::collect::Collected;
use super::upload::WARNINGS_TOLD;
use crate::warning::Warnings;

/// The draft's entries from the middle of the list on, written first, and those before.
pub(crate) const DRAFT_TAIL: &str = "draft-tail";
pub(crate) const DRAFT_HEAD: &str = "draft-head";
/// The draft in order and with every place known.
pub(crate) const DRAFT_SETTLED: &str = "draft-settled";
/// The whole draft, anew: one of the two is read while the other is written.
const DRAFT_TAKEN: [&str; 2] = ["draft-taken-1", "draft-taken-2"];
const UPLOADED: &str = "uploaded";

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Uploaded {
    /// The base backup's manifest stands for this one too.
    pub(crate) unchanged: bool,
    /// What the engine adds in the end is part of the draft.
    pub(crate) appended: bool,
    pub(crate) borrowed: u64,
    pub(crate) torn: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_new: u64,
    /// The draft's files, in order.
    pub(crate) drafts: Vec<String>,
    warnings: Vec<(Vec<u8>, String)>,
    warning_count: u64,
}

impl Uploaded {
    pub(crate) fn unchanged() -> Self {
        Self { unchanged: true, ..Self::default() }
    }

    pub(crate) fn new(collected: &Collected, bytes_read: u64, bytes_new: u64) -> Self {
        let warnings = &collected.warnings;
        Self {
            unchanged: false,
            appended: false,
            borrowed: collected.borrowed,
            torn: collected.torn,
            bytes_read,
            bytes_new,
            drafts: vec![DRAFT_HEAD.to_owned(), DRAFT_TAIL.to_owned()],
            warnings: kept(warnings),
            warning_count: warnings.count(),
        }
    }

    /// Where the next whole draft goes.
    pub(crate) fn other_draft(&self) -> &'static str {
        let [one, two] = DRAFT_TAKEN;
        if self.drafts.iter().any(|draft| draft == one) { two } else { one }
    }

    pub(crate) fn taken_over(self, draft: &str, borrowed: u64, bytes_read: u64) -> Self {
        let bytes_read = self.bytes_read + bytes_read;
        Self { drafts: vec![draft.to_owned()], borrowed, bytes_read, ..self }
    }

    /// With what the engine added, all of it in one draft.
    pub(crate) fn appended(self, draft: &str, more: &Collected, read: u64, new: u64) -> Self {
        let mut all = self;
        let mut warnings = all.warnings();
        warnings.append(more.warnings.clone());
        all.warnings = kept(&warnings);
        Self {
            appended: true,
            borrowed: all.borrowed + more.borrowed,
            torn: all.torn + more.torn,
            bytes_read: all.bytes_read + read,
            bytes_new: all.bytes_new + new,
            drafts: vec![draft.to_owned()],
            warning_count: warnings.count(),
            ..all
        }
    }

    pub(crate) fn result(&self, node: &str) -> UploadResult {
        let warnings = self.warnings();
        UploadResult {
            borrowed: self.borrowed,
            warnings: warnings.to_wire(node, WARNINGS_TOLD),
            warning_count: warnings.count(),
        }
    }

    pub(crate) fn warnings(&self) -> Warnings {
        let mut warnings = Warnings::default();
        self.warnings.iter().for_each(|(path, message)| warnings.push(path, message.clone()));
        let missing = self.warning_count.saturating_sub(self.warnings.len() as u64);
        warnings.count_more(missing);
        warnings
    }

    /// Last of the upload: a draft without it is not whole.
    pub(crate) fn write(&self, spool: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::internal("uploaded").with_source(e))?;
        crate::durable::write(&spool.join(UPLOADED), &bytes)
    }

    pub(crate) fn read(spool: &Path) -> Result<Self> {
        let path = spool.join(UPLOADED);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt(format!("{} does not parse", path.display())).with_source(e))
    }

    pub(crate) fn remove(spool: &Path) -> Result<()> {
        let path = spool.join(UPLOADED);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

fn kept(warnings: &Warnings) -> Vec<(Vec<u8>, String)> {
    warnings.kept().iter().map(|warning| (warning.path.clone(), warning.message.clone())).collect()
}
