//! Reads a whole file by itself: one that changed while it was read, or whose chunks another node did not store.
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use palinurus_repository::keys::FileHasher;
use palinurus_repository::{Keys, Result};

use super::draft::{Draft, DraftContent};
use super::frames::{Frames, Places};
use super::pages::{read_unit, unit_len};
use super::read::{Fault, chunk_ids, pieces, read_range};
use super::unit::{Opened, Stat, cut, file_of};
use crate::source::{Class, SourceEntry, SourceKind, Tree};

const TRIES: u32 = 3;

pub(crate) enum Reread {
    Whole(Draft),
    /// It kept changing: each chunk is what was read, together they may be of several versions.
    Torn(Draft),
    /// And why, where that is worth a warning.
    Dropped(Option<String>),
}

pub(crate) fn read_again(
    frames: &mut Frames,
    keys: &Keys,
    tree: &Tree,
    source: &SourceEntry,
) -> Result<Reread> {
    let mut torn = None;
    for _ in 0..TRIES {
        match attempt(frames, keys, tree, source) {
            Ok((draft, false)) => return Ok(Reread::Whole(draft)),
            Ok((draft, true)) => torn = Some(draft),
            Err(Fault::File(e)) => return Ok(Reread::Dropped(tree.unread(source, &e)?)),
            Err(Fault::Run(e)) => return Err(e),
        }
    }
    Ok(torn.map_or_else(|| Reread::Dropped(Some("cannot be read".into())), Reread::Torn))
}

/// The file as it is now, and whether it changed meanwhile.
fn attempt(
    frames: &mut Frames,
    keys: &Keys,
    tree: &Tree,
    source: &SourceEntry,
) -> Result<(Draft, bool), Fault> {
    let Some((listed, class)) = file_of(source) else {
        return Err(Fault::File(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let opened = Opened::open(tree, source)?;
    let size = match class {
        Class::AppendOnly => listed.min(opened.before.size),
        _ => opened.before.size,
    };
    let entry = as_of(source, &opened.before, size);
    let places = Rc::new(RefCell::new(Places::default()));
    let mut short = false;
    let mut slots = Vec::new();
    let mut maps = Vec::new();
    let page_size = class.page_size(size);
    if let Some(page) = page_size {
        let mut at = 0;
        while at < size {
            let end = (at + unit_len(page)).min(size);
            let (reading, map) =
                read_unit(frames, &places, opened.file.file()?, at..end, page, None, &mut |_, _| Ok(()))?;
            short |= reading.short;
            slots.extend(reading.slots);
            maps.push(map);
            at = end;
        }
    } else {
        let cut = cut(class, size);
        let reading = read_range(frames, &places, &opened.file, 0..size, cut, opened.sparse())?;
        short = reading.short;
        slots = reading.slots;
    }
    frames.drain()?;
    let changed = opened.changed(&entry, size, class)?;
    let places = places.borrow();
    let ids = match page_size {
        None => chunk_ids(&slots, &places),
        Some(_) => maps.iter().map(|map| places.ids[*map]).collect(),
    };
    let mut hasher = FileHasher::new(keys, size);
    ids.iter().for_each(|id| hasher.push(id));
    let content = DraftContent {
        size,
        id: hasher.finish(),
        pieces: pieces(&slots, &places)?,
        page_size,
        maps: maps.iter().filter_map(|map| places.refs[*map]).collect(),
    };
    Ok((Draft { source: entry, content: Some(content) }, changed || short))
}

/// The entry with what is true of the file now.
fn as_of(source: &SourceEntry, stat: &Stat, size: u64) -> SourceEntry {
    let mut entry = source.clone();
    entry.meta.inode = stat.inode;
    entry.meta.device = stat.device;
    entry.meta.mtime_seconds = stat.mtime.0;
    entry.meta.mtime_nanos = u32::try_from(stat.mtime.1).unwrap_or(0);
    if let SourceKind::File { size: listed, .. } = &mut entry.kind {
        *listed = size;
    }
    entry
}
