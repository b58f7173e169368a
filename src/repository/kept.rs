//! Determines which parts of a disk must be read if the changed ranges are known, and which blobs of the parent cover the
//! rest. Must not read or store blobs.

use super::format::{ZeroLength, zero_id};
use super::{Error, Id};
use crate::model::Extent;

/// A part of a disk that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// This many zeros.
    Zeros(u64),
    /// A blob of the parent, with its length in bytes.
    Blob(Id, u64),
}

/// The ranges of a disk that the blobs of the parent do not cover any more. Does not contain the blobs, because a large disk
/// has millions of them and the caller has them.
#[derive(Debug)]
pub struct Kept {
    cut: Cut,
    /// Whole blobs that changed, ascending and disjoint.
    touched: Vec<Extent>,
    /// The first of `touched` that may still be needed.
    next: usize,
    /// Index and offset of the first blob that may still be needed.
    blob: (usize, u64),
}

/// How a disk is cut into blobs.
#[derive(Debug, Clone, Copy)]
struct Cut {
    unit: u64,
    size: u64,
    /// The blobs of zeros, with their lengths.
    zeros: [(Id, u64); 3],
}

impl Cut {
    fn new(unit: u64, size: u64) -> Cut {
        let lengths = [ZeroLength::Large.bytes() as u64, ZeroLength::Small.bytes() as u64, unit];
        Cut { unit, size, zeros: lengths.map(|length| (zero_id(length), length)) }
    }

    /// Length of a blob at this offset, and whether it is zeros.
    fn length(&self, id: Id, offset: u64) -> (u64, bool) {
        match self.zeros.iter().find(|(zeros, _)| *zeros == id) {
            Some((_, length)) => (*length, true),
            None => (self.unit.min(self.size - offset), false),
        }
    }
}

impl Kept {
    /// `ids` are the blobs of the parent, cut in units of this size. `is_stored` tells whether a blob with this length is
    /// in the repository; one that is not counts as changed. `None` if the blobs do not cover exactly `size` bytes.
    pub fn new(
        ids: &[Id],
        (unit, size): (u64, u64),
        changed: &[Extent],
        is_stored: &mut dyn FnMut(Id, u64) -> Result<bool, Error>,
    ) -> Result<Option<Kept>, Error> {
        let cut = Cut::new(unit, size);
        let (mut at, mut lost) = (0, Vec::new());
        for &id in ids {
            let (length, is_zeros) = cut.length(id, at);
            if length == 0 || length > size - at {
                return Ok(None);
            }
            if !is_zeros && !is_stored(id, length)? {
                lost.push(Extent { offset: at, length });
            }
            at += length;
        }
        if at != size {
            return Ok(None);
        }
        let mut all = [changed, &lost].concat();
        all.sort_unstable_by_key(|extent| extent.offset);
        Ok(Some(Kept { cut, touched: whole_units(&all, unit, size), next: 0, blob: (0, 0) }))
    }

    /// The parts of `extents` that must be read.
    pub fn to_read(&self, extents: &[Extent]) -> Vec<Extent> {
        let (mut found, mut touched) = (Vec::new(), self.touched.iter().peekable());
        for extent in extents {
            while let Some(range) = touched.peek() {
                let (start, end) = (range.offset.max(extent.offset), range.end().min(extent.end()));
                if start < end {
                    found.push(Extent { offset: start, length: end - start });
                }
                if range.end() > extent.end() {
                    break;
                }
                touched.next();
            }
        }
        found
    }

    /// The pieces from `start` to `end`, where nothing was read: zeros where the disk changed, otherwise the contents of
    /// the parent, whose blobs are `ids`. Later calls must continue after `end`.
    pub fn pieces(&mut self, ids: &[Id], start: u64, end: u64, emit: &mut dyn FnMut(Unread)) {
        let mut at = start;
        while at < end {
            while self.touched.get(self.next).is_some_and(|range| range.end() <= at) {
                self.next += 1;
            }
            let range = self.touched.get(self.next).copied();
            let until = match range {
                Some(range) if range.offset <= at => {
                    let until = range.end().min(end);
                    emit(Unread::Zeros(until - at));
                    at = until;
                    continue;
                }
                Some(range) => range.offset.min(end),
                None => end,
            };
            self.parent(ids, at, until, emit);
            at = until;
        }
    }

