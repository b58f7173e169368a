//! Reads a restore point: its files, its disks, and a check of every byte. Must not choose destinations.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::disk_reader::SnapshotDisk;
use super::fetch::{Fetcher, Segment};
use super::pack::Entry;
use super::walk::{Files, suspect, top_file, walk};
use super::{BlobKind, Catalog, Error, Id, Kind, Repository, Snapshot};
use crate::model::Sample;
use crate::sys::signals::Cancel;

/// Limit of a file that is read into memory, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// The contents of a small file directly in the domain's directory, without reading the other directories.
pub fn read_top_file(
    repository: &Repository,
    catalog: &Arc<Catalog>,
    (id, snapshot): (Id, &Snapshot),
    name: &str,
) -> Result<Vec<u8>, Error> {
    let fetcher = Fetcher::new(repository, catalog);
    let node = top_file(&fetcher, id, snapshot, name)?;
    small(&fetcher, SnapshotDisk::open(&fetcher, &Cancel::default(), (id, name), &node)?, name)
}

/// A restore point for reading. The caller keeps a [`SharedLock`](super::SharedLock) if the point must not be removed
/// during that time.
pub struct SnapshotReader {
    pub(super) fetcher: Fetcher,
    pub(super) cancel: Cancel,
    point: Id,
    pub(super) files: Files,
}

impl SnapshotReader {
    /// Reads the directories of a restore point. After a signal, every call fails with [`Error::Stopped`].
    pub fn open(
        repository: &Repository,
        catalog: &Arc<Catalog>,
        (id, snapshot): (Id, &Snapshot),
        cancel: &Cancel,
    ) -> Result<SnapshotReader, Error> {
        let fetcher = Fetcher::new(repository, catalog);
        let files = walk(&fetcher, id, snapshot)?;
        Ok(SnapshotReader::of(fetcher, id, files, cancel))
    }

    /// A restore point with these files.
    pub(super) fn of(fetcher: Fetcher, point: Id, files: Files, cancel: &Cancel) -> SnapshotReader {
        SnapshotReader { fetcher, cancel: cancel.clone(), point, files }
    }

