//! What waits for the bytes of a batch, and of all before it: links to files that must be there and proven first,
//! and directories, whose times every new name in them changes.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use palinurus_repository::Error;
use palinurus_repository::manifest::entry::Meta;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, linkat, readlinkat, statat, symlinkat};
use rustix::io::Errno;

use super::batch::Batch;
use super::beneath::Places;
use super::fault::{Fault, shown};
use super::remove::remove;
use super::tree::Left;
use super::{Context, lock};

#[derive(Debug)]
pub(super) enum Link {
    Symbolic { path: Vec<u8>, target: Vec<u8>, meta: Meta },
    Hard { path: Vec<u8>, target: Vec<u8> },
}

#[derive(Debug, Default)]
pub(super) struct Epilogue {
    pub(super) links: Vec<Link>,
    pub(super) left: Vec<Left>,
}

impl Epilogue {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.links.len() + self.left.len()
    }

    fn run(&self, context: &Context, places: &mut Places) {
        for link in &self.links {
            if context.report.is_stopped() {
                return;
            }
            let (path, made) = match link {
                Link::Symbolic { path, target, meta } => {
                    (path, make_symlink(context, places, path, target, meta))
                }
                Link::Hard { path, target } => (path, make_hard_link(context, places, path, target)),
            };
            if let Err(fault) = made {
                context.report.fault(path, fault);
            }
        }
        for left in &self.left {
            if context.report.is_stopped() {
                return;
            }
            if let Err(e) = finish_directory(context, left) {
                context.report.fault(&left.path, Fault::io("finish directory", &left.path, e));
            }
        }
    }
}

fn finish_directory(context: &Context, left: &Left) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = context.target.beneath.open(&left.path, flags, Mode::empty())?;
    context.attributes.give(fd.as_fd(), &left.path, &left.meta, left.origin, &context.report);
    Ok(())
}

fn make_symlink(
    context: &Context,
    places: &mut Places,
    path: &[u8],
    target: &[u8],
    meta: &Meta,
) -> Result<(), Fault> {
    let failed = |e| Fault::io("make symlink", path, e);
    let there = found(context, places, path).map_err(failed)?;
    let same = match &there {
        Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
            let (dir, name) = places.find(&context.target.beneath, path).map_err(failed)?;
            readlinkat(dir, name, Vec::new()).is_ok_and(|old| old.as_bytes() == target)
        }
        _ => false,
    };
    if !same {
        if there.is_some() {
            remove(&context.target.beneath, places, path).map_err(failed)?;
        }
        let (dir, name) = places.find(&context.target.beneath, path).map_err(failed)?;
        symlinkat(target, dir, name).map_err(|e| failed(e.into()))?;
    }
    let (dir, name) = places.find(&context.target.beneath, path).map_err(failed)?;
    context.attributes.give_symlink(dir, name, path, meta, &context.report);
    Ok(())
}

fn make_hard_link(context: &Context, places: &mut Places, path: &[u8], target: &[u8]) -> Result<(), Fault> {
    let failed = |e| Fault::io("link", path, e);
    let mut target_places = Places::default();
    let (target_dir, target_name) = target_places.find(&context.target.beneath, target).map_err(failed)?;
    let file = match statat(target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(file) if FileType::from_raw_mode(file.st_mode) == FileType::RegularFile => file,
        Err(e) if e != Errno::NOENT => return Err(failed(e.into())),
        _ => {
            let what = format!("it is another name of {}, which is not restored", shown(target));
            return Err(Fault::File(Error::corrupt(what)));
        }
    };
    if let Some(old) = found(context, places, path).map_err(failed)? {
        if (old.st_dev, old.st_ino) == (file.st_dev, file.st_ino) {
            return Ok(());
        }
        remove(&context.target.beneath, places, path).map_err(failed)?;
    }
    let (dir, name) = places.find(&context.target.beneath, path).map_err(failed)?;
    linkat(target_dir, target_name, dir, name, AtFlags::empty()).map_err(|e| failed(e.into()))
}

/// What has the name already; only looked for where something may.
fn found(context: &Context, places: &mut Places, path: &[u8]) -> io::Result<Option<Stat>> {
    if !context.target.existing {
        return Ok(None);
    }
    let (dir, name) = places.find(&context.target.beneath, path)?;
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Ends the batches in the order of the manifest, whatever order their bytes arrive in.
#[derive(Debug, Default)]
pub(super) struct Sequence(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    arrived: BTreeMap<u64, Arc<Batch>>,
    places: Option<Places>,
    running: bool,
}

impl Sequence {
    pub(super) fn arrived(&self, batch: Arc<Batch>, context: &Context) {
        let mut waiting = lock(&self.0);
        waiting.arrived.insert(batch.number, batch);
        if waiting.running {
            return;
        }
        waiting.running = true;
        while let Some(batch) = {
            let next = waiting.next;
            waiting.arrived.remove(&next)
        } {
            let mut places = waiting.places.take().unwrap_or_default();
            drop(waiting);
            batch.epilogue.run(context, &mut places);
            drop(batch);
            waiting = lock(&self.0);
            waiting.places = Some(places);
            waiting.next += 1;
        }
        waiting.running = false;
    }
}
