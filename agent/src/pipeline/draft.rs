//! The draft of a manifest: entries in order, in the spool, some of whose chunks another node is still
//! uploading. A local file between two phases of one operation: its form may change with any version.
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use palinurus_repository::manifest::entry::{Content, Entry, Kind, PageMaps, Piece};
use palinurus_repository::pack::ChunkAt;
use palinurus_repository::{ChunkId, Error, FileId, Result};
use prost::Message;

use crate::ahead::{Weight, named};
use crate::source::{SourceEntry, SourceKind};

/// A chunk that has a place, or that somebody else of this transaction has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ref {
    At(ChunkAt),
    Borrowed(ChunkId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DraftPiece {
    Hole(u64),
    /// `len` bytes at `start` of the chunk.
    Data {
        chunk: Ref,
        start: u32,
        len: u32,
    },
}

impl DraftPiece {
    pub(crate) fn len(&self) -> u64 {
        match self {
            DraftPiece::Hole(len) => *len,
            DraftPiece::Data { len, .. } => u64::from(*len),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DraftContent {
    pub(crate) size: u64,
    pub(crate) id: FileId,
    pub(crate) pieces: Vec<DraftPiece>,
    pub(crate) page_size: Option<u32>,
    pub(crate) maps: Vec<Ref>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) source: SourceEntry,
    /// Of a file; absent where it changed while it was read, and must be read again.
    pub(crate) content: Option<DraftContent>,
}

impl Draft {
    /// The file as the base backup has it, with the metadata it has now.
    pub(crate) fn kept(source: SourceEntry, content: Content) -> Self {
        let piece = |piece: Piece| match piece {
            Piece::Hole(len) => DraftPiece::Hole(len),
            Piece::Data(at) => DraftPiece::Data { chunk: Ref::At(at), start: 0, len: at.len },
        };
        let content = DraftContent {
            size: content.size,
            id: content.id,
            pieces: content.pieces.into_iter().map(piece).collect(),
            page_size: content.pages.as_ref().map(|pages| pages.page_size),
            maps: content.pages.into_iter().flat_map(|pages| pages.maps).map(Ref::At).collect(),
        };
        Self { source, content: Some(content) }
    }

    pub(crate) fn borrowed(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let content = self.content.iter();
        let pieces = content.clone().flat_map(|content| &content.pieces).filter_map(|piece| match piece {
            DraftPiece::Data { chunk: Ref::Borrowed(id), .. } => Some(*id),
            _ => None,
        });
        let maps = content.flat_map(|content| &content.maps).filter_map(|map| match map {
            Ref::Borrowed(id) => Some(*id),
            Ref::At(_) => None,
        });
        pieces.chain(maps)
    }

    pub(crate) fn must_be_read_again(&self) -> bool {
        self.content.is_none() && matches!(self.source.kind, SourceKind::File { .. })
    }

    /// Gives the borrowed chunks their places. `None` when one has none: the file must be read again.
    pub(crate) fn resolve(mut self, place: impl Fn(&ChunkId) -> Option<ChunkAt>) -> Option<Self> {
        let settle = |chunk: &mut Ref| {
            if let Ref::Borrowed(id) = chunk {
                *chunk = Ref::At(place(id)?);
            }
            Some(())
        };
        if let Some(content) = &mut self.content {
            for piece in &mut content.pieces {
                if let DraftPiece::Data { chunk, .. } = piece {
                    settle(chunk)?;
                }
            }
            content.maps.iter_mut().try_for_each(settle)?;
        }
        Some(self)
    }

    /// The manifest's entry; all places must be known.
    pub(crate) fn into_entry(self) -> Result<Entry> {
        let kind = match (self.source.kind, self.content) {
            (SourceKind::Directory, _) => Kind::Directory,
            (SourceKind::Symlink { target }, _) => Kind::Symlink { target },
            (SourceKind::Hardlink { target }, _) => Kind::Hardlink { target },
            (SourceKind::File { .. }, Some(content)) => Kind::File(finished(content)?),
            (SourceKind::File { .. }, None) => return Err(Error::internal("a file was not read")),
        };
        Ok(Entry { path: self.source.path, meta: self.source.meta, kind })
    }
}

fn finished(content: DraftContent) -> Result<Content> {
    let known = |chunk: Ref| match chunk {
        Ref::At(at) => Ok(at),
        Ref::Borrowed(id) => Err(Error::internal(format!("chunk {id} has no place"))),
    };
    let mut pieces: Vec<Piece> = Vec::with_capacity(content.pieces.len());
    for piece in content.pieces {
        match (piece, pieces.last_mut()) {
            (DraftPiece::Hole(len), Some(Piece::Hole(before))) => *before += len,
            (DraftPiece::Hole(len), _) => pieces.push(Piece::Hole(len)),
            (DraftPiece::Data { chunk, start, len }, _) => {
                let at = known(chunk)?;
                let start = at.start.checked_add(start).ok_or_else(|| Error::internal("chunk start"))?;
                pieces.push(Piece::Data(ChunkAt { frame: at.frame, start, len }));
            }
        }
    }
    let maps = content.maps.into_iter().map(known).collect::<Result<Vec<_>>>()?;
    let pages = content.page_size.map(|page_size| PageMaps { page_size, maps });
    Ok(Content { size: content.size, id: content.id, pieces, pages })
}

#[derive(Debug)]
pub(crate) struct DraftWriter {
    path: PathBuf,
    file: BufWriter<File>,
    scratch: Vec<u8>,
}

impl DraftWriter {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io(format!("create {}", path.display()), e))?;
        Ok(Self { path, file: BufWriter::with_capacity(256 << 10, file), scratch: Vec::new() })
    }

    pub(crate) fn push(&mut self, draft: &Draft) -> Result<()> {
        self.scratch.clear();
        encode(draft, &mut self.scratch)?;
        let len = (self.scratch.len() as u64).to_le_bytes();
        let written = self.file.write_all(&len).and_then(|()| self.file.write_all(&self.scratch));
        written.map_err(|e| Error::io(format!("write {}", self.path.display()), e))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io(format!("write {}", self.path.display()), e))
    }
}

