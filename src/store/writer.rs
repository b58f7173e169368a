//! Writes a restore point of any kind: manifest, files, disks, commit. Must not know how a disk is kept consistent.
//!
//! Only [`PointWriter`] distinguishes the kinds that can be written.

use serde_json::Value;

use super::archive_writer::ArchiveWriter;
use super::snapshots::{self, SnapshotPoint};
use super::{Error, Manifest, Point};
use crate::model::{Extent, PointId};

pub use crate::repository::Added;

/// Receives bytes of a disk with their offset.
pub type Sink<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// A consistent disk that a store can read.
pub trait DiskSource {
    /// Error of a read, or of the sink.
    type Error: From<Error>;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// The ranges that may contain nonzero bytes: whole clusters, ascending, disjoint. Called once; the list is moved
    /// out because a scattered disk has millions of ranges.
    fn extents(&mut self) -> Vec<Extent>;

    /// The ranges that may differ from the same disk of the point that this one builds on, ascending; `None` if unknown.
    /// A store that keeps nothing of earlier points ignores it.
    fn changed(&mut self) -> Option<Vec<Extent>> {
        None
    }

    /// Reads these ranges in order and passes each piece to `sink` with its offset.
    fn read(&mut self, extents: &[Extent], sink: &mut Sink<'_, Self::Error>) -> Result<(), Self::Error>;
}

/// A restore point that is being written. Dropping it before [`PointWriter::commit`] removes it.
pub struct PointWriter(pub(super) Inner);

pub(super) enum Inner {
    Archive(Box<ArchiveWriter>),
    Snapshot(Box<SnapshotPoint>),
}

impl PointWriter {
    /// ID of the future restore point.
    pub fn id(&self) -> PointId {
        match &self.0 {
            Inner::Archive(archive) => archive.id(),
            Inner::Snapshot(snapshot) => snapshot.id(),
        }
    }

    /// Name of the member that contains the disk with this target name.
    pub fn disk_member(&self, target: &str) -> String {
        match &self.0 {
            Inner::Archive(_) => super::disk_member(target),
            Inner::Snapshot(_) => snapshots::disk_member(target),
        }
    }

    /// Adds the manifest, which comes first: listing an archive reads nothing else. All it says about disks is known
    /// before they are read.
    pub fn manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        match &mut self.0 {
            Inner::Archive(archive) => archive.manifest(manifest),
            Inner::Snapshot(snapshot) => snapshot.manifest(manifest),
        }
    }

    /// Whether the point builds on the previous one of its guest, so that only changed ranges must be read.
    pub fn is_incremental(&self) -> bool {
        matches!(self.0, Inner::Snapshot(_))
    }

    /// Whether there is a previous point to build on.
    pub fn has_previous(&self) -> bool {
        match &self.0 {
            Inner::Archive(_) => false,
            Inner::Snapshot(snapshot) => snapshot.has_previous(),
        }
    }

    /// The note that the backup of the previous point left with [`PointWriter::leave_note`].
    pub fn note(&self) -> Option<Value> {
        match &self.0 {
            Inner::Archive(_) => None,
            Inner::Snapshot(snapshot) => snapshot.note(),
        }
    }

    /// Keeps a note for the backup that builds on this point. An archive has no use for it.
    pub fn leave_note(&mut self, note: Value) {
        if let Inner::Snapshot(snapshot) = &mut self.0 {
            snapshot.leave_note(note);
        }
    }

    /// Adds a small file.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.0 {
            Inner::Archive(archive) => archive.add(name, bytes),
            Inner::Snapshot(snapshot) => snapshot.add(name, bytes),
        }
    }

    /// Adds a file of exactly `length` bytes. `read` fills buffers until it returns 0.
    ///
    /// # Errors
    /// Errors of `read`; another length.
    pub fn file<E: From<Error>>(
        &mut self,
        name: &str,
        length: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        match &mut self.0 {
            Inner::Archive(archive) => archive.file(name, length, read),
            Inner::Snapshot(snapshot) => snapshot.file(name, length, read),
        }
    }

    /// Reads a disk and adds it. Returns what that added to the store; `None` for an archive, whose point is all that is
    /// added.
    pub fn disk<S: DiskSource>(&mut self, name: &str, source: &mut S) -> Result<Option<Added>, S::Error> {
        match &mut self.0 {
            Inner::Archive(archive) => archive.disk(name, source).map(|()| None),
            Inner::Snapshot(snapshot) => snapshot.disk(name, source).map(Some),
        }
    }

    /// Makes the restore point durable and publishes it. It is not visible before, and after an error it can be
    /// discarded.
    pub fn commit(&mut self) -> Result<Point, Error> {
        match &mut self.0 {
            Inner::Archive(archive) => archive.commit(),
            Inner::Snapshot(snapshot) => snapshot.commit(),
        }
    }

    /// Removes it. After an error it may still exist or appear later, because a call that hangs cannot be undone.
    pub fn discard(self) -> Result<(), Error> {
        match self.0 {
            Inner::Archive(archive) => archive.discard(),
            Inner::Snapshot(snapshot) => snapshot.discard(),
        }
    }

    /// The temporary path of an archive.
    #[cfg(test)]
    pub fn path(&self) -> &std::path::Path {
        match &self.0 {
            Inner::Archive(archive) => archive.path(),
            Inner::Snapshot(_) => panic!("not an archive"),
        }
    }
}
