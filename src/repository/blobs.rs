//! Owns: storing blobs: hashed, compressed and sealed on several cores, gathered into packs, packs before the index that names them. Must
//! not: know which file a blob is of.
//!
//! Memory is bounded: at most [`Blobs::window`] blobs are on their way, and three packs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::catalog::Catalog;
use super::content::is_zero;
use super::index::{self, Index};
use super::pack::{Entry, Pack};
use super::tree::Tree;
use super::{BlobKind, Error, Id, Kind, Object, Repository, format};

/// Bytes of a pack, about.
const PACK: usize = 16 << 20;
/// Packs that are written at the same time.
const UPLOADS: usize = 2;
/// The level of zstd.
const LEVEL: i32 = 3;
/// Bytes of blobs on their way, at most, and blobs.
const ON_WAY: usize = 16 << 20;
const MAX_WINDOW: usize = 256;

/// What was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// New blobs of files.
    pub data_blobs: u64,
    /// New blobs of folders.
    pub tree_blobs: u64,
    /// Bytes of new blobs.
    pub raw_bytes: u64,
    /// The same, as stored.
    pub stored_bytes: u64,
}

/// A blob that can be stored.
pub struct Prepared {
    id: Id,
    length: u64,
    body: Body,
}

enum Body {
    /// It is all zeros.
    Zeros,
    /// It is stored already.
    Known,
    /// It is sealed; the length of its contents if they are compressed.
    New(Vec<u8>, Option<u32>),
}

/// A blob on its way.
pub type Preparing = Receiver<Result<Prepared, Error>>;

type Upload = JoinHandle<Result<(Id, Vec<Entry>), Error>>;

/// Stores blobs. Dropped without [`Blobs::finish`], what was stored is referred to by nothing, and the next prune removes it.
pub struct Blobs {
    repository: Repository,
    catalog: Arc<Catalog>,
    pool: ThreadPool,
    data: Pack,
    trees: Pack,
    uploads: VecDeque<Upload>,
    index: Index,
    stats: Stats,
}

impl Prepared {
    /// Its id, and whether it is all zeros.
    pub fn is_zeros(&self) -> bool {
        matches!(self.body, Body::Zeros)
    }

