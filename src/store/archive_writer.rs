//! Writes a restore point as an archive. Must not know how a disk is kept consistent.

use std::io;

use super::partial::Partial;
use super::{DiskSource, Error, Manifest, Point};
use crate::archive::{self, Writer};
use crate::model::{Codec, PointId};
use crate::qcow2::Layout;
use crate::sys::patience::Patience;
use crate::sys::step::{self, Step};

/// Read buffer in bytes.
const BUFFER: usize = 256 << 10;

/// An archive that is being written.
pub(super) struct ArchiveWriter {
    partial: Partial,
    codec: Codec,
    threads: usize,
    patience: Patience,
    writer: Option<Writer>,
}

impl ArchiveWriter {
    pub(super) fn new(partial: Partial, codec: Codec, threads: usize, patience: &Patience) -> ArchiveWriter {
        ArchiveWriter { partial, codec, threads, patience: patience.clone(), writer: None }
    }

    pub(super) fn id(&self) -> PointId {
        self.partial.id()
    }

    /// Starts the archive with its manifest.
    pub(super) fn manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let writer = Writer::patient(self.partial.file()?, self.codec, self.threads, &self.patience);
        let begun = writer.and_then(|mut writer| {
            writer.add(archive::MANIFEST, &manifest.to_json()?)?;
            Ok(writer)
        });
        self.writer = Some(begun.map_err(|source| self.failed(source))?);
        Ok(())
    }

    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.with(|writer| writer.add(name, bytes))
    }

    /// # Errors
    /// Errors of `read`; [`archive::Error::Misuse`] for another length.
    pub(super) fn file<E: From<Error>>(
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

    pub(super) fn disk<S: DiskSource>(&mut self, name: &str, source: &mut S) -> Result<(), S::Error> {
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

    pub(super) fn commit(&mut self) -> Result<Point, Error> {
        let ended = step::reached(Step::ArchiveEnd);
        ended.map_err(|source| Error::File { action: "end", path: self.partial.path().to_owned(), source })?;
        let writer = self.writer.take().ok_or(archive::Error::Missing { member: archive::MANIFEST.to_owned() });
        writer.and_then(Writer::finish).map_err(|source| self.failed(source))?;
        self.partial.publish()
    }

    pub(super) fn discard(self) -> Result<(), Error> {
        // Stop the threads that write to the file first.
        drop(self.writer);
        self.partial.discard()
    }

    #[cfg(test)]
    pub(super) fn path(&self) -> &std::path::Path {
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
