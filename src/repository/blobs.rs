//! Stores blobs: hashes, compresses and seals them on several cores, and collects them in packs. Must not know to which
//! file a blob belongs.
//!
//! Packs are stored before the index that lists them. Memory is bounded: at most [`Blobs::window`] blobs and three
//! packs are in progress.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::catalog::Catalog;
use super::content::is_zero;
use super::index::{self, Index};
use super::lock::Locked;
use super::pack::{Entry, Pack};
use super::tree::Tree;
use super::{BlobKind, Error, Id, Kind, Object, Repository, format};

/// Approximate size of a pack in bytes.
const PACK: usize = 16 << 20;
/// Number of packs that are written at the same time.
const UPLOADS: usize = 2;
/// Limits of blobs in progress: in bytes, and in number.
const ON_WAY: usize = 16 << 20;
const MAX_WINDOW: usize = 256;

/// Counts of stored blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of new data blobs.
    pub data_blobs: u64,
    /// Number of new tree blobs.
    pub tree_blobs: u64,
    /// Bytes of new blobs, before compression.
    pub raw_bytes: u64,
    /// Bytes of new blobs, as stored.
    pub stored_bytes: u64,
}

/// A blob that is ready to be stored.
pub struct Prepared {
    id: Id,
    length: u64,
    body: Body,
}

enum Body {
    /// All zeros.
    Zeros,
    /// Already stored.
    Known,
    /// Sealed; with the length of its contents if they are compressed.
    New(Vec<u8>, Option<u32>),
}

/// A blob in progress.
pub type Preparing = Receiver<Result<Prepared, Error>>;

type Upload = JoinHandle<Result<(Id, Vec<Entry>), Error>>;

/// Stores blobs. If it is dropped without [`Blobs::finish`], nothing refers to the stored blobs, and the next prune
/// removes them.
pub struct Blobs {
    locked: Locked,
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
    /// Whether it is all zeros.
    pub fn is_zeros(&self) -> bool {
        matches!(self.body, Body::Zeros)
    }

    /// Length of its contents in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Blobs {
    /// A writer with up to `threads` compression threads.
    pub fn new(locked: Locked, catalog: &Arc<Catalog>, threads: usize) -> Result<Blobs, Error> {
        let repository = locked.repository().clone();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|_| "compress".to_owned())
            // A panic drops the sender of the blob, which its receiver reports as an error.
            .panic_handler(|_| {})
            .build()
            .map_err(|error| repository.system(io::Error::other(error)))?;
        Ok(Blobs {
            locked,
            repository,
            catalog: catalog.clone(),
            pool,
            data: Pack::new(BlobKind::Data),
            trees: Pack::new(BlobKind::Tree),
            uploads: VecDeque::new(),
            index: Index::default(),
            stats: Stats::default(),
        })
    }

    /// Maximum number of blobs of this size in progress at the same time.
    pub fn window(&self, size: u64) -> usize {
        (ON_WAY / usize::try_from(size.max(1)).unwrap_or(ON_WAY)).clamp(2 * self.pool.current_num_threads(), MAX_WINDOW)
    }

    /// Starts to prepare a blob with contents of a file.
    pub fn prepare(&self, bytes: Vec<u8>) -> Preparing {
        let (done, prepared) = mpsc::sync_channel(1);
        let (repository, catalog) = (self.repository.clone(), self.catalog.clone());
        self.pool.spawn(move || {
            // The receiver no longer exists if an earlier blob failed.
            let _ = done.send(prepare(&repository, &catalog, &bytes));
        });
        prepared
    }

    /// Waits until a blob is prepared.
    pub fn wait(&self, preparing: &Preparing) -> Result<Prepared, Error> {
        let ended = || self.repository.system(io::Error::other("a compression thread panicked"));
        preparing.recv().unwrap_or_else(|_| Err(ended()))
    }

    /// Stores a blob unless it is already stored; returns its ID.
    pub fn store(&mut self, prepared: &Prepared) -> Result<Id, Error> {
        if let Body::New(sealed, raw) = &prepared.body {
            self.add(BlobKind::Data, prepared.id, (sealed, *raw), prepared.length)?;
        }
        Ok(prepared.id)
    }

    /// Stores contents that are short or all zeros; returns the ID.
    pub fn store_now(&mut self, bytes: &[u8]) -> Result<Id, Error> {
        let prepared = match is_zero(bytes) {
            true => seal(&self.repository, &self.catalog, Id::of(bytes), bytes)?,
            false => prepare(&self.repository, &self.catalog, bytes)?,
        };
        self.store(&prepared)
    }

    /// Stores a directory; returns its ID.
    pub fn store_tree(&mut self, tree: &Tree) -> Result<Id, Error> {
        let system = |source| self.repository.system(source);
        let mut out = zstd::stream::Encoder::new(Vec::new(), format::LEVEL).map_err(system)?;
        let (id, length) = tree.write(&mut out).map_err(system)?;
        if !self.catalog.contains(BlobKind::Tree, &id)? {
            let packed = out.finish().map_err(system)?;
            let sealed = self.repository.key().seal(&packed).map_err(system)?;
            let raw = u32::try_from(length).map_err(|_| self.repository.invalid("a directory has too many entries"))?;
            self.add(BlobKind::Tree, id, (&sealed, Some(raw)), length)?;
        }
        Ok(id)
    }

    /// Waits until all packs are durable, then stores the index that lists them.
    pub fn finish(&mut self) -> Result<(), Error> {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            self.end_pack(kind)?;
        }
        self.wait_uploads(0)?;
        self.save_index()
    }

    fn save_index(&mut self) -> Result<(), Error> {
        self.index.take().map_or(Ok(()), |index| self.locked.save(Kind::Index, &index).map(drop))
    }

    /// Counts of the blobs stored so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn add(&mut self, kind: BlobKind, id: Id, (sealed, raw): (&[u8], Option<u32>), length: u64) -> Result<(), Error> {
        // Another blob in progress may have had the same contents.
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

    /// Starts to write a pack.
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

    /// Waits until at most `left` packs are being written. Adds the durable ones to the index.
    fn wait_uploads(&mut self, left: usize) -> Result<(), Error> {
        while self.uploads.len() > left {
            let Some(upload) = self.uploads.pop_front() else { break };
            let ended = |_| Err(self.repository.system(io::Error::other("a writing thread panicked")));
            let (pack, entries) = upload.join().unwrap_or_else(ended)?;
            self.index.add(pack, &entries);
        }
        if self.index.blobs() >= index::FULL { self.save_index() } else { Ok(()) }
    }
}

impl Drop for Blobs {
    /// Waits for pending writes, so that nothing is written afterwards.
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
    let packed = format::compress(bytes).map_err(system)?;
    let is_smaller = packed.len() < bytes.len();
    let sealed = repository.key().seal(if is_smaller { &packed } else { bytes }).map_err(system)?;
    let raw = if is_smaller {
        Some(u32::try_from(length).map_err(|_| repository.invalid("a blob is too large"))?)
    } else {
        None
    };
    Ok(Prepared { id, length, body: Body::New(sealed, raw) })
}