    /// The bytes of its contents.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Blobs {
    /// Up to `threads` compress.
    pub fn new(repository: &Repository, catalog: &Arc<Catalog>, threads: usize) -> Result<Blobs, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|_| "compress".to_owned())
            // A panic drops the sender of the blob, which its receiver takes for an error.
            .panic_handler(|_| {})
            .build()
            .map_err(|error| repository.system(io::Error::other(error)))?;
        Ok(Blobs {
            repository: repository.clone(),
            catalog: catalog.clone(),
            pool,
            data: Pack::new(BlobKind::Data),
            trees: Pack::new(BlobKind::Tree),
            uploads: VecDeque::new(),
            index: Index::default(),
            stats: Stats::default(),
        })
    }

    /// Blobs of this size that may be on their way at the same time.
    pub fn window(&self, size: u64) -> usize {
        (ON_WAY / usize::try_from(size.max(1)).unwrap_or(ON_WAY)).clamp(2 * self.pool.current_num_threads(), MAX_WINDOW)
    }

    /// Sends contents of a file on their way.
    pub fn prepare(&self, bytes: Vec<u8>) -> Preparing {
        let (done, prepared) = mpsc::sync_channel(1);
        let (repository, catalog) = (self.repository.clone(), self.catalog.clone());
        self.pool.spawn(move || {
            // The receiver is gone when an earlier blob failed.
            let _ = done.send(prepare(&repository, &catalog, &bytes));
        });
        prepared
    }

    /// Waits for a blob.
    pub fn wait(&self, preparing: &Preparing) -> Result<Prepared, Error> {
        let ended = || self.repository.system(io::Error::other("a compressing thread has ended"));
        preparing.recv().unwrap_or_else(|_| Err(ended()))
    }

    /// Stores a blob unless it is stored; its id.
    pub fn store(&mut self, prepared: &Prepared) -> Result<Id, Error> {
        if let Body::New(sealed, raw) = &prepared.body {
            self.add(BlobKind::Data, prepared.id, (sealed, *raw), prepared.length)?;
        }
        Ok(prepared.id)
    }

    /// Stores contents that are known to be short, or zeros.
    pub fn store_now(&mut self, bytes: &[u8]) -> Result<Id, Error> {
        let prepared = match is_zero(bytes) {
            true => seal(&self.repository, &self.catalog, Id::of(bytes), bytes)?,
            false => prepare(&self.repository, &self.catalog, bytes)?,
        };
        self.store(&prepared)
    }

    /// Stores a folder; its id.
    pub fn store_tree(&mut self, tree: &Tree) -> Result<Id, Error> {
        let system = |source| self.repository.system(source);
        let mut out = zstd::stream::Encoder::new(Vec::new(), LEVEL).map_err(system)?;
        let (id, length) = tree.write(&mut out).map_err(system)?;
        if !self.catalog.contains(BlobKind::Tree, &id)? {
            let packed = out.finish().map_err(system)?;
            let sealed = self.repository.key().seal(&packed).map_err(system)?;
            let raw = u32::try_from(length).map_err(|_| self.repository.invalid("a folder has too many entries"))?;
            self.add(BlobKind::Tree, id, (&sealed, Some(raw)), length)?;
        }
        Ok(id)
    }

    /// Waits until all packs are durable, then stores the index that names them.
    pub fn finish(&mut self) -> Result<(), Error> {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            self.end_pack(kind)?;
        }
        self.wait_uploads(0)?;
        self.index.save(&self.repository)
    }

    /// What was stored so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn add(&mut self, kind: BlobKind, id: Id, (sealed, raw): (&[u8], Option<u32>), length: u64) -> Result<(), Error> {
        // Another blob that was on its way may have been the same.
        if !self.catalog.add(kind, id)? {
            return Ok(());
        }
        let repository = self.repository.clone();
        let pack = self.pack(kind);
        pack.add(id, sealed, raw).map_err(|source| repository.system(source))?;
        let is_full = pack.len() >= PACK;
        let blobs = if kind == BlobKind::Data { &mut self.stats.data_blobs } else { &mut self.stats.tree_blobs };
        *blobs += 1;
        self.stats.raw_bytes += length;
        self.stats.stored_bytes += sealed.len() as u64;
        if is_full { self.end_pack(kind) } else { Ok(()) }
    }

    fn pack(&mut self, kind: BlobKind) -> &mut Pack {
        if kind == BlobKind::Data { &mut self.data } else { &mut self.trees }
    }

    /// Begins to write a pack.
    fn end_pack(&mut self, kind: BlobKind) -> Result<(), Error> {
        let pack = std::mem::replace(self.pack(kind), Pack::new(kind));
        if pack.blobs() == 0 {
            return Ok(());
        }
        self.wait_uploads(UPLOADS - 1)?;
        let repository = self.repository.clone();
        let upload = thread::Builder::new().name("upload".to_owned()).spawn(move || {
            let pack = pack.finish(repository.key()).map_err(|source| repository.system(source))?;
            let id = Id::of(&pack.bytes);
            repository.put(Object::new(Kind::Pack, id), pack.bytes)?;
            Ok((id, pack.entries))
        });
        self.uploads.push_back(upload.map_err(|source| self.repository.system(source))?);
        Ok(())
    }

    /// Waits until at most so many packs are being written. Those that are durable go into the index.
    fn wait_uploads(&mut self, left: usize) -> Result<(), Error> {
        while self.uploads.len() > left {
            let Some(upload) = self.uploads.pop_front() else { break };
            let ended = |_| Err(self.repository.system(io::Error::other("a writing thread has ended")));
            let (pack, entries) = upload.join().unwrap_or_else(ended)?;
            self.index.add(pack, &entries);
        }
        if self.index.blobs() >= index::FULL { self.index.save(&self.repository) } else { Ok(()) }
    }
}

impl Drop for Blobs {
    /// Nothing is written any more when it is gone.
    fn drop(&mut self) {
        for upload in self.uploads.drain(..) {
            let _ = upload.join();
        }
    }
}

fn prepare(repository: &Repository, catalog: &Catalog, bytes: &[u8]) -> Result<Prepared, Error> {
    if is_zero(bytes) && !bytes.is_empty() {
        return Ok(Prepared { id: Id::from_zeros(), length: bytes.len() as u64, body: Body::Zeros });
    }
    seal(repository, catalog, Id::of(bytes), bytes)
}

fn seal(repository: &Repository, catalog: &Catalog, id: Id, bytes: &[u8]) -> Result<Prepared, Error> {
    let length = bytes.len() as u64;
    if catalog.contains(BlobKind::Data, &id)? {
        return Ok(Prepared { id, length, body: Body::Known });
    }
    let system = |source| repository.system(source);
    let packed = format::compress(bytes, LEVEL).map_err(system)?;
    let is_smaller = packed.len() < bytes.len();
    let sealed = repository.key().seal(if is_smaller { &packed } else { bytes }).map_err(system)?;
    let raw = if is_smaller {
        Some(u32::try_from(length).map_err(|_| repository.invalid("a blob is too large"))?)
    } else {
        None
    };
    Ok(Prepared { id, length, body: Body::New(sealed, raw) })
}