    /// The names of its files with their lengths in bytes, in order. No component of a name leaves its directory.
    pub fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.files.iter().map(|(name, node)| (name.as_str(), node.size))
    }

    /// The contents of a small file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        small(&self.fetcher, self.disk(name)?, name)
    }

    /// A disk or another file, to read any part of it.
    pub fn disk(&self, name: &str) -> Result<SnapshotDisk, Error> {
        let node = self.files.files.get(name);
        let node = node.ok_or_else(|| suspect(&self.fetcher, self.point, format!("it has no file {name:?}")))?;
        SnapshotDisk::open(&self.fetcher, &self.cancel, (self.point, name), node)
    }

    /// Reads and checks every blob once; returns all damage found. `progress` receives the number of stored bytes that
    /// were read since its last call.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        self.check_all(progress).0
    }

    /// As [`SnapshotReader::verify`]; also returns the blobs that cannot be read.
    pub(super) fn check_all(&self, progress: &mut dyn FnMut(u64)) -> (Vec<Error>, HashSet<Id>) {
        let mut damages = Vec::new();
        let blobs = self.blobs(&mut damages);
        let mut lost: HashSet<Id> = damages
            .iter()
            .filter_map(|error| match error {
                Error::MissingBlob { id, .. } | Error::DamagedBlob { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        lost.extend(self.check(blobs, &mut damages, progress));
        (damages, lost)
    }

    /// Checks that every blob is in the index with a possible length, reads and checks the directories and a sample of
    /// the other blobs, and those that a lost or short pack cannot contain. Returns all damage found, the stored bytes of
    /// the blobs that were read, and those of all blobs. `progress` is that of [`SnapshotReader::verify`].
    pub fn sample(&self, sample: Sample, progress: &mut dyn FnMut(u64)) -> (Vec<Error>, u64, u64) {
        let mut damages = Vec::new();
        let mut blobs = self.blobs(&mut damages);
        let packs: HashMap<Id, u64> = match self.fetcher.repository().list(Kind::Pack) {
            Ok(packs) => packs.into_iter().collect(),
            Err(error) => return (vec![error], 0, 0),
        };
        let stored = |blobs: &[(Id, Entry)]| blobs.iter().map(|(_, entry)| u64::from(entry.length)).sum();
        let all = stored(&blobs);
        let mut picks = sample.picks(blobs.iter().filter(|(_, entry)| entry.kind == BlobKind::Data).count());
        blobs.retain(|(pack, entry)| {
            let is_picked = entry.kind == BlobKind::Tree || picks.next() == Some(true);
            let end = u64::from(entry.offset) + u64::from(entry.length);
            is_picked || packs.get(pack).is_none_or(|length| *length < end)
        });
        let read = stored(&blobs);
        self.check(blobs, &mut damages, progress);
        (damages, read, all)
    }

    /// Every blob of the point with its place, by ID. Adds missing blobs, and files whose length is wrong, to `damages`.
    fn blobs(&self, damages: &mut Vec<Error>) -> Vec<(Id, Entry)> {
        let mut blobs = Vec::new();
        let trees = self.files.trees.iter().map(|id| (BlobKind::Tree, *id));
        let contents = self.files.files.values().flat_map(|node| node.content.iter().flatten());
        let mut wanted: Vec<_> = trees.chain(contents.map(|id| (BlobKind::Data, *id))).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for (kind, id) in wanted {
            match self.fetcher.locate(kind, id) {
                Ok(found) => blobs.push(found),
                Err(error) => damages.push(error),
            }
        }
        for name in self.files.files.keys() {
            // Checks the lengths; missing blobs were found above.
            if let Err(error @ Error::Suspect { .. }) = self.disk(name).map(drop) {
                damages.push(error);
            }
        }
        blobs
    }

    /// Reads and checks blobs; returns those that cannot be read.
    fn check(
        &self,
        mut blobs: Vec<(Id, Entry)>,
        damages: &mut Vec<Error>,
        progress: &mut dyn FnMut(u64),
    ) -> HashSet<Id> {
        let mut lost = HashSet::new();
        blobs.sort_unstable_by_key(|(pack, entry)| (*pack, entry.offset));
        let mut segments = Vec::<Segment>::new();
        for (pack, entry) in blobs {
            if !segments.last_mut().is_some_and(|last| last.extend(pack, entry)) {
                segments.push(Segment::new(pack, entry));
            }
        }
        let ended = || self.fetcher.repository().system(std::io::Error::other("a verification thread panicked"));
        for batch in segments.chunks(crate::sys::host::cores()) {
            if let Some(signal) = self.cancel.signal() {
                *damages = vec![Error::Stopped { signal }];
                return lost;
            }
            let read = std::thread::scope(|scope| {
                let threads: Vec<_> = batch.iter().map(|segment| scope.spawn(|| self.fetcher.read(segment))).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| vec![Err(ended())]))
                    .collect::<Vec<_>>()
            });
            for (segment, read) in batch.iter().zip(read) {
                // One error is that of the whole segment.
                let is_lost = |at: usize| read.get(at).is_none_or(Result::is_err);
                lost.extend(segment.ids().enumerate().filter(|(at, _)| is_lost(*at)).map(|(_, id)| id));
                damages.extend(read.into_iter().filter_map(Result::err));
            }
            progress(batch.iter().map(Segment::stored_bytes).sum());
        }
        lost
    }
}

fn small(fetcher: &Fetcher, file: SnapshotDisk, name: &str) -> Result<Vec<u8>, Error> {
    if file.size() > MAX_FILE {
        return Err(fetcher.repository().invalid(format!("{name} has more than {MAX_FILE} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or_default()];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
