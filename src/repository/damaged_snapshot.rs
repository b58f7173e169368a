//! Finds what is left of a damaged restore point: the files of all directories that can be read, and which ranges of each
//! are lost. Must not guess where a byte belongs.
//!
//! The length of a blob is in the index. If a blob is not even there, all blobs of the file that are not zeros usually have
//! one length; without certainty, everything between the first and the last such blob is lost.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::content::blob_size;
use super::fetch::Fetcher;
use super::format::{ZeroLength, zero_id};
use super::snapshot_reader::SnapshotReader;
use super::stream::{BlobStream, Piece};
use super::walk::{Files, walk_damaged};
use super::{BlobKind, Catalog, Error, Id, Repository, Sink, Snapshot};
use crate::model::Extent;
use crate::sys::signals::Cancel;

/// What is left of a restore point.
pub struct DamagedSnapshot {
    fetcher: Fetcher,
    cancel: Cancel,
    files: Files,
    lost: HashSet<Id>,
    /// All damage, in no particular order.
    pub damages: Vec<Error>,
}

/// What is left of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// Length in bytes, including lost ones.
    pub length: u64,
    /// Lost ranges: ascending, not adjacent.
    pub lost: Vec<Extent>,
    pieces: Vec<Piece>,
}

impl DamagedSnapshot {
    /// Reads and checks every blob of a restore point. `progress` receives the number of stored bytes that were read since
    /// its last call.
    ///
    /// # Errors
    /// The repository cannot be read, or nothing of the point is left. Other damage is in the result.
    pub fn find(
        repository: &Repository,
        catalog: &Arc<Catalog>,
        (id, snapshot): (Id, &Snapshot),
        cancel: &Cancel,
        progress: &mut dyn FnMut(u64),
    ) -> Result<DamagedSnapshot, Error> {
        let fetcher = Fetcher::new(repository, catalog);
        let mut damages = Vec::new();
        let files = walk_damaged(&fetcher, id, snapshot, &mut damages)?;
        let reader = SnapshotReader::of(fetcher, id, files, cancel);
        let (found, lost) = reader.check_all(progress);
        damages.extend(found);
        if let Some(other) = damages.iter().position(|error| !error.is_damage()) {
            return Err(damages.swap_remove(other));
        }
        let SnapshotReader { fetcher, cancel, files, .. } = reader;
        Ok(DamagedSnapshot { fetcher, cancel, files, lost, damages })
    }

    /// The names of the files, in order. No component of a name leaves its directory.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.files.keys().map(String::as_str)
    }

    /// What is left of a file; `None` if there is none.
    pub fn file(&self, name: &str) -> Result<Option<DamagedFile>, Error> {
        let Some(node) = self.files.files.get(name) else { return Ok(None) };
        let ids: Vec<Id> = node.content.iter().flatten().copied().collect();
        let mut lengths = BTreeMap::new();
        for id in &ids {
            if !lengths.contains_key(id) {
                let known = match self.fetcher.locate(BlobKind::Data, *id) {
                    Ok((_, entry)) => Some(entry.raw_length()),
                    Err(error) if error.is_damage() => None,
                    Err(error) => return Err(error),
                };
                lengths.insert(*id, known);
            }
        }
        let blobs: Vec<_> = ids.iter().map(|id| (*id, lengths[id])).collect();
        Ok(Some(place(node.size, &blobs, &self.lost)))
    }

    /// Passes the data of a file that is left to `sink`, in ascending order.
    pub fn read<E: From<Error>>(&self, file: &DamagedFile, sink: &mut Sink<'_, E>) -> Result<(), E> {
        BlobStream::new(&self.fetcher, &self.cancel)?.copy(file.pieces.iter().copied(), sink)
    }
}

/// Places the blobs of a file of this size. The length of a blob is unknown if the index does not contain it.
fn place(size: u64, blobs: &[(Id, Option<u32>)], lost: &HashSet<Id>) -> DamagedFile {
    let zero = |length: u64| (zero_id(length), length);
    let mut zeros = vec![zero(ZeroLength::Large.bytes() as u64), zero(ZeroLength::Small.bytes() as u64)];
    let data = blobs.iter().filter(|(id, _)| !zeros.iter().any(|(zero, _)| zero == id));
    let unit = data.filter_map(|(_, length)| *length).max();
    let unit = unit.map_or_else(|| blob_size(size, None).unwrap_or_default(), u64::from);
    zeros.push(zero(unit));
    let known: Vec<Option<(u64, bool)>> = blobs
        .iter()
        .map(|(id, length)| match zeros.iter().find(|(zero, _)| zero == id) {
            Some((_, length)) => Some((*length, true)),
            None => length.map(|length| (u64::from(length), false)),
        })
        .collect();
    let sum = |blobs: &[Option<(u64, bool)>]| blobs.iter().flatten().map(|(length, _)| length).sum::<u64>();
    let unknown = known.iter().filter(|known| known.is_none()).count() as u64;
    let left = size.saturating_sub(sum(&known));
    // The last blob of a file may be shorter.
    let ends_unknown = known.last() == Some(&None);
    let is_certain = match unknown {
        0 => sum(&known) == size,
        1 => left > 0,
        _ if ends_unknown => left > (unknown - 1) * unit && left <= unknown * unit,
        _ => left == unknown * unit,
    };
    let mut file = DamagedFile { length: size, lost: Vec::new(), pieces: Vec::new() };
    if is_certain {
        let mut rest = left;
        file.add(
            0,
            blobs.iter().zip(&known).map(|((id, _), known)| {
                let known = known.unwrap_or_else(|| {
                    let length = if unknown == 1 { left } else { rest.min(unit) };
                    rest -= length;
                    (length, false)
                });
                (*id, known)
            }),
            lost,
        );
        return file;
    }
    let first = known.iter().position(Option::is_none).unwrap_or(known.len());
    let behind = known.iter().rposition(Option::is_none).map_or(known.len(), |last| last + 1);
    let tail = sum(&known[behind..]);
    let certain = |range: std::ops::Range<usize>| {
        blobs[range.clone()].iter().zip(&known[range]).filter_map(|((id, _), known)| Some((*id, (*known)?)))
    };
    let end = file.add(0, certain(0..first), lost);
    match size.checked_sub(tail).filter(|start| *start >= end && behind > first) {
        Some(start) => {
            file.lose(end, start - end);
            file.add(start, certain(behind..known.len()), lost);
        }
        // The lengths contradict the size of the file.
        None => {
            file.pieces.clear();
            file.lost.clear();
            file.lose(0, size);
        }
    }
    file
}

