//! Reads and writes index objects, which list the blobs of packs. Must not keep one in memory longer than reading or
//! writing it takes.

use serde::{Deserialize, Serialize};

use super::pack::Entry;
use super::{BlobKind, Error, Id, Kind, Repository};

/// Approximate number of blobs in one index object; restic writes as many.
pub const FULL: usize = 50_000;

/// The contents of an index object.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Stored {
    packs: Vec<StoredPack>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPack {
    id: Id,
    blobs: Vec<StoredBlob>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredBlob {
    id: Id,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uncompressed_length: Option<u32>,
}

/// An index object that is being filled.
#[derive(Debug, Default)]
pub struct Index {
    stored: Stored,
    blobs: usize,
}

impl Index {
    /// Adds a durable pack.
    pub fn add(&mut self, pack: Id, entries: &[Entry]) {
        let blob = |entry: &Entry| StoredBlob {
            id: entry.id,
            kind: entry.kind,
            offset: entry.offset,
            length: entry.length,
            uncompressed_length: entry.raw,
        };
        self.stored.packs.push(StoredPack { id: pack, blobs: entries.iter().map(blob).collect() });
        self.blobs += entries.len();
    }

    /// Number of blobs.
    pub fn blobs(&self) -> usize {
        self.blobs
    }

    /// The contents of the index object, unless it is empty. Starts the next one.
    pub fn take(&mut self) -> Option<Stored> {
        let Index { stored, blobs } = std::mem::take(self);
        (blobs > 0).then_some(stored)
    }

    /// Stores the index object without a lock.
    #[cfg(test)]
    pub fn save(&mut self, repository: &Repository) -> Result<(), Error> {
        self.take().map_or(Ok(()), |stored| repository.save(Kind::Index, &stored).map(drop))
    }
}

/// Passes every blob of an index object to `visit`, with its pack.
pub fn read<E: From<Error>>(
    repository: &Repository,
    id: Id,
    visit: &mut dyn FnMut(Id, Entry) -> Result<(), E>,
) -> Result<(), E> {
    let stored: Stored = repository.load(Kind::Index, id)?;
    for pack in stored.packs {
        for blob in pack.blobs {
            let StoredBlob { id, kind, offset, length, uncompressed_length: raw } = blob;
            visit(pack.id, Entry { kind, id, offset, length, raw })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Restic;
    use super::*;

    #[test]
    fn our_index_and_that_of_restic_list_the_blobs_of_the_packs() {
        let restic = Restic::new();
        restic.run(&["init", "--repository-version", "2"]);
        std::fs::write(restic.path("file"), [7; 100_000]).unwrap();
        restic.run(&["backup", "file"]);
        let repository = Repository::open(restic.place(), Restic::PASSWORD).unwrap();
        let indexes = repository.list(Kind::Index).unwrap();
        let mut found = Vec::new();
        let mut visit = |pack, entry| {
            found.push((pack, entry));
            Ok::<(), Error>(())
        };
        indexes.iter().for_each(|(id, _)| read(&repository, *id, &mut visit).unwrap());
        let mut packs: Vec<Id> = found.iter().map(|(pack, _)| *pack).collect();
        packs.dedup();
        let mut ours = Index::default();
        ours.save(&repository).unwrap();
        for pack in packs {
            let mut entries: Vec<Entry> = found.iter().filter(|found| found.0 == pack).map(|found| found.1).collect();
            entries.sort_by_key(|entry| entry.offset);
            assert_eq!(super::super::pack::header::read_header(&repository, pack).unwrap(), entries);
            ours.add(pack, &entries);
        }
        assert!(ours.blobs() == found.len() && found.len() >= 2);
        // restic accepts our index in place of its own.
        indexes.iter().for_each(|(id, _)| repository.remove(super::super::Object::new(Kind::Index, *id)).unwrap());
        ours.save(&repository).unwrap();
        assert_eq!((repository.list(Kind::Index).unwrap().len(), ours.blobs()), (1, 0));
        restic.run(&["check", "--read-data"]);
    }
}