    /// The pieces of the parent from `start` to `end`. A boundary can be inside zeros, never inside another blob.
    fn parent(&mut self, ids: &[Id], start: u64, end: u64, emit: &mut dyn FnMut(Unread)) {
        while let Some(&id) = ids.get(self.blob.0) {
            let offset = self.blob.1;
            let (length, is_zeros) = self.cut.length(id, offset);
            if offset >= end {
                break;
            }
            if offset + length > start {
                emit(match is_zeros {
                    true => Unread::Zeros((offset + length).min(end) - offset.max(start)),
                    false => Unread::Blob(id, length),
                });
                if offset + length > end {
                    break;
                }
            }
            self.blob = (self.blob.0 + 1, offset + length);
        }
    }
}

/// The units that these ascending ranges touch, merged and cut at the end of the disk.
fn whole_units(ranges: &[Extent], unit: u64, size: u64) -> Vec<Extent> {
    let mut whole: Vec<Extent> = Vec::new();
    for range in ranges.iter().filter(|range| range.length > 0 && range.offset < size) {
        let start = range.offset - range.offset % unit;
        let end = range.end().next_multiple_of(unit).min(size);
        match whole.last_mut() {
            Some(last) if last.end() >= start => last.length = last.length.max(end - last.offset),
            _ => whole.push(Extent { offset: start, length: end - start }),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 64 << 10;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    fn blob(number: u8) -> Id {
        Id::of(&[number])
    }

    /// Three blobs, 8 MiB of zeros, a blob, and a short one at the end.
    fn ids() -> [Id; 6] {
        [blob(0), blob(1), blob(2), zero_id(8 << 20), blob(3), blob(4)]
    }

    fn kept(changed: &[Extent], lost: Id) -> Kept {
        let size = 4 * UNIT + (8 << 20) + 512;
        Kept::new(&ids(), (UNIT, size), changed, &mut |id, _| Ok(id != lost)).unwrap().unwrap()
    }

    #[test]
    fn only_changed_units_are_read_and_the_rest_comes_from_the_parent() {
        let zeros = 3 * UNIT;
        let mut kept = kept(&[extent(UNIT + 5, 10), extent(zeros + UNIT, 1), extent(zeros + UNIT + 9, UNIT)], blob(9));
        let end = 4 * UNIT + (8 << 20) + 512;
        let all = [extent(0, 3 * UNIT), extent(zeros + 2 * UNIT, 7), extent(end - 512, 512)];
        assert_eq!(kept.to_read(&all), [extent(UNIT, UNIT), extent(zeros + 2 * UNIT, 7)]);
        let mut found = Vec::new();
        kept.pieces(&ids(), 0, UNIT, &mut |piece| found.push(piece));
        // The second unit was read.
        kept.pieces(&ids(), 2 * UNIT, zeros + 2 * UNIT, &mut |piece| found.push(piece));
        kept.pieces(&ids(), zeros + 3 * UNIT, end, &mut |piece| found.push(piece));
        assert_eq!(
            found,
            [
                Unread::Blob(blob(0), UNIT),
                Unread::Blob(blob(2), UNIT),
                Unread::Zeros(UNIT),
                Unread::Zeros(UNIT),
                Unread::Zeros((8 << 20) - 3 * UNIT),
                Unread::Blob(blob(3), UNIT),
                Unread::Blob(blob(4), 512)
            ]
        );
    }

    #[test]
    fn lost_blob_is_read_again() {
        let kept = kept(&[], blob(2));
        assert_eq!(kept.to_read(&[extent(0, 10 * UNIT)]), [extent(2 * UNIT, UNIT)]);
    }

    #[test]
    fn blobs_that_do_not_fit_the_disk_are_not_used() {
        let mut is_stored = |_, _| Ok(true);
        let mut fits = |ids: &[Id], size| Kept::new(ids, (UNIT, size), &[], &mut is_stored).unwrap().is_some();
        assert!(fits(&[blob(0)], UNIT) && fits(&[blob(0)], 5) && fits(&[], 0));
        assert!(!fits(&[blob(0)], UNIT + 1) && !fits(&[blob(0), blob(1)], UNIT) && !fits(&[], 1));
    }
}
