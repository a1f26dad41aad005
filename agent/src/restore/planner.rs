//! Goes through the manifest once, in order: makes directories, decides what each name needs, and sends the
//! workers what they need for it. The only thread that creates, replaces or removes names before their content
//! has come.
use std::collections::HashMap;
use std::sync::Arc;

use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta};
use palinurus_repository::manifest::{Block, ManifestRef};
use palinurus_repository::pack::FrameReader;
use palinurus_repository::{Error, Result};
use rustix::fs::OFlags;

use super::Context;
use super::aside::Aside;
use super::batch::Draft;
use super::beneath::Places;
use super::content::Plan;
use super::delta::{self, Likeness, Standing};
use super::epilogue::Link;
use super::fault::{Fault, shown};
use super::keystone;
use super::marker;
use super::metadata::Origin;
use super::queue::Queue;
use super::remove::remove;
use super::tree::{Step, Tree};

/// Files outside the selection, remembered because hard links inside it are made to one another.
const ADOPTED_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Planner {
    pub(super) context: Arc<Context>,
    pub(super) queue: Queue,
    pub(super) draft: Draft,
    /// Counts the drafts that were sent.
    pub(super) drafts: u64,
    pub(super) opener: FrameReader,
    manifest: ManifestRef,
    tree: Tree,
    places: Places,
    /// The file that goes on in the next block, unless that was skipped.
    open: Option<Plan>,
    /// Looks at other places of the manifest.
    aside: Option<Aside>,
    /// Where files outside the selection were restored to, as their first name inside it.
    adopted: HashMap<Vec<u8>, Vec<u8>>,
}

impl Planner {
    pub(super) fn new(context: Arc<Context>, queue: Queue, manifest: ManifestRef) -> Result<Self> {
        let target = &context.target;
        let tree = Tree::new(
            context.selection.clone(),
            target.existing,
            target.delta,
            context.attributes.is_privileged(),
        );
        Ok(Self {
            opener: FrameReader::new(&context.keys)?,
            context,
            queue,
            draft: Draft::default(),
            drafts: 0,
            manifest,
            tree,
            places: Places::default(),
            open: None,
            aside: None,
            adopted: HashMap::new(),
        })
    }

