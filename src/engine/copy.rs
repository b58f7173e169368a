//! Owns: one disk on its way from an NBD export into an archive member, as a compact qcow2, in one pass.
//! Must not: know how the disk is held still.

use std::io;

use super::capture::Reading;
use super::{Error, Monitor};
use crate::archive::Writer;
use crate::archive::manifest::disk_member;
use crate::qcow2::Layout;
use crate::sys::signals::Cancel;
use crate::sys::step::{self, Step};

/// A disk whose extents are known, so that its member's length is too.
pub(super) struct Prepared {
    pub target: String,
    pub layout: Layout,
    pub virtual_bytes: u64,
    pub read_bytes: u64,
    reading: Reading,
}

impl Prepared {
    /// Asks for the extents of a disk.
    pub fn new(target: &str, mut reading: Reading) -> Result<Prepared, Error> {
        let extents = reading.client.extents().map_err(|source| Error::Read { target: target.to_owned(), source })?;
        let virtual_bytes = reading.client.size();
        if virtual_bytes == 0 {
            return Err(Error::Empty { target: target.to_owned() });
        }
        let layout = Layout::new(virtual_bytes, &extents)
            .map_err(|source| Error::Layout { target: target.to_owned(), source })?;
        let read_bytes = layout.data().iter().map(|extent| extent.length).sum();
        tracing::info!(disk = target, virtual_bytes, read_bytes, extents = extents.len(), "ready to read");
        Ok(Prepared { target: target.to_owned(), layout, virtual_bytes, read_bytes, reading })
    }

    /// Reads the disk into the archive. `check` is asked before every piece and may end it.
    pub fn copy(
        mut self,
        writer: &mut Writer,
        domain: &str,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        check: &mut dyn FnMut(u64) -> Result<(), Error>,
        archive_error: &dyn Fn(crate::archive::Error) -> Error,
    ) -> Result<(), Error> {
        step::reached(Step::DiskRead)
            .map_err(|error| Error::Other { message: format!("disk {}: {error}", self.target), hint: None })?;
        writer.member(&disk_member(&self.target), self.layout.length()).map_err(archive_error)?;
        let mut failed = None;
        let metadata = self.layout.write_metadata(&mut Pipe { writer, failed: &mut failed });
        if let Some(error) = failed {
            return Err(archive_error(error));
        }
        metadata.map_err(|error| Error::Other { message: error.to_string(), hint: None })?;
        let target = self.target.clone();
        let read = self.reading.client.read(self.layout.data(), |_, chunk| {
            if let Some(signal) = cancel.signal() {
                return Err(Stop::Ours(Error::Cancelled(signal)));
            }
            check(chunk.len() as u64).map_err(Stop::Ours)?;
            monitor.advance(domain, chunk.len() as u64);
            writer.write(chunk).map_err(|error| Stop::Ours(archive_error(error)))
        });
        read.map_err(|stop| match stop {
            Stop::Ours(error) => error,
            Stop::Disk(source) => Error::Read { target: target.clone(), source },
        })?;
        let zeros = vec![0; usize::try_from(self.layout.padding()).unwrap_or_default()];
        writer.write(&zeros).map_err(archive_error)?;
        self.reading.finish().map_err(|source| Error::Read { target, source })
    }
}

/// Why reading stopped: the disk's fault, or ours.
enum Stop {
    Disk(crate::nbd::Error),
    Ours(Error),
}

impl From<crate::nbd::Error> for Stop {
    fn from(error: crate::nbd::Error) -> Stop {
        Stop::Disk(error)
    }
}

/// Lets the layout write into a member; keeps the archive's own error.
struct Pipe<'a> {
    writer: &'a mut Writer,
    failed: &'a mut Option<crate::archive::Error>,
}

impl io::Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes).map(|()| bytes.len()).map_err(|error| {
            *self.failed = Some(error);
            io::ErrorKind::Other.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
