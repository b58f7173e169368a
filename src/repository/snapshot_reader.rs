//! Reads a restore point: its files, its disks, and a check of every byte. Must not choose destinations.

use std::sync::Arc;

use super::disk_reader::SnapshotDisk;
use super::fetch::{Fetcher, Segment};
use super::walk::{Files, suspect, top_file, walk};
use super::{BlobKind, Catalog, Error, Id, Repository, Snapshot};
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
    fetcher: Fetcher,
    cancel: Cancel,
    point: Id,
    files: Files,
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
        Ok(SnapshotReader { fetcher, cancel: cancel.clone(), point: id, files })
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
        let mut damages = Vec::new();
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
                return vec![Error::Stopped { signal }];
            }
            let read = std::thread::scope(|scope| {
                let threads: Vec<_> = batch.iter().map(|segment| scope.spawn(|| self.fetcher.read(segment))).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| vec![Err(ended())]))
                    .collect::<Vec<_>>()
            });
            damages.extend(read.into_iter().flatten().filter_map(Result::err));
            progress(batch.iter().map(Segment::stored_bytes).sum());
        }
        damages
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
