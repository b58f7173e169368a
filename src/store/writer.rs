//! Writes a restore point: manifest, files, disks, commit. Must not know how a disk is kept consistent.
//!
//! The manifest comes first, so that listing reads nothing else. All it says about disks is known before they are
//! read: sizes and extents are requested first.

use std::io;

use super::{Error, Manifest, Partial, Point};
use crate::archive::{self, Writer};
use crate::model::{Codec, Extent, PointId};
use crate::qcow2::Layout;
use crate::sys::patience::Patience;
use crate::sys::step::{self, Step};

/// Read buffer in bytes.
const BUFFER: usize = 256 << 10;

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

    /// Reads these ranges in order and passes each piece to `sink` with its offset.
    fn read(&mut self, extents: &[Extent], sink: &mut Sink<'_, Self::Error>) -> Result<(), Self::Error>;
}

/// A restore point that is being written. Dropping it before [`PointWriter::commit`] removes it.
pub struct PointWriter {
    partial: Partial,
    codec: Codec,
    patience: Patience,
    writer: Option<Writer>,
}

impl PointWriter {
    pub(super) fn new(partial: Partial, codec: Codec, patience: &Patience) -> PointWriter {
        PointWriter { partial, codec, patience: patience.clone(), writer: None }
    }

    /// ID of the future restore point.
    pub fn id(&self) -> PointId {
        self.partial.id()
    }

    /// Starts the archive with its manifest. Up to `threads` threads compress.
    pub fn manifest(&mut self, manifest: &Manifest, threads: usize) -> Result<(), Error> {
        let writer = Writer::patient(self.partial.file()?, self.codec, threads, &self.patience);
        let begun = writer.and_then(|mut writer| {
            writer.add(archive::MANIFEST, &manifest.to_json()?)?;
            Ok(writer)
        });
        self.writer = Some(begun.map_err(|source| self.failed(source))?);
        Ok(())
    }

    /// Adds a small file.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.with(|writer| writer.add(name, bytes))
    }

    /// Adds a file of exactly `length` bytes. `read` fills buffers until it returns 0.
    ///
    /// # Errors
    /// Errors of `read`; [`archive::Error::Misuse`] for another length.
    pub fn file<E: From<Error>>(
        &mut self,
        name: &str,
        length: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        self.with(|writer| writer.member(name, length))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match read(&mut buffer)? {
                0 => return Ok(()),
                count => self.with(|writer| writer.write(&buffer[..count]))?,
            }
        }
    }

    /// Reads a disk and adds it.
    pub fn disk<S: DiskSource>(&mut self, name: &str, source: &mut S) -> Result<(), S::Error> {
        let path = self.partial.path().to_owned();
        let layout = Layout::of_clusters(source.size(), source.extents()).map_err(|source| Error::Image {
            path: path.clone(),
            member: name.to_owned(),
            source,
        })?;
        step::reached(Step::DiskRead).map_err(|source| Error::File { action: "write a disk to", path, source })?;
        self.with(|writer| {
            writer.member(name, layout.length())?;
            layout.write_metadata(&mut Metadata(writer)).map_err(archive::Error::inside)
        })?;
        source.read(layout.data(), &mut |_, bytes| Ok(self.with(|writer| writer.write(bytes))?))?;
        // Shorter than a cluster.
        let zeros = vec![0; usize::try_from(layout.padding()).unwrap_or_default()];
        Ok(self.with(|writer| writer.write(&zeros))?)
    }

    /// Syncs and publishes the restore point. It is not visible before, and after an error it can be discarded.
    pub fn commit(&mut self) -> Result<Point, Error> {
        let ended = step::reached(Step::ArchiveEnd);
        ended.map_err(|source| Error::File { action: "end", path: self.partial.path().to_owned(), source })?;
        let writer = self.writer.take().ok_or(archive::Error::Missing { member: archive::MANIFEST.to_owned() });
        writer.and_then(Writer::finish).map_err(|source| self.failed(source))?;
        self.partial.publish()
    }

    /// Removes it. After an error it may still exist or appear later, because a call that hangs cannot be undone.
    pub fn discard(self) -> Result<(), Error> {
        // Stop the threads that write to the file first.
        drop(self.writer);
        self.partial.discard()
    }

    /// The temporary path.
    #[cfg(test)]
    pub fn path(&self) -> &std::path::Path {
        self.partial.path()
    }

    fn with(&mut self, write: impl FnOnce(&mut Writer) -> Result<(), archive::Error>) -> Result<(), Error> {
        let misuse = || archive::Error::Missing { member: archive::MANIFEST.to_owned() };
        self.writer.as_mut().ok_or_else(misuse).and_then(write).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: archive::Error) -> Error {
        Error::Archive { path: self.partial.path().to_owned(), source }
    }
}

/// Writes a layout's metadata into a member.
struct Metadata<'a>(&'a mut Writer);

impl io::Write for Metadata<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
