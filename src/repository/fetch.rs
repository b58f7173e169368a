//! Reads blobs: locates, decrypts, decompresses and checks them. Must not know to which file a blob belongs.

use std::sync::Arc;

use super::catalog::Catalog;
use super::crypto::OVERHEAD;
use super::pack::Entry;
use super::tree::{self, Tree};
use super::{BlobKind, Corruption, Error, Id, Kind, Object, Repository, format};

/// Limit of a data blob in bytes; restic cuts files into blobs of up to 8 MiB.
pub const MAX_DATA: u32 = 16 << 20;

/// Limit of stored bytes that are read at once.
const AT_ONCE: u32 = 4 << 20;

/// Reads blobs. Clones share the repository and the catalog.
#[derive(Debug, Clone)]
pub struct Fetcher {
    repository: Repository,
    catalog: Arc<Catalog>,
}

/// Consecutive blobs of one pack, which are read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pack: Id,
    entries: Vec<Entry>,
}

impl Segment {
    /// A segment of one blob.
    pub fn new(pack: Id, entry: Entry) -> Segment {
        Segment { pack, entries: vec![entry] }
    }

    /// Adds a blob if it follows the last one and the segment does not become too large; returns whether it was added.
    pub fn extend(&mut self, pack: Id, entry: Entry) -> bool {
        let follows =
            self.entries.last().is_some_and(|last| last.offset.checked_add(last.length) == Some(entry.offset));
        let stored = self.stored_bytes().saturating_add(entry.length.into());
        let raw = self.entries.iter().map(Entry::raw_length).fold(entry.raw_length(), u32::saturating_add);
        let fits = follows && pack == self.pack && stored <= AT_ONCE.into() && raw <= 2 * AT_ONCE;
        if fits {
            self.entries.push(entry);
        }
        fits
    }

    /// Its blobs, in order.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// Length in the pack in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.length)).sum()
    }
}

impl Fetcher {
    /// A reader of the blobs in this catalog.
    pub fn new(repository: &Repository, catalog: &Arc<Catalog>) -> Fetcher {
        Fetcher { repository: repository.clone(), catalog: catalog.clone() }
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The pack of a blob and its place there, if the index has it.
    pub fn find(&self, kind: BlobKind, id: Id) -> Result<Option<(Id, Entry)>, Error> {
        self.catalog.find(kind, &id)
    }

    /// Whether a blob is stored, or was added since the catalog was opened.
    pub fn contains(&self, kind: BlobKind, id: Id) -> Result<bool, Error> {
        self.catalog.contains(kind, &id)
    }

    /// Pack and position of a blob.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]; damage, if an index contains impossible values.
    pub fn locate(&self, kind: BlobKind, id: Id) -> Result<(Id, Entry), Error> {
        let missing = || Error::MissingBlob { place: self.repository.location(), kind, id };
        let (pack, entry) = self.catalog.find(kind, &id)?.ok_or_else(missing)?;
        let limit = match kind {
            BlobKind::Data => MAX_DATA,
            BlobKind::Tree => tree::MAX_BYTES as u32,
        };
        let is_possible =
            entry.length >= OVERHEAD as u32 && entry.raw_length() <= limit && entry.length <= limit + (1 << 20);
        if is_possible {
            Ok((pack, entry))
        } else {
            Err(self.damaged(pack, &entry, Corruption::TooLarge { limit: limit.into() }))
        }
    }

    /// The contents or the error of each blob of a segment.
    pub fn read(&self, segment: &Segment) -> Vec<Result<Vec<u8>, Error>> {
        let pack = segment.pack;
        let one = |entry: &Entry| {
            let start = u64::from(entry.offset);
            let stored = self.repository.read(Object::new(Kind::Pack, pack), start..start + u64::from(entry.length))?;
            self.open(pack, entry, stored)
        };
        let start = segment.entries.first().map_or(0, |entry| u64::from(entry.offset));
        let object = Object::new(Kind::Pack, pack);
        match self.repository.read(object, start..start + segment.stored_bytes()) {
            Ok(stored) => {
                let mut rest = stored.as_slice();
                let opened = segment.entries.iter().map(|entry| {
                    let (blob, behind) = rest.split_at_checked(entry.length as usize).unwrap_or_default();
                    rest = behind;
                    self.open(pack, entry, blob.to_vec())
                });
                opened.collect()
            }
            // The pack may be truncated, so that only its last blobs are lost.
            Err(error) if error.is_damage() && segment.entries.len() > 1 => segment.entries.iter().map(one).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// The contents of a blob.
    pub fn blob(&self, kind: BlobKind, id: Id) -> Result<Vec<u8>, Error> {
        let (pack, entry) = self.locate(kind, id)?;
        let read = self.read(&Segment::new(pack, entry)).pop();
        read.unwrap_or_else(|| Err(self.damaged(pack, &entry, Corruption::Short)))
    }

    /// A directory.
    pub fn tree(&self, id: Id) -> Result<Tree, Error> {
        let (pack, entry) = self.locate(BlobKind::Tree, id)?;
        let start = u64::from(entry.offset);
        let object = Object::new(Kind::Pack, pack);
        let stored = self.repository.read(object, start..start + u64::from(entry.length))?;
        let read = self.repository.key().open(stored).and_then(|packed| match entry.raw {
            Some(_) => {
                let decoder = zstd::stream::read::Decoder::with_buffer(packed.as_slice());
                Tree::read(decoder.map_err(Corruption::Decompress)?, id)
            }
            None => Tree::read(packed.as_slice(), id),
        });
        read.map_err(|damage| self.damaged(pack, &entry, damage))
    }

    fn open(&self, pack: Id, entry: &Entry, stored: Vec<u8>) -> Result<Vec<u8>, Error> {
        let contents = self.repository.key().open(stored).and_then(|packed| {
            let contents = match entry.raw {
                Some(raw) => format::decompress_exactly(&packed, raw as usize)?,
                None => packed,
            };
            format::check_name(entry.id, &contents).map(|()| contents)
        });
        contents.map_err(|damage| self.damaged(pack, entry, damage))
    }

    fn damaged(&self, pack: Id, entry: &Entry, source: Corruption) -> Error {
        let (place, pack) = (self.repository.location(), Object::new(Kind::Pack, pack));
        Error::DamagedBlob { place, kind: entry.kind, id: entry.id, pack, source }
    }
}
