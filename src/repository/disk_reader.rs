//! Reads a disk of a restore point: its size, its extents, and all of its data or any range. Must not write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::fetch::Fetcher;
use super::format::zero_id;
use super::stream::{BlobStream, Piece};
use super::tree::Node;
use super::{BlobKind, Error, Id, Kind, Object, Sink};
use crate::model::Extent;
use crate::sys::signals::Cancel;

/// Limit of decoded blobs that are kept for random reads, in bytes.
const KEPT: usize = 32 << 20;

/// A disk or any other file, as its blobs.
pub struct SnapshotDisk {
    fetcher: Fetcher,
    cancel: Cancel,
    name: String,
    size: u64,
    /// Blobs that are not all zeros.
    pieces: Vec<Piece>,
    extents: Vec<Extent>,
    kept: Mutex<VecDeque<(Id, Arc<Vec<u8>>)>>,
}

impl SnapshotDisk {
    /// Opens a file and looks up the length of every blob.
    ///
    /// # Errors
    /// Damage; [`Error::Suspect`] if the blobs together do not have the length of the file.
    pub(super) fn open(
        fetcher: &Fetcher,
        cancel: &Cancel,
        (point, name): (Id, &str),
        node: &Node,
    ) -> Result<SnapshotDisk, Error> {
        let (mut pieces, mut extents) = (Vec::new(), Vec::<Extent>::new());
        let (mut offset, mut last) = (0_u64, None);
        let mut zeros = Zeros::default();
        for id in node.content.iter().flatten() {
            let length = match last {
                Some((known, length)) if known == *id => length,
                _ => fetcher.locate(BlobKind::Data, *id)?.1.raw_length(),
            };
            last = Some((*id, length));
            if !zeros.is(*id, length) {
                pieces.push(Piece { offset, length, id: *id });
                match extents.last_mut() {
                    Some(extent) if extent.end() == offset => extent.length += u64::from(length),
                    _ if length == 0 => {}
                    _ => extents.push(Extent { offset, length: length.into() }),
                }
            }
            // A file has at most 4 million blobs, whose lengths have 32 bits.
            offset = offset.saturating_add(length.into());
        }
        if offset != node.size {
            let what = format!("{name} has {} bytes, but its blobs have {offset}", node.size);
            let (place, object) = (fetcher.repository().location(), Object::new(Kind::Snapshot, point));
            return Err(Error::Suspect { place, object, what });
        }
        let (fetcher, cancel, name) = (fetcher.clone(), cancel.clone(), name.to_owned());
        Ok(SnapshotDisk { fetcher, cancel, name, size: node.size, pieces, extents, kept: Mutex::default() })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges that may contain bytes other than zero: ascending, disjoint.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Passes all data to `sink` in ascending order, in whole blobs. Decodes on several cores.
    ///
    /// # Errors
    /// Those of `sink`; damage.
    pub fn read<E: From<Error>>(&self, sink: &mut Sink<'_, E>) -> Result<(), E> {
        BlobStream::new(&self.fetcher, &self.cancel)?.copy(self.pieces.iter().copied(), sink)
    }

    /// Reads any range of the disk. Every byte is checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a range outside the disk; damage.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let outside =
            || self.fetcher.repository().invalid(format!("{} lacks the {} bytes at {offset}", self.name, out.len()));
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size).ok_or_else(outside)?;
        out.fill(0);
        let first = self.pieces.partition_point(|piece| piece.offset + u64::from(piece.length) <= offset);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.offset < end) {
            if let Some(signal) = self.cancel.signal() {
                return Err(Error::Stopped { signal });
            }
            let blob = self.blob(piece.id)?;
            let (from, until) = (piece.offset.max(offset), (piece.offset + u64::from(piece.length)).min(end));
            // All offsets are within the range and the blob, which fit in memory.
            let part = &mut out[(from - offset) as usize..(until - offset) as usize];
            part.copy_from_slice(&blob[(from - piece.offset) as usize..(until - piece.offset) as usize]);
        }
        Ok(())
    }

    fn blob(&self, id: Id) -> Result<Arc<Vec<u8>>, Error> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, blob)) = kept().iter().find(|(known, _)| *known == id) {
            return Ok(blob.clone());
        }
        // The blob was checked, so it has the length in the index.
        let blob = Arc::new(self.fetcher.blob(BlobKind::Data, id)?);
        let mut kept = kept();
        kept.push_back((id, blob.clone()));
        while kept.len() > 1 && kept.iter().map(|(_, blob)| blob.len()).sum::<usize>() > KEPT {
            kept.pop_front();
        }
        Ok(blob)
    }
}

/// Recognizes the IDs of blobs of zeros, for the few lengths of blobs that disks have.
#[derive(Default)]
struct Zeros(Vec<(u32, Id)>);

impl Zeros {
    /// Maximum number of remembered lengths. A file with more is not ours, and its zeros are read like other data.
    const MAX: usize = 16;

    fn is(&mut self, id: Id, length: u32) -> bool {
        match self.0.iter().find(|(known, _)| *known == length) {
            Some((_, zeros)) => *zeros == id,
            None if self.0.len() < Zeros::MAX => {
                let zeros = zero_id(length.into());
                self.0.push((length, zeros));
                zeros == id
            }
            None => false,
        }
    }
}
