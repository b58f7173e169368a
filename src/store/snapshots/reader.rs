//! Reads a restore point that is a snapshot of a repository. Must not return unchecked bytes.
//!
//! The repository is locked when data is first read, so that it is not pruned meanwhile. Listing takes no lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::writer::Stop;
use super::{READER_WAIT, manifest};
use crate::archive::{self, Manifest};
use crate::model::{Extent, Sample};
use crate::repository::{
    Catalog, Id, KnownSnapshots, Repository, SharedLock, Snapshot, SnapshotDisk, SnapshotReader, Timing, read_top_file,
};
use crate::store::{Contents, Definition, Entry, Error, FileReader, Sampled, Sink};
use crate::sys::signals::Cancel;

/// Bytes that are read at once from a file that is not a disk.
const BUFFER: usize = 1 << 20;

pub(in crate::store) struct SavedSnapshot {
    repository: Repository,
    cache_dir: PathBuf,
    id: Id,
    snapshot: Snapshot,
    path: PathBuf,
    cancel: Cancel,
    /// What the repository contained when the listing began: enough for the manifest, if it is not in the cache.
    known: (Arc<Catalog>, Arc<KnownSnapshots>),
    /// For what only describes the point.
    reader: OnceLock<SnapshotReader>,
    locked: OnceLock<Locked>,
}

/// A reader that was opened under the lock: before, a prune could have moved the data.
struct Locked {
    reader: SnapshotReader,
    /// `None` if the repository cannot be written. Released after the reader is gone.
    _lock: Option<SharedLock>,
}

impl SavedSnapshot {
    /// Reads nothing yet: a list of many points needs only their manifests.
    pub(super) fn new(
        (repository, known): (&Repository, (Arc<Catalog>, Arc<KnownSnapshots>)),
        cache_dir: &Path,
        (id, snapshot): (Id, Snapshot),
        path: &Path,
        cancel: &Cancel,
    ) -> SavedSnapshot {
        SavedSnapshot {
            repository: repository.clone(),
            cache_dir: cache_dir.to_owned(),
            id,
            snapshot,
            path: path.to_owned(),
            cancel: cancel.clone(),
            known,
            reader: OnceLock::new(),
            locked: OnceLock::new(),
        }
    }

