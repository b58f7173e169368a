//! Reads a restore point of any kind. Must not write or choose destinations.
//!
//! Only [`PointReader`] distinguishes the kinds of restore points.

use std::collections::BTreeSet;
use std::path::Path;

use super::archives::{self, Archived};
use super::script::Script;
use super::snapshots::{self, SavedSnapshot};
use super::{Contents, DOMAIN_INACTIVE_XML, DOMAIN_MIGRATABLE_XML, DOMAIN_XML, Error, Manifest, Sink};
use crate::model::{Extent, Sample};

/// A restore point opened for reading.
pub struct PointReader(Source);

enum Source {
    Archive(Archived),
    Script(Script),
    Snapshot(Box<SavedSnapshot>),
}

/// Selects one of the saved definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// Of the running guest.
    Live,
    /// For the next start.
    Inactive,
    /// For other hosts.
    Migratable,
}

impl Definition {
    /// Name of its member.
    pub fn member(self) -> &'static str {
        match self {
            Definition::Live => DOMAIN_XML,
            Definition::Inactive => DOMAIN_INACTIVE_XML,
            Definition::Migratable => DOMAIN_MIGRATABLE_XML,
        }
    }
}

impl PointReader {
    pub(super) fn archive(archive: Archived) -> PointReader {
        PointReader(Source::Archive(archive))
    }

    pub(super) fn script(script: Script) -> PointReader {
        PointReader(Source::Script(script))
    }

    pub(super) fn snapshot(snapshot: SavedSnapshot) -> PointReader {
        PointReader(Source::Snapshot(Box::new(snapshot)))
    }

    /// The manifest; `None` for points of the legacy script. Reads no disk data.
    pub fn manifest(&self) -> Result<Option<Manifest>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.manifest().map(Some),
            Source::Script(_) => Ok(None),
            Source::Snapshot(snapshot) => snapshot.manifest().map(Some),
        }
    }

    /// The contents of the point. Reads an archive of the legacy script to its end, because its checksum is there.
    pub fn contents(&self) -> Result<Contents, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.contents(),
            Source::Script(script) => script.contents(),
            Source::Snapshot(snapshot) => snapshot.contents(),
        }
    }

    /// A definition; `None` if an archive of the legacy script lacks it.
    pub fn definition(&self, which: Definition) -> Result<Option<String>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.definition(which).map(Some),
            Source::Script(script) => script.definition(which),
            Source::Snapshot(snapshot) => snapshot.definition(which).map(Some),
        }
    }

    /// Total bytes that [`PointReader::verify`] will report; 0 if unknown.
    pub fn stored_bytes(&self) -> u64 {
        match &self.0 {
            Source::Archive(archived) => archived.stored_bytes(),
            Source::Script(_) | Source::Snapshot(_) => 0,
        }
    }

    /// Bytes before compression; `None` if unknown without reading everything, and in a repository.
    pub fn unpacked_bytes(&self) -> Option<u64> {
        match &self.0 {
            Source::Archive(archived) => Some(archived.unpacked_bytes()),
            // What a snapshot added to a repository says nothing about how well its contents compress.
            Source::Script(_) | Source::Snapshot(_) => None,
        }
    }

    /// Reads and checks every byte and returns all damage found. `progress` receives the bytes read since its last
    /// call.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        match &self.0 {
            Source::Archive(archived) => archived.verify(progress),
            Source::Script(script) => script.verify(progress),
            Source::Snapshot(snapshot) => snapshot.verify(progress),
        }
    }

    /// Reads and checks the structure of the point and a sample of its data. `progress` is that of
    /// [`PointReader::verify`]. `None` if this kind of point can only be checked as a whole.
    pub fn sample(&self, sample: Sample, progress: &mut dyn FnMut(u64)) -> Option<Sampled> {
        match &self.0 {
            Source::Archive(archived) => archived.sample(sample, progress),
            // One compressed stream with its only checksum at the end.
            Source::Script(_) => None,
            Source::Snapshot(snapshot) => Some(snapshot.sample(sample, progress)),
        }
    }

    /// The first `length` bytes of a file, or all of a shorter one.
    pub fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.head(name, length),
            Source::Script(script) => script.head(name, length),
            Source::Snapshot(snapshot) => snapshot.head(name, length),
        }
    }

    /// Whether a file of this host matches the checksum of a file in the point.
    pub fn is_same(&self, name: &str, path: &Path) -> Result<bool, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.is_same(name, path),
            Source::Script(_) => Ok(false),
            Source::Snapshot(snapshot) => snapshot.is_same(name, path),
        }
    }

    /// Passes each of these files to `visit`, in the order that is fastest to read.
    ///
    /// # Errors
    /// Errors of `visit`; damage. Only after `Ok` are the bytes known to be correct.
    pub fn files<E: From<Error>>(
        &self,
        names: &BTreeSet<&str>,
        visit: &mut dyn FnMut(&str, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.0 {
            Source::Archive(archived) => archived.files(names, visit),
            Source::Script(script) => script.files(names, visit),
            Source::Snapshot(snapshot) => snapshot.files(names, visit),
        }
    }

    /// Passes every file to `visit`, in stored order; disks are passed as stored.
    ///
    /// # Errors
    /// As for [`PointReader::files`].
    pub fn each<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(&Entry, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.0 {
            Source::Archive(archived) => archived.each(visit),
            Source::Script(script) => script.each(visit),
            Source::Snapshot(snapshot) => snapshot.each(visit),
        }
    }

    /// A disk, as the guest sees it. Fails for a disk that is stored as its original image (see [`Contents`]).
    pub fn disk(&self, member: &str) -> Result<DiskReader, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.disk(member).map(|disk| DiskReader(InnerDisk::Archive(disk))),
            Source::Script(script) => Err(script.no_disk(member)),
            Source::Snapshot(snapshot) => snapshot.disk(member).map(|disk| DiskReader(InnerDisk::Snapshot(disk))),
        }
    }
}

