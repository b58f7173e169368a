//! Reads a restore point that is a snapshot of a repository. Must not return unchecked bytes.
//!
//! The repository is locked when data is first read, so that it is not pruned meanwhile. Listing takes no lock.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::writer::Stop;
use super::{READER_WAIT, manifest};
use crate::archive::{self, Manifest};
use crate::model::{Extent, Owner};
use crate::repository::{Catalog, Id, Repository, SharedLock, Snapshot, SnapshotDisk, SnapshotReader, Timing};
use crate::store::{
    Contents, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, Definition, Entry, Error, FileReader, SavedDisk,
    Sink,
};
use crate::sys::signals::Cancel;

/// Bytes that are read at once from a file that is not a disk.
const BUFFER: usize = 1 << 20;

pub(in crate::store) struct SavedSnapshot {
    reader: SnapshotReader,
    repository: Repository,
    snapshot: Snapshot,
    path: PathBuf,
    cancel: Cancel,
    lock: OnceLock<Option<SharedLock>>,
}

impl SavedSnapshot {
    pub(super) fn open(
        repository: &Repository,
        catalog: &Arc<Catalog>,
        (id, path): (Id, &Path),
        snapshot: Snapshot,
        cancel: &Cancel,
    ) -> Result<SavedSnapshot, Error> {
        let reader = SnapshotReader::open(repository, catalog, (id, &snapshot), cancel)?;
        let (repository, path, cancel, lock) = (repository.clone(), path.to_owned(), cancel.clone(), OnceLock::new());
        Ok(SavedSnapshot { reader, repository, snapshot, path, cancel, lock })
    }

    /// Locks the repository, unless it cannot be written: then nobody can prune it from here either.
    fn lock(&self) -> Result<(), Error> {
        if self.lock.get().is_some() {
            return Ok(());
        }
        let lock = match SharedLock::take(&self.repository, Timing::waiting(READER_WAIT), &self.cancel) {
            Ok(lock) => Some(lock),
            Err(error) if error.is_read_only() => {
                tracing::warn!("reading without a lock: {error}");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let _ = self.lock.set(lock);
        Ok(())
    }

    pub(in crate::store) fn manifest(&self) -> Result<Manifest, Error> {
        let json = self.reader.read(archive::MANIFEST)?;
        let joined = manifest::join(&json, self.snapshot.facts.as_ref(), self.snapshot.time);
        joined.map_err(Error::archive(&self.path))
    }

    pub(in crate::store) fn contents(&self) -> Result<Contents, Error> {
        let manifest = self.manifest()?;
        let disks = manifest.disks.into_iter().map(|disk| SavedDisk {
            target: disk.target,
            member: disk.member,
            source: disk.source,
            format: disk.format,
            virtual_bytes: Some(disk.virtual_bytes),
            owner: disk.owner.map(Owner::sane),
            encrypted: disk.encrypted,
        });
        let disks: Vec<SavedDisk> = disks.collect();
        let mut lengths: std::collections::BTreeMap<_, _> =
            self.reader.names().map(|(name, length)| (name.to_owned(), length)).collect();
        for disk in &disks {
            if let Some(length) = lengths.get_mut(&disk.member) {
                // What a restored image takes, which is less than the size of the disk.
                *length = self.reader.disk(&disk.member)?.extents().iter().map(|extent| extent.length).sum();
            }
        }
        let documents = [archive::MANIFEST, DOMAIN_XML, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML];
        Ok(Contents {
            location: self.path.clone(),
            domain: manifest.domain,
            disks,
            skipped: manifest.skipped.into_iter().map(|disk| (disk.target, disk.reason)).collect(),
            not_saved: manifest.not_saved.into_iter().map(|not_saved| not_saved.what).collect(),
            nvram: manifest.nvram,
            boot: manifest.boot,
            tpm: manifest.tpm,
            tpm_missing: manifest.tpm_missing,
            documents: documents.map(|name| (name.to_owned(), name.to_owned())).to_vec(),
            lengths,
        })
    }

    pub(in crate::store) fn definition(&self, which: Definition) -> Result<String, Error> {
        let name = match which {
            Definition::Live => DOMAIN_XML,
            Definition::Inactive => DOMAIN_INACTIVE_XML,
            Definition::Migratable => DOMAIN_MIGRATABLE_XML,
        };
        String::from_utf8(self.reader.read(name)?)
            .map_err(|_| Error::Suspect { path: self.path.clone(), what: format!("{name} is not UTF-8") })
    }

    pub(in crate::store) fn unpacked_bytes(&self) -> u64 {
        self.reader.names().map(|(_, length)| length).sum()
    }

    pub(in crate::store) fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        if let Err(error) = self.lock() {
            return vec![error];
        }
        self.reader.verify(progress).into_iter().map(Error::from).collect()
    }

    pub(in crate::store) fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        let file = self.reader.disk(name)?;
        let mut bytes = vec![0; usize::try_from(file.size()).unwrap_or(length).min(length)];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    pub(in crate::store) fn is_same(&self, name: &str, path: &Path) -> Result<bool, Error> {
        let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|status| status.len());
        let saved = self.reader.disk(name)?;
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
        self.lock()?;
        for name in names {
            let file = self.reader.disk(name).map_err(Error::from)?;
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
        for (name, length) in self.reader.names() {
            let entry = Entry { name: name.to_owned(), length };
            self.files(&BTreeSet::from([name]), &mut |_, contents| visit(&entry, contents))?;
        }
        Ok(())
    }

    pub(in crate::store) fn disk(&self, name: &str) -> Result<Disk, Error> {
        self.lock()?;
        let disk = self.reader.disk(name)?;
        Ok(Disk { size: disk.size().next_multiple_of(512), path: self.path.clone(), disk })
    }
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
