//! Owns: reading a restore point of any kind. Must not: write, or choose where anything goes.
//!
//! [`PointReader`] is the one place that tells the kinds of stores apart.

use std::collections::BTreeSet;
use std::path::Path;

use super::archives::{self, Archived};
use super::script::Script;
use super::{Contents, Error, Kind, Manifest, Point, Sink};
use crate::model::Extent;
use crate::sys::patience::Patience;
use crate::sys::signals::Cancel;

/// A restore point that is read.
pub struct PointReader(Source);

enum Source {
    Archive(Archived),
    Script(Script),
}

/// The domain's definition, as a restore point holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// As it was while the guest ran.
    Live,
    /// As it was for its next start.
    Inactive,
    /// For another host.
    Migratable,
}

impl PointReader {
    pub(super) fn open(point: &Point, patience: &Patience, cancel: &Cancel) -> Result<PointReader, Error> {
        Ok(PointReader(match point.kind {
            Kind::Archive => Source::Archive(Archived::open(point, patience, cancel)?),
            Kind::Script { .. } => Source::Script(Script::open(point, patience, cancel)?),
        }))
    }

    /// What kvmbackup wrote about the point; `None` for points that another program made. Reads no disk data.
    pub fn manifest(&self) -> Result<Option<Manifest>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.manifest().map(Some),
            Source::Script(_) => Ok(None),
        }
    }

    /// What the point holds. Reads a script archive to its end, because its checksum is there.
    pub fn contents(&self) -> Result<Contents, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.contents(),
            Source::Script(script) => script.contents(),
        }
    }

    /// A definition; `None` if another program made the point and left it out.
    pub fn definition(&self, which: Definition) -> Result<Option<String>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.definition(which).map(Some),
            Source::Script(script) => script.definition(which),
        }
    }

    /// Bytes that [`PointReader::verify`] reports in all; 0 if unknown.
    pub fn stored_bytes(&self) -> u64 {
        match &self.0 {
            Source::Archive(archived) => archived.stored_bytes(),
            Source::Script(_) => 0,
        }
    }

    /// Bytes before compression; `None` if only reading all of it would tell.
    pub fn unpacked_bytes(&self) -> Option<u64> {
        match &self.0 {
            Source::Archive(archived) => Some(archived.unpacked_bytes()),
            Source::Script(_) => None,
        }
    }

    /// Reads and checks every byte, and returns all damage found. `progress` gets the bytes read since its last call.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Vec<Error> {
        match &self.0 {
            Source::Archive(archived) => archived.verify(progress),
            Source::Script(script) => script.verify(progress),
        }
    }

    /// The first `length` bytes of a file, or all of it if it is shorter.
    pub fn head(&self, name: &str, length: usize) -> Result<Vec<u8>, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.head(name, length),
            Source::Script(script) => script.head(name, length),
        }
    }

    /// Whether a file of this host has the same bytes as a file of the point, as far as a checksum tells.
    pub fn is_same(&self, name: &str, path: &Path) -> Result<bool, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.is_same(name, path),
            Source::Script(_) => Ok(false),
        }
    }

    /// Hands each of these files to `visit`, in the order that the store reads fastest.
    ///
    /// # Errors
    /// Those of `visit`; damage. Only when this returns `Ok` are the bytes those that were saved.
    pub fn files<E: From<Error>>(
        &self,
        names: &BTreeSet<&str>,
        visit: &mut dyn FnMut(&str, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.0 {
            Source::Archive(archived) => archived.files(names, visit),
            Source::Script(script) => script.files(names, visit),
        }
    }

    /// Hands every file to `visit`, disks as the files that they are stored as, in the order of the store.
    ///
    /// # Errors
    /// As of [`PointReader::files`].
    pub fn each<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(&Entry, &mut FileReader<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.0 {
            Source::Archive(archived) => archived.each(visit),
            Source::Script(script) => script.each(visit),
        }
    }

    /// A disk, as the guest sees it. Not for a disk that is kept as the image it was ([`Contents`] tells).
    pub fn disk(&self, member: &str) -> Result<DiskReader, Error> {
        match &self.0 {
            Source::Archive(archived) => archived.disk(member).map(DiskReader),
            Source::Script(script) => Err(script.no_disk(member)),
        }
    }
}

/// A file of a restore point by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the restore point.
    pub name: String,
    /// Its bytes, as far as the point says.
    pub length: u64,
}

impl Entry {
    /// The last component of the name.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// A file of a restore point, from its start to its end.
pub struct FileReader<'a>(&'a mut dyn FnMut(&mut [u8]) -> Result<usize, Error>);

impl<'a> FileReader<'a> {
    pub(super) fn new(read: &'a mut dyn FnMut(&mut [u8]) -> Result<usize, Error>) -> FileReader<'a> {
        FileReader(read)
    }

    /// Reads the next bytes; 0 at the end. They are not to be trusted before [`PointReader::files`] returns.
    ///
    /// # Errors
    /// Damage; [`Error::Stopped`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        (self.0)(out)
    }
}

/// A disk of a restore point.
pub struct DiskReader(archives::Disk);

impl DiskReader {
    /// Its size as the guest sees it, in bytes, rounded up to 512.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// The ranges that may hold other bytes than zeros: ascending, disjoint.
    pub fn extents(&self) -> &[Extent] {
        self.0.extents()
    }

    /// Gives all data to `sink`, by the guest's offset, ascending. Decodes on several cores.
    ///
    /// # Errors
    /// Those of `sink`; damage. Only when this returns `Ok` are the bytes those that were saved.
    pub fn read<E: From<Error>>(&self, sink: &mut Sink<'_, E>) -> Result<(), E> {
        self.0.read(sink)
    }

    /// Reads a range anywhere on the disk. Keeps some of what it decoded in memory, at most 32 MiB.
    ///
    /// Data of an uncompressed archive is not checked here: it has no checksum but that of the whole disk.
    ///
    /// # Errors
    /// [`Error::Range`] for a range that is not on the disk; damage.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(offset, out)
    }
}
