//! Adds a disk to a restore point: cuts what is read into blobs, and takes the rest from the parent if the changed ranges
//! are known. Must not read a disk itself.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::blobs::{Prepared, Preparing};
use super::content::{Content, blob_size};
use super::format::zero_id;
use super::kept::{Kept, Unread};
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
    /// The ranges that may differ from the same disk of the parent, ascending; `None` if unknown. Everything is read then,
    /// and also if the parent does not have the disk in this size.
    pub changed: Option<Vec<Extent>>,
}

/// What adding a disk cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Whether only the changed ranges were read.
    pub only_changed: bool,
    /// Bytes of new blobs, before compression.
    pub new_bytes: u64,
    /// Bytes of new blobs, as stored.
    pub stored_bytes: u64,
}

impl SnapshotWriter {
    /// Reads a disk and adds it. `read` receives the extents to read, and must pass their bytes to the sink in order.
    pub fn disk<E: From<Error>>(&mut self, name: &str, disk: &Disk, read: &mut ReadDisk<'_, E>) -> Result<Added, E> {
        let unit = self.unit(name, disk.size)?;
        let before = self.blobs.stats();
        let kept = match &disk.changed {
            Some(changed) => self.kept(name, (unit, disk.size), changed)?,
            None => None,
        };
        let only_changed = kept.is_some();
        let extents =
            kept.as_ref().map_or(Cow::Borrowed(&disk.extents), |kept| Cow::Owned(kept.to_read(&disk.extents)));
        let mut cutter = Cutter {
            name,
            unit,
            size: disk.size,
            blob: Vec::new(),
            at: 0,
            writer: &mut *self,
            queue: VecDeque::new(),
            content: Content::default(),
            kept,
        };
        let mut ended = 0;
        read(&extents, &mut |offset, bytes| {
            ended = cutter.take(offset, bytes)?;
            Ok(())
        })?;
        let expected = extents.last().map_or(0, Extent::end);
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
        self.insert(name, disk.size, ids)?;
        let after = self.blobs.stats();
        let new_bytes = after.raw_bytes - before.raw_bytes;
        Ok(Added { only_changed, new_bytes, stored_bytes: after.stored_bytes - before.stored_bytes })
    }

    /// What the parent knows of a disk; `None` if it does not have the disk in this size.
    fn kept(&self, name: &str, (unit, size): (u64, u64), changed: &[Extent]) -> Result<Option<Kept>, Error> {
        let before = self.parent.as_ref().and_then(|parent| parent.files.files.get(name));
        if before.is_none_or(|before| before.size != size) {
            return Ok(None);
        }
        Kept::new(self.blobs_before(name), (unit, size), changed, &mut |id, length| {
            let found = self.fetcher.find(BlobKind::Data, id)?;
            Ok(found.is_some_and(|(_, entry)| u64::from(entry.raw_length()) == length))
        })
    }

    /// The blobs of a file in the parent.
    fn blobs_before(&self, name: &str) -> &[Id] {
        let before = self.parent.as_ref().and_then(|parent| parent.files.files.get(name));
        before.and_then(|before| before.content.as_deref()).unwrap_or_default()
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
        let usual = blob_size(size, self.blob_size).ok_or_else(too_large)?;
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
    name: &'a str,
    unit: u64,
    size: u64,
    /// The blob that is being filled; it starts at [`Cutter::at`].
    blob: Vec<u8>,
    at: u64,
    writer: &'a mut SnapshotWriter,
    queue: VecDeque<Slot>,
    content: Content,
    /// What is known of the ranges that are not read; without it, they are zeros.
    kept: Option<Kept>,
}

/// A part of the disk, in order.
enum Slot {
    /// A range that is not read: its start and end.
    Gap(u64, u64),
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

    /// Adds the range up to `start`, which is not read.
    fn skip_to(&mut self, start: u64) -> Result<(), Error> {
        let from = std::mem::replace(&mut self.at, start);
        if from < start { self.push(Slot::Gap(from, start)) } else { Ok(()) }
    }

    fn push(&mut self, slot: Slot) -> Result<(), Error> {
        self.queue.push_back(slot);
        self.drain(self.writer.blobs.window(self.unit))
    }

    /// Stores parts of the queue until only `left` are in it.
    fn drain(&mut self, left: usize) -> Result<(), Error> {
        while self.queue.len() > left {
            match self.queue.pop_front() {
                Some(Slot::Gap(start, end)) => self.unread(start, end),
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

    fn unread(&mut self, start: u64, end: u64) {
        let (unit, content) = (self.unit, &mut self.content);
        match &mut self.kept {
            Some(kept) => kept.pieces(self.writer.blobs_before(self.name), start, end, &mut |piece| match piece {
                Unread::Zeros(length) => content.push_zeros(length),
                Unread::Blob(id, length) => content.push(id, length, unit),
            }),
            None => content.push_zeros(end - start),
        }
    }

    fn finish(mut self) -> Result<Content, Error> {
        self.flush()?;
        self.skip_to(self.size)?;
        self.drain(0)?;
        Ok(self.content)
    }
}
