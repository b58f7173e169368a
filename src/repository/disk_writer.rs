//! Adds a disk to a restore point: cuts it into blobs, and reuses those of the parent that did not change. Must not
//! read a disk itself.

use std::collections::VecDeque;

use super::blobs::{Prepared, Preparing};
use super::content::{Content, blob_size};
use super::format::zero_id;
use super::{BlobKind, Error, Id, SnapshotWriter};
use crate::model::Extent;

/// Receives an offset on a disk and the bytes there.
pub type Sink<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Reads ranges of a disk in order.
pub type ReadDisk<'a, E> = dyn FnMut(&[Extent], &mut Sink<'_, E>) -> Result<(), E> + 'a;

/// Properties of a disk that are known before it is read.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Size in bytes.
    pub size: u64,
    /// The ranges that may contain bytes other than zero: ascending, disjoint, within the disk.
    pub extents: Vec<Extent>,
}

impl SnapshotWriter {
    /// Reads a disk and adds it. `read` receives the extents, and must pass their bytes to the sink in order.
    pub fn disk<E: From<Error>>(&mut self, name: &str, disk: &Disk, read: &mut ReadDisk<'_, E>) -> Result<(), E> {
        let unit = self.unit(name, disk.size)?;
        let mut cutter = Cutter {
            unit,
            size: disk.size,
            blob: Vec::new(),
            at: 0,
            writer: &mut *self,
            queue: VecDeque::new(),
            content: Content::default(),
        };
        let mut ended = 0;
        read(&disk.extents, &mut |offset, bytes| {
            ended = cutter.take(offset, bytes)?;
            Ok(())
        })?;
        let expected = disk.extents.last().map_or(0, Extent::end);
        if ended != expected {
            return Err(cutter
                .writer
                .repository
                .invalid(format!("{name}: reading ended at byte {ended} instead of {expected}"))
                .into());
        }
        let content = cutter.finish()?;
        let (ids, zero_lengths) = content.finish(unit);
        for length in zero_lengths {
            // At most 8 MiB, and stored only the first time.
            self.store_zeros(length)?;
        }
        Ok(self.insert(name, disk.size, ids)?)
    }

    fn store_zeros(&mut self, length: u64) -> Result<(), Error> {
        if self.fetcher.contains(BlobKind::Data, zero_id(length))? {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
        self.blobs.store_now(&zeros).map(drop)
    }

    /// Blob size in bytes: that of the disk in the parent, so that unchanged blobs stay the same.
    fn unit(&self, name: &str, size: u64) -> Result<u64, Error> {
        let too_large = || self.repository.invalid(format!("{name} is too large: {size} bytes"));
        let usual = blob_size(size).ok_or_else(too_large)?;
        let before = self.parent.as_ref().and_then(|parent| parent.files.files.get(name));
        let is_unit = |length: &u64| length.is_power_of_two() && (64 << 10..=8 << 20).contains(length);
        let zeros = [8 << 20, 512 << 10].map(zero_id);
        let first = before.and_then(|before| before.content.iter().flatten().find(|id| !zeros.contains(id)));
        let length = first
            .and_then(|id| self.fetcher.locate(BlobKind::Data, *id).ok())
            .map(|(_, entry)| entry.raw_length().into());
        // With this size, a disk that has grown much would have too many blobs.
        Ok(length.filter(is_unit).filter(|unit| size / unit < super::tree::MAX_BLOBS as u64).unwrap_or(usual))
    }
}

/// Cuts the data of a disk into blobs.
struct Cutter<'a> {
    unit: u64,
    size: u64,
    /// The blob that is being filled; it starts at [`Cutter::at`].
    blob: Vec<u8>,
    at: u64,
    writer: &'a mut SnapshotWriter,
    queue: VecDeque<Slot>,
    content: Content,
}

/// A part of the disk, in order.
enum Slot {
    Zeros(u64),
    Blob(Preparing),
}

impl Cutter<'_> {
    /// Takes the next bytes; returns the offset of their end.
    fn take(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<u64, Error> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size && offset >= self.filled());
        let end =
            end.ok_or_else(|| self.writer.repository.invalid("data of a disk is out of order or beyond its end"))?;
        while !bytes.is_empty() {
            let start = offset - offset % self.unit;
            if start != self.at {
                self.flush()?;
                self.skip_to(start)?;
            }
            // Smaller than a unit.
            let before = (offset - start) as usize;
            let room = (self.length_at(start) as usize).saturating_sub(before);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.blob.reserve_exact((self.unit as usize).saturating_sub(self.blob.len()));
            self.blob.resize(before, 0);
            self.blob.extend_from_slice(now);
            offset += now.len() as u64;
            bytes = rest;
            if now.len() == room {
                self.flush()?;
            }
        }
        Ok(end)
    }

    /// Offset of the end of the bytes that were taken.
    fn filled(&self) -> u64 {
        self.at + self.blob.len() as u64
    }

    /// Length in bytes of the blob that starts here.
    fn length_at(&self, start: u64) -> u64 {
        self.unit.min(self.size - start)
    }

    /// Starts to prepare the blob, padded with zeros.
    fn flush(&mut self) -> Result<(), Error> {
        if self.blob.is_empty() {
            return Ok(());
        }
        let length = self.length_at(self.at);
        let mut blob = std::mem::take(&mut self.blob);
        blob.resize(length as usize, 0);
        self.at += length;
        let slot = Slot::Blob(self.writer.blobs.prepare(blob));
        self.push(slot)
    }

    /// Adds zeros up to `start`; this range is not read.
    fn skip_to(&mut self, start: u64) -> Result<(), Error> {
        let zeros = start - self.at;
        self.at = start;
        if zeros > 0 { self.push(Slot::Zeros(zeros)) } else { Ok(()) }
    }

    fn push(&mut self, slot: Slot) -> Result<(), Error> {
        self.queue.push_back(slot);
        self.drain(self.writer.blobs.window(self.unit))
    }

    /// Stores parts of the queue until only `left` are in it.
    fn drain(&mut self, left: usize) -> Result<(), Error> {
        while self.queue.len() > left {
            match self.queue.pop_front() {
                Some(Slot::Zeros(length)) => self.content.push_zeros(length),
                Some(Slot::Blob(preparing)) => {
                    let prepared: Prepared = self.writer.blobs.wait(&preparing)?;
                    if prepared.is_zeros() {
                        self.content.push_zeros(prepared.length());
                    } else {
                        let id: Id = self.writer.blobs.store(&prepared)?;
                        self.content.push(id, prepared.length(), self.unit);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Content, Error> {
        self.flush()?;
        self.skip_to(self.size)?;
        self.drain(0)?;
        Ok(self.content)
    }
}