impl DamagedFile {
    /// Appends blobs with their lengths, and whether they are zeros; returns the end of the last one.
    fn add(&mut self, mut at: u64, blobs: impl Iterator<Item = (Id, (u64, bool))>, lost: &HashSet<Id>) -> u64 {
        for (id, (length, is_zero)) in blobs {
            match u32::try_from(length) {
                _ if is_zero => {}
                Ok(length) if !lost.contains(&id) => self.pieces.push(Piece { offset: at, length, id }),
                _ => self.lose(at, length),
            }
            at += length;
        }
        at
    }

    fn lose(&mut self, offset: u64, length: u64) {
        match self.lost.last_mut() {
            Some(last) if last.end() == offset => last.length += length,
            _ if length == 0 => {}
            _ => self.lost.push(Extent { offset, length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 64 << 10;

    fn id(n: u32) -> Id {
        Id::of(&n.to_le_bytes())
    }

    /// Places blobs with these lengths in units; 0: not in the index. Returns the offsets of the pieces and the lost ranges,
    /// in units.
    fn placed(size: u64, lengths: &[u32], damaged: &[u32]) -> (Vec<u64>, Vec<(u64, u64)>) {
        let unit = UNIT as u32;
        let known = |length: u32| (length > 0).then_some(length * unit);
        let blobs: Vec<_> = lengths.iter().zip(0..).map(|(length, n)| (id(n), known(*length))).collect();
        let mut lost: HashSet<Id> = damaged.iter().map(|n| id(*n)).collect();
        lost.extend(blobs.iter().filter(|(_, length)| length.is_none()).map(|(id, _)| *id));
        let file = place(size * UNIT, &blobs, &lost);
        let pieces = file.pieces.iter().map(|piece| piece.offset / UNIT).collect();
        (pieces, file.lost.iter().map(|lost| (lost.offset / UNIT, lost.length / UNIT)).collect())
    }

    #[test]
    fn blobs_are_placed_only_where_they_certainly_belong() {
        assert_eq!(placed(3, &[1, 1, 1], &[]), (vec![0, 1, 2], vec![]));
        assert_eq!(placed(4, &[1, 1, 1, 1], &[1, 2]), (vec![0, 3], vec![(1, 2)]));
        // One or several blobs of the usual length are missing from the index.
        assert_eq!(placed(4, &[1, 0, 1, 1], &[]), (vec![0, 2, 3], vec![(1, 1)]));
        assert_eq!(placed(5, &[1, 0, 1, 0, 1], &[]), (vec![0, 2, 4], vec![(1, 1), (3, 1)]));
        assert_eq!(placed(3, &[1, 0, 0], &[]), (vec![0], vec![(1, 2)]));
        // Of another length, in one place or in several.
        assert_eq!(placed(9, &[1, 0, 1], &[]), (vec![0, 8], vec![(1, 7)]));
        assert_eq!(placed(9, &[1, 0, 1, 0, 1], &[]), (vec![0, 8], vec![(1, 7)]));
        // Lengths that contradict the size.
        assert_eq!(placed(1, &[1, 1], &[]), (vec![], vec![(0, 1)]));
        assert_eq!(placed(2, &[0, 0], &[]), (vec![], vec![(0, 2)]));
    }

    #[test]
    fn holes_are_known_without_their_blobs() {
        let hole = zero_id(8 << 20);
        let blobs = [(id(1), Some(65536)), (hole, None), (id(2), None)];
        let file = place((8 << 20) + 2 * UNIT, &blobs, &HashSet::from([hole, id(2)]));
        let lost = [Extent { offset: (8 << 20) + UNIT, length: UNIT }];
        assert_eq!((file.pieces.len(), &file.lost[..]), (1, &lost[..]));
    }
}