/// The result of reading a sample of a point.
#[derive(Debug)]
pub struct Sampled {
    /// All damage that was found.
    pub damages: Vec<Error>,
    /// Stored bytes of the data that was read.
    pub read_bytes: u64,
    /// Stored bytes of all data of the point.
    pub data_bytes: u64,
}

/// Name and length of a file in a restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in the restore point.
    pub name: String,
    /// Length in bytes, according to the point.
    pub length: u64,
}

impl Entry {
    /// The last component of the name.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Reads a file of a restore point from start to end.
pub struct FileReader<'a>(&'a mut dyn FnMut(&mut [u8]) -> Result<usize, Error>);

impl<'a> FileReader<'a> {
    pub(super) fn new(read: &'a mut dyn FnMut(&mut [u8]) -> Result<usize, Error>) -> FileReader<'a> {
        FileReader(read)
    }

    /// Reads the next bytes; 0 at the end. They must not be trusted before [`PointReader::files`] returns.
    ///
    /// # Errors
    /// Damage; [`Error::Stopped`] after a signal.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        (self.0)(out)
    }
}

/// Reads a disk of a restore point.
pub struct DiskReader(InnerDisk);

enum InnerDisk {
    Archive(archives::Disk),
    Snapshot(snapshots::Disk),
}

impl DiskReader {
    /// Virtual size in bytes, rounded up to 512.
    pub fn size(&self) -> u64 {
        match &self.0 {
            InnerDisk::Archive(disk) => disk.size(),
            InnerDisk::Snapshot(disk) => disk.size(),
        }
    }

    /// The ranges that may contain nonzero bytes: ascending, disjoint.
    pub fn extents(&self) -> &[Extent] {
        match &self.0 {
            InnerDisk::Archive(disk) => disk.extents(),
            InnerDisk::Snapshot(disk) => disk.extents(),
        }
    }

    /// Passes all data to `sink` by ascending guest offset. Decodes on several cores.
    ///
    /// # Errors
    /// Errors of `sink`; damage. Only after `Ok` are the bytes known to be correct.
    pub fn read<E: From<Error>>(&self, sink: &mut Sink<'_, E>) -> Result<(), E> {
        match &self.0 {
            InnerDisk::Archive(disk) => disk.read(sink),
            InnerDisk::Snapshot(disk) => disk.read(sink),
        }
    }

    /// Reads a range anywhere on the disk. Caches at most 32 MiB of decoded data.
    ///
    /// Data of an uncompressed archive is not checked here, because its only checksum covers the whole disk.
    ///
    /// # Errors
    /// [`Error::Range`] for a range outside the disk; damage.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        match &self.0 {
            InnerDisk::Archive(disk) => disk.read_at(offset, out),
            InnerDisk::Snapshot(disk) => disk.read_at(offset, out),
        }
    }
}
