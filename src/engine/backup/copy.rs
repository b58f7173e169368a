//! Copies one disk from its NBD export to the store, in one pass. Must not know how the disk was captured or how it is
//! stored.

use crate::engine::Error;
use crate::engine::capture::Reading;
use crate::model::{Extent, WholeRead};
use crate::nbd;
use crate::qcow2::whole_clusters;
use crate::store::{DiskSource, Sink};

/// A disk whose extents are known.
pub(super) struct Prepared {
    pub target: String,
    pub virtual_bytes: u64,
    /// Bytes of its allocated ranges.
    pub data_bytes: u64,
    /// Bytes that were read so far.
    pub read_bytes: u64,
    /// Bytes of the ranges that changed, if these are known.
    pub changed_bytes: Option<u64>,
    extents: Vec<Extent>,
    reading: Reading,
}

impl Prepared {
    /// Queries the extents of a disk.
    pub fn new(target: &str, mut reading: Reading) -> Result<Prepared, Error> {
        let extents = reading.client.extents().map_err(|source| Error::Read { target: target.to_owned(), source })?;
        let virtual_bytes = reading.client.size();
        if virtual_bytes == 0 {
            return Err(Error::Empty { target: target.to_owned() });
        }
        let extents = whole_clusters(virtual_bytes, &extents)
            .map_err(|source| Error::Layout { target: target.to_owned(), source })?;
        let bytes = |extents: &[Extent]| extents.iter().map(|extent| extent.length).sum();
        let (data_bytes, changed_bytes) = (bytes(&extents), reading.changed.as_deref().map(bytes));
        tracing::info!(
            disk = target,
            virtual_bytes,
            data_bytes,
            ?changed_bytes,
            extents = extents.len(),
            "ready to read"
        );
        let target = target.to_owned();
        Ok(Prepared { target, virtual_bytes, data_bytes, read_bytes: 0, changed_bytes, extents, reading })
    }

    /// Why the whole disk is read, if changes are tracked at all.
    pub fn why_whole(&self) -> Option<WholeRead> {
        self.reading.why_whole
    }

    /// Closes the connection and stops its server process.
    pub fn finish(self) -> Result<(), Error> {
        self.reading.finish().map_err(|source| Error::Read { target: self.target, source })
    }
}

/// A disk whose reading stops when `may_go_on` fails. That is called before every chunk, with its length in bytes.
pub(super) struct Watched<'a> {
    pub disk: Prepared,
    pub may_go_on: &'a mut dyn FnMut(u64) -> Result<(), Error>,
}

impl DiskSource for Watched<'_> {
    type Error = Error;

    fn size(&self) -> u64 {
        self.disk.virtual_bytes
    }

    fn extents(&mut self) -> Vec<Extent> {
        std::mem::take(&mut self.disk.extents)
    }

    fn changed(&mut self) -> Option<Vec<Extent>> {
        self.disk.reading.changed.take()
    }

    fn read(&mut self, extents: &[Extent], sink: &mut Sink<'_, Error>) -> Result<(), Error> {
        let read_bytes = &mut self.disk.read_bytes;
        let read = self.disk.reading.client.read(extents, |offset, chunk| {
            (self.may_go_on)(chunk.len() as u64).map_err(Stop::Ours)?;
            *read_bytes += chunk.len() as u64;
            sink(offset, chunk).map_err(Stop::Ours)
        });
        read.map_err(|stop| match stop {
            Stop::Ours(error) => error,
            Stop::Disk(source) => Error::Read { target: self.disk.target.clone(), source },
        })
    }
}

/// Why reading stopped: an error of the disk, or one of the sink or of `may_go_on`.
enum Stop {
    Disk(nbd::Error),
    Ours(Error),
}

impl From<nbd::Error> for Stop {
    fn from(error: nbd::Error) -> Stop {
        Stop::Disk(error)
    }
}