#[derive(Debug)]
pub(crate) struct DraftReader {
    path: PathBuf,
    file: BufReader<File>,
    scratch: Vec<u8>,
}

impl DraftReader {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        Ok(Self { path: path.into(), file: BufReader::with_capacity(256 << 10, file), scratch: Vec::new() })
    }

    pub(crate) fn read(&mut self) -> Result<Option<Draft>> {
        let failed = |path: &Path, e| Error::io(format!("read {}", path.display()), e);
        let mut len = [0; 8];
        match self.file.read_exact(&mut len) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(failed(&self.path, e)),
        }
        let len = usize::try_from(u64::from_le_bytes(len)).map_err(|_| Error::internal("draft record"))?;
        self.scratch.resize(len, 0);
        self.file.read_exact(&mut self.scratch).map_err(|e| failed(&self.path, e))?;
        decode(&self.scratch).map(Some)
    }
}

/// The entries of several drafts, one after the other.
#[derive(Debug)]
pub(crate) struct Drafts(std::vec::IntoIter<DraftReader>, Option<DraftReader>);

impl Drafts {
    pub(crate) fn open(spool: &Path, drafts: &[String]) -> Result<Self> {
        let readers: Vec<DraftReader> =
            drafts.iter().map(|draft| DraftReader::open(&spool.join(draft))).collect::<Result<_>>()?;
        let mut readers = readers.into_iter();
        let first = readers.next();
        Ok(Self(readers, first))
    }

    pub(crate) fn next(&mut self) -> Result<Option<Draft>> {
        while let Some(reader) = &mut self.1 {
            match reader.read()? {
                Some(draft) => return Ok(Some(draft)),
                None => self.1 = self.0.next(),
            }
        }
        Ok(None)
    }
}

impl Weight for Entry {
    fn weight(&self) -> usize {
        let places = |content: &Content| {
            content.pieces.len() + content.pages.as_ref().map_or(0, |pages| pages.maps.len())
        };
        named(&self.path, &self.meta) + self.content().map_or(0, places) * size_of::<Piece>()
    }
}

fn encode(draft: &Draft, out: &mut Vec<u8>) -> Result<()> {
    let mut record = wire::Draft { source: Some((&draft.source).into()), ..Default::default() };
    if let Some(content) = &draft.content {
        record.has_content = true;
        record.size = content.size;
        record.id = content.id.as_bytes().to_vec();
        record.page_size = content.page_size.unwrap_or(0);
        for piece in &content.pieces {
            record.pieces.push(match piece {
                DraftPiece::Hole(len) => wire::Piece { hole: *len, ..Default::default() },
                DraftPiece::Data { chunk, start, len } => {
                    wire::Piece { start: *start, len: *len, ..place(chunk) }
                }
            });
        }
        record.maps = content.maps.iter().map(place).collect();
    }
    record.encode(out).map_err(|e| Error::internal("draft record").with_source(e))
}

fn place(chunk: &Ref) -> wire::Piece {
    match chunk {
        Ref::At(at) => wire::Piece { at: at.encode(), ..Default::default() },
        Ref::Borrowed(id) => wire::Piece { borrowed: id.as_bytes().to_vec(), ..Default::default() },
    }
}

fn decode(bytes: &[u8]) -> Result<Draft> {
    let record = wire::Draft::decode(bytes).map_err(|e| Error::corrupt("draft record").with_source(e))?;
    let chunk = |piece: &wire::Piece| {
        if piece.at.is_empty() {
            ChunkId::from_slice(&piece.borrowed).map(Ref::Borrowed)
        } else {
            ChunkAt::decode(&piece.at).map(Ref::At)
        }
    };
    let content = if record.has_content {
        let pieces = record.pieces.iter().map(|piece| match piece.hole {
            0 => Ok(DraftPiece::Data { chunk: chunk(piece)?, start: piece.start, len: piece.len }),
            hole => Ok(DraftPiece::Hole(hole)),
        });
        Some(DraftContent {
            size: record.size,
            id: FileId::from_slice(&record.id)?,
            pieces: pieces.collect::<Result<_>>()?,
            page_size: Some(record.page_size).filter(|size| *size > 0),
            maps: record.maps.iter().map(chunk).collect::<Result<_>>()?,
        })
    } else {
        None
    };
    let source = record.source.ok_or_else(|| Error::corrupt("draft record without its entry"))?;
    Ok(Draft { source: source.try_into()?, content })
}

mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Draft {
        #[prost(message, optional, tag = "1")]
        pub(super) source: Option<crate::source::wire::Entry>,
        #[prost(bool, tag = "2")]
        pub(super) has_content: bool,
        #[prost(uint64, tag = "3")]
        pub(super) size: u64,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) id: Vec<u8>,
        #[prost(uint32, tag = "5")]
        pub(super) page_size: u32,
        #[prost(message, repeated, tag = "6")]
        pub(super) pieces: Vec<Piece>,
        #[prost(message, repeated, tag = "7")]
        pub(super) maps: Vec<Piece>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Piece {
        #[prost(uint64, tag = "1")]
        pub(super) hole: u64,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) at: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        pub(super) borrowed: Vec<u8>,
        #[prost(uint32, tag = "4")]
        pub(super) start: u32,
        #[prost(uint32, tag = "5")]
        pub(super) len: u32,
    }
}