    fn reader(&self) -> Result<&SnapshotReader, Error> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = read(&self.repository, &self.cache_dir, (self.id, &self.snapshot), &self.cancel)?;
        Ok(self.reader.get_or_init(|| reader))
    }

    /// Locks the repository, unless it cannot be written: then no process of this host can prune it.
    fn locked(&self) -> Result<&SnapshotReader, Error> {
        if let Some(locked) = self.locked.get() {
            return Ok(&locked.reader);
        }
        let lock = match SharedLock::take(&self.repository, Timing::waiting(READER_WAIT), &self.cancel) {
            Ok(lock) => Some(lock),
            Err(error) if error.is_read_only() => {
                tracing::warn!("reading without a lock: {error}");
                None
            }
            Err(error) => return Err(error.into()),
        };
        // It may come from the cache, and have been removed since.
        if self.repository.snapshot(self.id)?.is_none() {
            return Err(missing(&self.path));
        }
        let reader = read(&self.repository, &self.cache_dir, (self.id, &self.snapshot), &self.cancel)?;
        Ok(&self.locked.get_or_init(|| Locked { reader, _lock: lock }).reader)
    }

    pub(in crate::store) fn manifest(&self) -> Result<Manifest, Error> {
        let (listed, known) = &self.known;
        let json = match known.cache.get(&self.snapshot.tree) {
            Some(json) => json,
            None => {
                let snapshot = (self.id, &self.snapshot);
                let json = match read_top_file(&self.repository, listed, snapshot, archive::MANIFEST) {
                    Ok(json) => json,
                    // Another process may have moved it since.
                    Err(error) if !error.is_stall() => self.reader()?.read(archive::MANIFEST)?,
                    Err(error) => return Err(error.into()),
                };
                known.cache.add(self.snapshot.tree, json.clone());
                json
            }
        };
        let joined = manifest::join(&json, self.snapshot.facts.as_ref(), self.snapshot.time);
        joined.map_err(Error::archive(&self.path))
    }

    pub(in crate::store) fn contents(&self) -> Result<Contents, Error> {
        let manifest = self.manifest()?;
        let mut lengths: BTreeMap<_, _> =
            self.reader()?.names().map(|(name, length)| (name.to_owned(), length)).collect();
        for disk in &manifest.disks {
            if let Some(length) = lengths.get_mut(&disk.member) {
                // The size of a restored image, which is less than that of the disk.
                *length = self.reader()?.disk(&disk.member)?.extents().iter().map(|extent| extent.length).sum();
            }
        }
        Ok(Contents::of(&self.path, manifest, lengths))
    }

    pub(in crate::store) fn definition(&self, which: Definition) -> Result<String, Error> {
        let name = which.member();
        String::from_utf8(self.reader()?.read(name)?)
            .map_err(|_| Error::Suspect { path: self.path.clone(), what: format!("{name} is not UTF-8") })
    }

    pub(in crate::store) fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        match self.locked() {
            Ok(reader) => reader.verify(progress).into_iter().map(Error::from).collect(),
            Err(error) => vec![error],
        }
    }

    pub(in crate::store) fn sample(&self, sample: Sample, progress: &mut dyn FnMut(u64)) -> Sampled {
        match self.locked() {
            Ok(reader) => {
                let (damages, read_bytes, data_bytes) = reader.sample(sample, progress);
                Sampled { damages: damages.into_iter().map(Error::from).collect(), read_bytes, data_bytes }
            }
            Err(error) => Sampled { damages: vec![error], read_bytes: 0, data_bytes: 0 },
        }
    }

    pub(in crate::store) fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        let file = self.locked()?.disk(name)?;
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(length).min(length)];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    pub(in crate::store) fn is_same(&self, name: &str, path: &Path) -> Result<bool, Error> {
        let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|status| status.len());
        let saved = self.locked()?.disk(name)?;
        if length != Some(saved.size()) {
            return Ok(false);
        }
        let Ok(mut file) = File::open(path) else { return Ok(false) };
        let mut is_same = true;
        let (mut at, mut found) = (0, vec![0; BUFFER]);
        while is_same && at < saved.size() {
            let length = (saved.size() - at).min(BUFFER as u64) as usize;
            let mut stored = vec![0; length];
            saved.read_at(at, &mut stored)?;
            is_same = file.read_exact(&mut found[..length]).is_ok() && found[..length] == stored;
            at += length as u64;
        }
        Ok(is_same)
    }

    pub(in crate::store) fn files<E: From<Error>>(
        &self,
        names: &BTreeSet<&str>,
        visit: &mut dyn FnMut(&str, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let reader = self.locked()?;
        for name in names {
            let file = reader.disk(name).map_err(Error::from)?;
            let mut at = 0;
            let mut read = |out: &mut [u8]| {
                let length = (file.size() - at).min(out.len() as u64) as usize;
                file.read_at(at, &mut out[..length])?;
                at += length as u64;
                Ok(length)
            };
            visit(name, &mut FileReader::new(&mut read))?;
        }
        Ok(())
    }

    pub(in crate::store) fn each<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(&Entry, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (name, length) in self.reader()?.names() {
            let entry = Entry { name: name.to_owned(), length };
            self.files(&BTreeSet::from([name]), &mut |_, contents| visit(&entry, contents))?;
        }
        Ok(())
    }

    pub(in crate::store) fn disk(&self, name: &str) -> Result<Disk, Error> {
        let disk = self.locked()?.disk(name)?;
        Ok(Disk { size: disk.size().next_multiple_of(512), path: self.path.clone(), disk })
    }
}

/// The error for a restore point that does not exist.
pub(super) fn missing(path: &Path) -> Error {
    Error::File { action: "open", path: path.to_owned(), source: io::ErrorKind::NotFound.into() }
}

/// Reads the directories of a snapshot, with what the repository contains now.
fn read(
    repository: &Repository,
    cache_dir: &Path,
    snapshot: (Id, &Snapshot),
    cancel: &Cancel,
) -> Result<SnapshotReader, Error> {
    let catalog = Arc::new(Catalog::open(repository, cache_dir)?);
    Ok(SnapshotReader::open(repository, &catalog, snapshot, cancel)?)
}

/// A disk, stored as its contents.
pub(in crate::store) struct Disk {
    size: u64,
    path: PathBuf,
    disk: SnapshotDisk,
}

impl Disk {
    pub(in crate::store) fn size(&self) -> u64 {
        self.size
    }

    pub(in crate::store) fn extents(&self) -> &[Extent] {
        self.disk.extents()
    }

    pub(in crate::store) fn read<E: From<Error>>(&self, sink: &mut Sink<'_, E>) -> Result<(), E> {
        self.disk.read(&mut |offset, bytes| sink(offset, bytes).map_err(Stop::Theirs)).map_err(Stop::into_error)
    }

    pub(in crate::store) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(Error::Range { path: self.path.clone(), offset, length: out.len() as u64 })?;
        // A disk whose size is no multiple of 512 ends in zeros.
        let stored = self.disk.size().clamp(offset, end) - offset;
        let (stored, rest) = out.split_at_mut(stored as usize);
        rest.fill(0);
        Ok(self.disk.read_at(offset.min(self.disk.size()), stored)?)
    }
}