    pub(super) fn block(&mut self, block: &Arc<Block>) -> Result<()> {
        let standing = match self.context.target.existing {
            true => delta::sift(&self.context, &self.queue, block)?,
            false => Vec::new(),
        };
        let last = block.entries.len().saturating_sub(1);
        for (at, entry) in block.entries.iter().enumerate() {
            self.context.report.check()?;
            let goes_on = at == last && block.continues;
            if at == 0 && block.continued_from_previous {
                if let (Some(plan), Some(content)) = (self.open.take(), entry.content()) {
                    self.open = self.slice(plan, content, !goes_on)?;
                }
                continue;
            }
            if !goes_on {
                entry.check()?;
            }
            self.entry(entry, goes_on, standing.get(at).copied().unwrap_or_default())?;
            if self.draft.is_full() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Leaves the last directories and sends what is left. Gives the metadata of the data directory itself.
    pub(super) fn finish(mut self) -> Result<Option<Meta>> {
        if self.open.is_some() {
            return Err(Error::corrupt("the manifest ends within a file"));
        }
        match self.tree.finish(&self.context.target.beneath, &mut self.draft.epilogue.left) {
            Ok(()) => {}
            Err(Fault::File(error)) => self.context.report.damage(b".", error),
            Err(Fault::Run(error)) => return Err(error),
        }
        let root = self.draft.epilogue.left.pop_if(|left| left.path == b".");
        self.flush()?;
        Ok(root.map(|left| left.meta))
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        if self.draft.is_empty() {
            return Ok(());
        }
        self.drafts += 1;
        self.queue.send(&self.context, std::mem::take(&mut self.draft))
    }

    fn entry(&mut self, entry: &Entry, goes_on: bool, standing: Standing) -> Result<()> {
        let path = &entry.path;
        let beneath = &self.context.target.beneath;
        let mut step = match self.tree.step(beneath, path, &mut self.draft.epilogue.left) {
            Ok(step) => step,
            Err(fault) => self.skip(path, fault)?,
        };
        if path == marker::NAME.as_bytes() && step != Step::Skip {
            self.context
                .report
                .warn("marker", path, || "not restored: the name marks an unfinished restore".into());
            step = Step::Skip;
        }
        match &entry.kind {
            Kind::Directory => {
                if let Err(fault) =
                    self.tree.enter(&self.context.target.beneath, path.clone(), entry.meta.clone())
                {
                    self.skip(path, fault)?;
                }
                Ok(())
            }
            _ if step == Step::Skip => Ok(()),
            Kind::Symlink { target } => {
                let (path, target, meta) = (path.clone(), target.clone(), entry.meta.clone());
                self.draft.epilogue.links.push(Link::Symbolic { path, target, meta });
                Ok(())
            }
            Kind::Hardlink { target } => {
                let done = self.hard_link(entry, target, step);
                done.or_else(|fault| self.skip(path, fault).map(|_| ()))
            }
            Kind::File(content) => {
                let done = match keystone::waiting(path) {
                    Some(path) => {
                        let entry = Entry { path, ..entry.clone() };
                        self.file(&entry, content, step, Standing::Other, goes_on)
                    }
                    None => self.file(entry, content, step, standing, goes_on),
                };
                done.or_else(|fault| self.skip(path, fault).map(|_| ()))
            }
        }
    }

    /// Reports what made an entry impossible, unless that ends the run.
    fn skip(&self, path: &[u8], fault: Fault) -> Result<Step> {
        match fault {
            Fault::Run(error) => Err(error),
            Fault::File(error) => {
                self.context.report.damage(path, error);
                Ok(Step::Skip)
            }
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        content: &Content,
        step: Step,
        standing: Standing,
        goes_on: bool,
    ) -> Result<(), Fault> {
        let mut origin = Origin::Made;
        if step == Step::Look {
            match standing {
                Standing::Same => return Ok(()),
                Standing::Pages => origin = Origin::Found,
                Standing::Other if goes_on && content.pages.is_some() => origin = Origin::Found,
                Standing::Other if goes_on && self.stands(entry, content).map_err(Fault::Run)? => {
                    return Ok(());
                }
                Standing::Other => {}
            }
        }
        if origin == Origin::Made && !goes_on {
            self.clear(step, &entry.path)?;
            if self.plan_small(entry, content) {
                return Ok(());
            }
        }
        let plan = self.begin(entry, content, origin);
        if !plan.is_found() {
            self.clear(step, &entry.path)?;
        }
        self.open = self.slice(plan, content, !goes_on).map_err(Fault::Run)?;
        Ok(())
    }

    /// Removes what stands where a new name is to be made.
    fn clear(&mut self, step: Step, path: &[u8]) -> Result<(), Fault> {
        if step != Step::Look {
            return Ok(());
        }
        remove(&self.context.target.beneath, &mut self.places, path)
            .map_err(|e| Fault::io("replace", path, e))
    }

    /// Whether a file that lies in several blocks is there already; looks ahead in the manifest to know.
    fn stands(&mut self, entry: &Entry, content: &Content) -> Result<bool> {
        let Ok((file, size)) = delta::open(&self.context, &entry.path, OFlags::RDONLY) else {
            return Ok(false);
        };
        if size != content.size {
            return Ok(false);
        }
        let mut likeness = Likeness::new(&self.context.keys, size);
        let mut buffer = Vec::new();
        let mut aside = self.look_at(&entry.path)?;
        while let Some((slice, _)) = aside.next(&self.context)? {
            let pieces = slice.content().map_or(&[][..], |content| &content.pieces);
            if !likeness.add(&self.context, &file, pieces, &mut buffer).unwrap_or(false) {
                break;
            }
        }
        self.aside = Some(aside);
        let stands = likeness.is(size, content.id);
        if stands {
            delta::keep(&self.context, entry, &file);
        }
        Ok(stands)
    }

    fn look_at(&mut self, path: &[u8]) -> Result<Aside> {
        let mut aside = match self.aside.take() {
            Some(aside) => aside,
            None => Aside::open(&self.context, &self.manifest)?,
        };
        aside.seek(path);
        Ok(aside)
    }

    fn hard_link(&mut self, entry: &Entry, target: &[u8], step: Step) -> Result<(), Fault> {
        let selected = self.context.selection.wants(target).then_some(target);
        match selected.or(self.adopted.get(target).map(Vec::as_slice)) {
            Some(first) => {
                let link = Link::Hard { path: entry.path.clone(), target: first.to_vec() };
                self.draft.epilogue.links.push(link);
                Ok(())
            }
            None => self.adopt(entry, target, step),
        }
    }

    /// Restores a file outside the selection under its name inside it.
    fn adopt(&mut self, link: &Entry, target: &[u8], step: Step) -> Result<(), Fault> {
        self.clear(step, &link.path)?;
        let mut aside = self.look_at(target).map_err(Fault::Run)?;
        let mut plan: Option<Plan> = None;
        let mut known = false;
        while let Some((mut slice, last)) = aside.next(&self.context).map_err(Fault::Run)? {
            slice.path.clone_from(&link.path);
            let Some(content) = slice.content() else { break };
            if !known && last && self.plan_small(&slice, content) {
                known = true;
                break;
            }
            known = true;
            let begun = plan.take().unwrap_or_else(|| self.begin(&slice, content, Origin::Made));
            plan = self.slice(begun, content, last).map_err(Fault::Run)?;
        }
        self.aside = Some(aside);
        if !known {
            let what = format!("it is another name of {}, which is no file of this backup", shown(target));
            return Err(Fault::File(Error::corrupt(what)));
        }
        if self.adopted.len() < ADOPTED_MAX {
            self.adopted.insert(target.to_vec(), link.path.clone());
        } else {
            self.context
                .report
                .warn("adopted", &link.path, || "restored as a file of its own, not as a hard link".into());
        }
        Ok(())
    }
}
