//! Writes a restore point as a snapshot of a repository. Must not know how a disk is kept consistent.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{manifest, point};
use crate::archive;
use crate::model::{Extent, PointId};
use crate::repository::{self, Added, Disk, SnapshotWriter};
use crate::store::{DiskSource, Error, Manifest, Point};
use crate::sys::step::{self, Step};

/// Name of the file with the contents of a disk.
pub(in crate::store) fn disk_member(target: &str) -> String {
    format!("disks/{target}.raw")
}

/// A snapshot that is being written.
pub(in crate::store) struct SnapshotPoint {
    writer: Option<SnapshotWriter>,
    root: PathBuf,
    id: PointId,
    facts: Value,
}

impl SnapshotPoint {
    pub(super) fn new(writer: SnapshotWriter, root: &Path, id: PointId) -> SnapshotPoint {
        SnapshotPoint { writer: Some(writer), root: root.to_owned(), id, facts: Value::Null }
    }

    pub(in crate::store) fn id(&self) -> PointId {
        self.id
    }

    pub(in crate::store) fn manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let (json, facts) = manifest::split(manifest).map_err(Error::archive(&self.root))?;
        self.facts = facts;
        self.add(archive::MANIFEST, &json)
    }

    pub(in crate::store) fn has_previous(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.parent().is_some())
    }

    pub(in crate::store) fn note(&self) -> Option<Value> {
        self.writer.as_ref()?.parent_facts().and_then(manifest::note)
    }

    pub(in crate::store) fn leave_note(&mut self, note: Value) {
        self.facts = manifest::with_note(std::mem::take(&mut self.facts), note);
    }

    pub(in crate::store) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.writer()?.add(name, bytes)?)
    }

    pub(in crate::store) fn file<E: From<Error>>(
        &mut self,
        name: &str,
        length: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let writer = self.writer()?;
        let added = writer.file(name, length, &mut |out: &mut [u8]| read(out).map_err(Stop::Theirs));
        added.map_err(Stop::into_error)
    }

    pub(in crate::store) fn disk<S: DiskSource>(&mut self, name: &str, source: &mut S) -> Result<Added, S::Error> {
        let path = self.root.clone();
        step::reached(Step::DiskRead).map_err(|source| Error::File { action: "write a disk to", path, source })?;
        let size = source.size();
        let extents = on_disk(source.extents(), size);
        let disk = Disk { size, extents, changed: source.changed().map(|changed| on_disk(changed, size)) };
        let writer = self.writer()?;
        let added = writer.disk(name, &disk, &mut |extents, sink| {
            let read = source.read(extents, &mut |offset, bytes| {
                // A cluster at the end of the disk may be longer than the rest of the disk.
                let length = disk.size.saturating_sub(offset).min(bytes.len() as u64);
                sink(offset, &bytes[..length as usize]).map_err(Stop::into_error)
            });
            read.map_err(Stop::Theirs)
        });
        added.map_err(Stop::into_error)
    }

    pub(in crate::store) fn commit(&mut self) -> Result<Point, Error> {
        let ended = step::reached(Step::ArchiveEnd);
        ended.map_err(|source| Error::File { action: "end", path: self.root.clone(), source })?;
        let writer = self.writer.take().ok_or_else(|| self.ended())?;
        let facts = Some(std::mem::take(&mut self.facts)).filter(|facts| !facts.is_null());
        let (id, snapshot) = writer.commit(facts)?;
        Ok(point(&self.root, id, &snapshot))
    }

    /// Removes the lock. Blobs that were stored stay until the repository is pruned, or the next run uses them.
    pub(in crate::store) fn discard(mut self) -> Result<(), Error> {
        self.writer.take().map_or(Ok(()), |writer| Ok(writer.discard()?))
    }

    fn writer(&mut self) -> Result<&mut SnapshotWriter, Error> {
        let ended = self.ended();
        self.writer.as_mut().ok_or(ended)
    }

    fn ended(&self) -> Error {
        Error::File { action: "write to", path: self.root.clone(), source: io::ErrorKind::NotFound.into() }
    }
}

/// The ranges up to the end of the disk: those of a source consist of whole clusters.
fn on_disk(extents: Vec<Extent>, size: u64) -> Vec<Extent> {
    let cut = |extent: Extent| Extent { length: extent.length.min(size.saturating_sub(extent.offset)), ..extent };
    extents.into_iter().map(cut).filter(|extent| extent.length > 0).collect()
}

/// An error of the repository, or one of the caller's functions.
pub(super) enum Stop<E> {
    Ours(repository::Error),
    Theirs(E),
}

impl<E> From<repository::Error> for Stop<E> {
    fn from(error: repository::Error) -> Stop<E> {
        Stop::Ours(error)
    }
}

impl<E: From<Error>> Stop<E> {
    pub(super) fn into_error(self) -> E {
        match self {
            Stop::Ours(error) => Error::from(error).into(),
            Stop::Theirs(error) => error,
        }
    }
}
