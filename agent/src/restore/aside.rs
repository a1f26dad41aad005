//! A second look into the manifest, at one file elsewhere than the planner is.
use palinurus_repository::Result;
use palinurus_repository::manifest::entry::Entry;
use palinurus_repository::manifest::{ManifestReader, ManifestRef};

use super::Context;

#[derive(Debug)]
pub(super) struct Aside {
    reader: ManifestReader,
    path: Vec<u8>,
    ended: bool,
}

impl Aside {
    pub(super) fn open(context: &Context, manifest: &ManifestRef) -> Result<Self> {
        let open = ManifestReader::open(context.storage.clone(), &context.keys, manifest);
        Ok(Self { reader: context.handle.block_on(open)?, path: Vec::new(), ended: true })
    }

    pub(super) fn seek(&mut self, path: &[u8]) {
        self.reader.seek(path);
        self.path = path.to_vec();
        self.ended = false;
    }

    /// The next slice of the entry, and whether it is the last. Nothing at once when there is no such entry.
    pub(super) fn next(&mut self, context: &Context) -> Result<Option<(Entry, bool)>> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        context.report.check()?;
        let Some(mut block) = context.handle.block_on(self.reader.next_block())? else { return Ok(None) };
        let Some(at) = block.entries.iter().position(|entry| entry.path == self.path) else {
            return Ok(None);
        };
        self.ended = !(block.continues && at + 1 == block.entries.len());
        Ok(Some((block.entries.swap_remove(at), self.ended)))
    }
}
